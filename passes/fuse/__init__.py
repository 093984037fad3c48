"""Rounding passes: neighbouring operators folded into one."""
