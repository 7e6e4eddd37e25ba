"""What training leaves on disk: numbered run folders, checkpoints in them, and how both are read again."""
