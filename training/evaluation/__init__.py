"""Methods of inversion side by side on held-out pictures: figures, tables and pictures."""
