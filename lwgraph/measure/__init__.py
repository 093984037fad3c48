"""Tolerances, comparison of outputs, task metrics, paired latency."""

from lwgraph.measure.compare import Comparison, Difference, compare, compare_runs
from lwgraph.measure.tolerances import Tolerance, tolerance

__all__ = ["Comparison", "Difference", "Tolerance", "compare", "compare_runs", "tolerance"]
