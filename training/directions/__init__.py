"""Semantic directions in code space, from labelled pictures and without labels."""
