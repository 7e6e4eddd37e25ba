"""Figures of quality: errors, distances, identity, the domain score, and the comparison of methods."""
