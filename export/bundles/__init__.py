"""Bundles in a model repository: written from a run folder, verified, changed."""
