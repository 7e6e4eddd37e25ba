"""State dicts of other projects: found within what a file wraps around them, and translated by rules."""
