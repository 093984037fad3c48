"""Tolerances, comparison of outputs, task metrics, paired latency."""

from lwgraph.measure.compare import Comparison, Difference, compare, compare_runs
from lwgraph.measure.diverge import first_divergence
from lwgraph.measure.latency import Latencies, Speedup, Timing, paired_latency
from lwgraph.measure.metrics import METRICS, Metric, open_metric, suggest
from lwgraph.measure.region import check_region
from lwgraph.measure.score import Score, drop
from lwgraph.measure.tolerances import Tolerance, tolerance

__all__ = [
    "METRICS",
    "Comparison",
    "Difference",
    "Latencies",
    "Metric",
    "Score",
    "Speedup",
    "Timing",
    "Tolerance",
    "check_region",
    "compare",
    "compare_runs",
    "drop",
    "first_divergence",
    "open_metric",
    "paired_latency",
    "suggest",
    "tolerance",
]
