"""Measures what integers do to a network, and decides which layers are worth it."""
