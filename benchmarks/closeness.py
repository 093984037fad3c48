"""How close quantized models are to the float model on the evaluation inputs: a paired figure, without labels.

A score on few labels moves by luck; the outputs of the same inputs, compared one by one, do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.zoo.case import Case, Feeds, Run

CLASSES = ("top-1", "accuracy", "1-CER")  # units of metrics that look at the largest entry along the last axis


@dataclass
class Sums:
    """Over all samples: squared error, squared float outputs about their mean, agreeing decisions, decisions."""

    lost: float = 0.0
    power: float = 0.0
    agreed: int = 0
    decisions: int = 0

    @property
    def error(self) -> float:
        """||y - z||^2 / ||y - mean y||^2 over all outputs and samples; the mean is of each output and sample."""
        return self.lost / self.power if self.power else 0.0

    @property
    def agreement(self) -> float | None:
        """Share of the vectors along the last axis whose largest entry stayed; None: the case has no classes."""
        return self.agreed / self.decisions if self.decisions else None


def closeness(case: Case, reference: Run, runs: Mapping[str, Run]) -> dict[str, Sums]:
    """Run every model on the inputs of the case's metric."""
    sums = {name: Sums() for name in runs}

    def recorded(feed: Feeds) -> Mapping[str, npt.NDArray[Any]]:
        wanted = reference(feed)
        for name, run in runs.items():
            got, into = run(feed), sums[name]
            for key, y in wanted.items():
                if y.dtype.kind != "f":
                    continue
                z = got[key].astype(np.float64)
                into.lost += float(np.square(z - y).sum())
                into.power += float(np.square(y - y.mean(dtype=np.float64)).sum())
                if case.unit in CLASSES:
                    same = y.argmax(-1) == z.argmax(-1)
                    into.agreed, into.decisions = into.agreed + int(same.sum()), into.decisions + same.size
        return wanted

    case.metric(recorded)
    return sums
