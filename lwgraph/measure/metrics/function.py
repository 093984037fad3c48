"""A function of the user's as a metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lwgraph.arrays import Floats, Index
from lwgraph.errors import DataError, LwgraphError
from lwgraph.measure.metrics.base import Metric, Part
from lwgraph.measure.remembering import remembering
from lwgraph.measure.score import Score, mean_score

if TYPE_CHECKING:
    from lwgraph.executor import Run


class FunctionMetric(Metric):
    """The user's function(run) -> float, or one value for each of its samples, of which the mean counts.

    Of a function of another kind nothing is known but a number, unless it takes `samples=` (positions, which may come
    several times) and tells how many it has as its attribute `count`: it is then called for resampled sets, with the
    outputs of the model remembered.
    """

    unit = ""

    def __init__(self, function: Callable[..., Any], name: str, part: Part | None = None) -> None:
        self._function, self.name, self._part = function, name, part

    def __call__(self, run: Run) -> Score:
        """Call the function; any exception becomes a one-line error."""
        count = getattr(self._function, "count", None)
        if isinstance(count, int) and count > 0:
            counted, remembered = self._counted(count), remembering(run, math.inf)

            def subset(at: Index) -> float:
                return float(self._value(remembered, samples=counted[at]))

            everything = self.left_out == 0
            number = float(self._value(remembered)) if everything else subset(np.arange(len(counted)))
            return Score(number, count=len(counted), subset=subset)
        value = self._value(run)
        return mean_score(value[self._counted(len(value))]) if value.ndim else Score(float(value))

    def _counted(self, count: int) -> Index:
        """The positions that count, of so many."""
        counted = np.arange(count) if self._part is None else self._part(count)
        self.left_out = count - len(counted)
        return counted

    def _value(self, run: Run, **samples: Any) -> Floats:
        """The number, of no dimension, or one for each sample."""
        try:
            found = self._function(run, **samples)
            many = isinstance(found, (np.ndarray, list, tuple)) and np.ndim(found) == 1 and len(found) > 1
            value: Floats = np.asarray(found if many else float(found), np.float64)
        except LwgraphError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())
            raise DataError(f"metric '{self.name}' raised {type(error).__name__}: {text}") from error
        if np.isnan(value).any():
            raise DataError(f"metric '{self.name}' returned NaN")
        return value


__all__ = ["FunctionMetric"]
