"""Training of the whole pipeline: generator, discriminators, encoder and directions (PyTorch).

Networks, losses, data, loops and metrics live here; graphs are written by `export`, requests are served by `serving`.
"""
