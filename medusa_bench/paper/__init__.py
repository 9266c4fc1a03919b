"""arXiv 2401.10774 beside ours: tables, figures, readings, claims."""
