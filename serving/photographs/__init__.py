"""Pictures as bytes and arrays, faces on photographs, their alignment, areas, and results pasted back."""
