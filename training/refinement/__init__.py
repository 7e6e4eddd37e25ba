"""Domain-regularised optimisation of a code: objective, optimisers, the module that is exported, and a plain loop."""
