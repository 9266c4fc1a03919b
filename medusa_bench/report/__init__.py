"""Records to figures and pages; never measures."""
