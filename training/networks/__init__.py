"""The networks (PyTorch modules): generator, encoders, discriminators, and pretrained features."""
