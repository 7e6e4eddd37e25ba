"""Ways from one code to another: the pictures of an interpolation, and geodesics."""
