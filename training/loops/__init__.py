"""The training runs: one loop around all (`fit`), and a trainer each for the GAN and for the encoder."""
