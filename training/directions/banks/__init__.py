"""Banks of directions that a regressor tells apart."""
