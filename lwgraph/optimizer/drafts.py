"""Structures as candidates without forms; what they are predicted to take follows from those that were looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from lwgraph import ir
from lwgraph.optimizer.bench import Bench
from lwgraph.plan.plan import Precision
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.structure import Structure

ORIGIN = "structure"
# Of the time of a network, what no structure saves: measured 0.46 and 0.30 in integers, where narrow layers fill no
# vector and what lies between layers weighs more (benchmarks/PLANNER.md).
FIXED, FIXED_IN_INTEGERS = 0.1, 0.35
NOISE, TRUST = 0.05, 0.2  # how far measurements, and what is assumed before any, are from what is so, about
LEAST = 1e-3  # of what the whole takes


@dataclass
class Line:
    """What is taken of a resource by the share of the layers' time that is left: fixed + slope * share.

    Attributes:
        fixed, slope: assumed before anything is measured; their sum is over 0.
    """

    fixed: float
    slope: float
    _seen: dict[float, float] = field(default_factory=dict)

    def at(self, share: float) -> float:
        """By least squares of relative errors over what was measured, with a ridge towards what was assumed, scaled to
        what was measured; over 0."""
        if share in self._seen:
            return self._seen[share]
        fixed, slope = self.fixed, self.slope
        if self._seen:
            left, amounts = np.array(list(self._seen)), np.array(list(self._seen.values()))
            scale = math.exp(float(np.log(amounts / (fixed + slope * left)).mean()))
            assumed = scale * np.array([fixed, slope])
            doubt = TRUST * float(assumed.sum())
            rows = np.concatenate([np.stack([1 / amounts, left / amounts], axis=1) / NOISE, np.eye(2) / doubt])
            wanted = np.concatenate([np.full(len(left), 1 / NOISE), assumed / doubt])
            fixed, slope = np.maximum(np.linalg.lstsq(rows, wanted, rcond=None)[0], 0.0)
        return float(max(fixed + slope * share, LEAST * (fixed + slope)))

    def learn(self, share: float, amount: float) -> None:
        """That so much is taken where this share is left."""
        if amount > 0:
            self._seen[share] = amount


class Drafts:
    """Structures of one network, each with its layers dense and in one precision.

    Args:
        bench: looks.
        precision: of all of them.
        target: that they are made for.
        milliseconds: predicted of the whole network in that precision.
        size: of the network in floats, bytes.
        macs: of one run.
    """

    def __init__(
        self, bench: Bench, precision: Precision, target: str, milliseconds: float, size: int, macs: int
    ) -> None:
        self.bench, self.precision, self.target, self.macs = bench, precision, target, macs
        fixed = FIXED_IN_INTEGERS if precision.passes else FIXED
        self._time = Line(fixed * milliseconds, (1 - fixed) * milliseconds)
        self._size = Line(0.0, float(size))

    def candidate(self, structure: Structure) -> Candidate:
        """What a structure is predicted to be, by what is known by now."""
        left = structure.share
        plan = replace(structure.plan, precision=self.precision, target=self.target)
        return Candidate(
            (),
            self._time.at(left),
            structure.loss,
            ORIGIN,
            plan=plan,
            bytes=round(self._size.at(left)),
            macs=round(self.macs * left),
            stated=True,
        )

    def look(self, structure: Structure) -> bool:
        """Whether a structure keeps the promise on the metric; what it takes is learnt from."""
        made = self.bench.made(self.candidate(structure))
        if made is None:
            return False
        self._size.learn(structure.share, ir.size(made.model))
        if made.candidate.measured_ms is not None:
            self._time.learn(structure.share, made.candidate.measured_ms)
        return bool(made.candidate.accepted)

    def taken(self, structure: Structure) -> float:
        """Of the objective, as measured where that is known."""
        return self.bench.amount(self.bench.known(self.candidate(structure)))

    def meets(self, structure: Structure) -> bool:
        """Whether the limits are kept, by what is known by now."""
        draft = self.candidate(structure)
        return self.bench.meets(replace(self.bench.known(draft), bytes=draft.bytes))


__all__ = ["ORIGIN", "Drafts", "Line"]
