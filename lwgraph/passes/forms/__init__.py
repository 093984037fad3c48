"""Lightweight forms that stand in for a dense layer, fitted in closed form."""
