"""How networks are trained: one loop for all (`fit`), and a trainer each for the GAN and for the encoder."""
