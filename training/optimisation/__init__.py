"""What training steps share: the batch, optimisers with their rates, discriminators in training, moving averages."""
