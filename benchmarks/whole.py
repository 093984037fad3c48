"""The whole run of a case: with data, at most one point lost, an exhaustive search, from an empty cache.

It takes minutes, and several tables need one: it is run once and kept, with its result, its cache and the build. What
judges is the case's own samples where it has them apart from its metric, and else its metric.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import run, tables
from benchmarks.zoo import Case, cache

KIND = "whole"
EXHAUSTIVE = ("--budget", "none")


def folder(name: str) -> Path:
    """Where the run of a case has its result and its cache."""
    return cache.folder("results") / KIND / name


def result(name: str) -> Path:
    """The model that the run of a case wrote."""
    return folder(name) / "out.onnx"


def options(case: Case, points: float = 1.0) -> list[str]:
    """Of `lwgraph optimize`: data, what judges, and the promise; none of the time."""
    drop = points / case.points_per_unit
    return ["--data", f"benchmarks.zoo.{case.name}:calibration", *run.judged_by(case.name), "--max-drop", f"{drop:g}"]


def of(case: Case, points: float = 1.0, extra: Sequence[str] = (), *, again: bool = False) -> dict[str, Any]:
    """What is kept of the run of a case, which is made where none with these options is.

    Args:
        case: the model, its data and its metric.
        points: that may be lost.
        extra: more options of `lwgraph optimize`.
        again: whether to make it anew.
    """
    asked = [*options(case, points), *EXHAUSTIVE, *extra]
    found = None if again else tables.kept(KIND, case.name)
    if found is None or found["asked"] != asked:
        there = folder(case.name)
        shutil.rmtree(there, ignore_errors=True)
        there.mkdir(parents=True)
        found = figures(run.optimize(case.model(), asked, kept=there), case.points_per_unit) | {"asked": asked}
        tables.keep(KIND, case.name, found)
    return found


def figures(ran: run.Run, points_per_unit: float) -> dict[str, Any]:
    """What tables have of one run: its seconds as such and in passes, its quality, and its stages."""
    unit, kept = ran.report.get("pass_seconds"), ran.kept
    return {
        **kept,
        "points": None if kept["lost"] is None else kept["lost"] * points_per_unit,
        "pass_seconds": unit,
        "passes": None if unit is None else sum(ran.report.get("seconds", {}).values()) / unit,
        "stages": ran.report.get("runs", []),
    }
