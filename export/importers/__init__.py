"""Foreign checkpoints: a file for each family that is recognised, and how its tensors become ours."""
