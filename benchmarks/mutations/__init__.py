"""Rewrites that are wrong on purpose, and whether the checks of a pipeline catch them."""
