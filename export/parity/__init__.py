"""Does a graph do what its network does? The checks that a bundle must pass, with their tolerances."""
