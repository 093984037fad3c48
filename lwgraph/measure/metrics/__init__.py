"""Task metrics, higher is better: top-1 with labels, likeness to the original by the kind of output, or a function."""

from lwgraph.measure.metrics.answers import class_axis
from lwgraph.measure.metrics.base import HIGHEST_DB, Metric, Part, sample_rows
from lwgraph.measure.metrics.choose import METRICS, evidence, open_metric, suggest
from lwgraph.measure.metrics.function import FunctionMetric

__all__ = [
    "HIGHEST_DB",
    "METRICS",
    "FunctionMetric",
    "Metric",
    "Part",
    "class_axis",
    "evidence",
    "open_metric",
    "sample_rows",
    "suggest",
]
