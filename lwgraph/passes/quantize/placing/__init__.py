"""Which nodes a target computes in integers, and what that saves."""
