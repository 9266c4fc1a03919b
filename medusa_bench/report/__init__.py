"""Figures and pages from records. Never measures."""
