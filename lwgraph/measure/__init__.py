"""Tolerances, comparison of outputs, task metrics, paired latency."""
