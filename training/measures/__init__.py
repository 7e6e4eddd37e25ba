"""Figures of quality: errors, distances between sets, the domain gap of codes and the domain score."""
