"""The integer grids of weights and activations, and what is rounded to them."""
