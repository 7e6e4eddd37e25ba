"""Ways between codes: the pictures of an interpolation, geodesics, and means by their lengths."""
