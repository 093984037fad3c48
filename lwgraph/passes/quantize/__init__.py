"""Integers instead of floats: where to put them, with which grids, and what makes them lose less."""
