"""Everything about pixels: decoding and encoding, faces, alignment, areas of a picture, pasting into a photograph."""
