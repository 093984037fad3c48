"""Exact passes: what is dead, doubled or does nothing."""
