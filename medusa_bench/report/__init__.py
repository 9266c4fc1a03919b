"""Figures and text from records. Takes what is in memory and returns it drawn; never measures."""
