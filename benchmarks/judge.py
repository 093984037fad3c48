"""Scores and times models of a case, always the same way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.zoo import Case
from lwgraph import ir, registry
from lwgraph.measure import Latencies, paired_latency

THREADS = 1
SECONDS = 20.0
BUDGET, ROUNDING = 1.0, 1e-9  # points that may be lost, and what differences of scores err


def score(case: Case, model: Path) -> float:
    """The case's metric."""
    return case.metric(registry.executor("ort", threads=THREADS).prepare(ir.load(model)))


def race(case: Case, models: Mapping[str, Path], seconds: float = SECONDS) -> Latencies:
    """All models against the first, one sample, one thread, interleaved."""
    executor = registry.executor("ort", threads=THREADS)
    runs = {name: executor.prepare(ir.load(path)) for name, path in models.items()}
    return paired_latency(runs, [case.example()], threads=THREADS, seconds=seconds)


def within(points: float) -> bool:
    """Whether a loss is within BUDGET."""
    return points <= BUDGET + ROUNDING


def size(model: Path) -> int:
    """Bytes of the model's file."""
    return model.stat().st_size
