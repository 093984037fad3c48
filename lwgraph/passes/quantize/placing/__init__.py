"""Decides which nodes a target computes in integers, and measures what that saves."""
