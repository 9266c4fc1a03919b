"""`medusa-bench compare --generate`: methods compared by generating text with a real model."""
