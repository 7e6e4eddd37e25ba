"""What changes a trained generator afterwards: pivotal tuning to one person's pictures; a mapping fitted to codes."""
