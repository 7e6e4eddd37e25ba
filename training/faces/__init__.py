"""Faces on pictures, by frozen networks: where they are, where they lie when aligned, and whose they are."""
