"""Look at this machine: versions, card, kernels, the fast paths of a recipe, and what to do."""
