"""What was measured, predicted or reported: rows, folders, reading, published tables."""
