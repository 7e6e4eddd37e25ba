"""Bundles: run folder to model repository, their manifest, presets and alignment, and how they are verified."""
