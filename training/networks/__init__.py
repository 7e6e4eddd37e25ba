"""The networks (PyTorch modules): generator, encoder, discriminators, pretrained feature networks."""
