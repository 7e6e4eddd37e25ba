"""Training pictures, their attributes, and where faces lie on them."""
