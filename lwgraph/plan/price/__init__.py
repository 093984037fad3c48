"""Prices of options: measured here or on another machine, cached, or counted as work."""
