"""Training of the whole pipeline: generator, discriminators, encoder and directions (PyTorch).

Graphs are written by `export`, requests are served by `serving`.
"""
