"""A layer and what can stand for it: what the author of a form imports."""
