"""Studies: grids of configurations and training seeds, trained, scored and reported."""
