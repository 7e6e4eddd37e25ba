"""Semantic directions in code space, from labels and without."""
