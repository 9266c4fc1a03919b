"""Medusa heads: modules, files, training, accuracy."""
