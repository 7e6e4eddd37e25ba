"""Terms of the losses, each a function or module named for its term."""
