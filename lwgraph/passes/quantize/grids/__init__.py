"""Integer grids of weights and activations, and rounding to them."""
