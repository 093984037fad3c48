"""How long `lwgraph optimize` takes: in passes over the data, in seconds, beside plain quantization with ONNX Runtime.

Each case is optimized from an empty cache. Beside it stand the pass `quantize` alone and ONNX Runtime's
`quantize_static` (min-max, one scale per channel, after its pre-processing) on the same calibration samples, without
what starting a process takes, and one evaluation of what the latter gives. Rows are kept, with the build; a second call
goes on where the first was stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import judge, run, tables, zoo
from benchmarks.zoo import Case

PEER = Path(__file__).resolve().parent / "peers" / "quantize_ort.py"
OPTIONS = {"per_channel": True, "method": "MinMax"}
# Runs a script and prints the seconds that it took, once what it imports is there.
TIMED = """
import runpy, sys, time
import onnxruntime.quantization, onnxruntime.quantization.shape_inference
del sys.argv[0]
start = time.perf_counter()
runpy.run_path(sys.argv[0], run_name="__main__")
print(time.perf_counter() - start)
"""


def static(case: Case, folder: Path) -> dict[str, Any]:
    """Seconds of quantize_static and of one evaluation of its model, and the points that this lost."""
    feeds, out = folder / "feeds", folder / "static.onnx"
    feeds.mkdir()
    for number, feed in enumerate(case.calibration()):
        np.savez(feeds / f"{number:05}.npz", **feed)  # type: ignore[arg-type]
    command = [sys.executable, "-c", TIMED, str(PEER), str(case.model()), str(feeds), str(out), json.dumps(OPTIONS)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"static": None, "evaluation": None, "why": done.stderr.strip()[-200:]}
    base = judge.score(case, case.model())  # loads the data, too, which the timed evaluation need not
    started = time.perf_counter()
    found = judge.score(case, out)
    return {
        "static": float(done.stdout.split()[-1]),
        "evaluation": time.perf_counter() - started,
        "static_points": case.points(base, found),
        "static_speed": judge.race(case, {"input": case.model(), "static": out}).speedup("static").ratio,
    }


def row(name: str) -> dict[str, Any]:
    """All figures of one case."""
    case, module = zoo.case(name), f"benchmarks.zoo.{name}"
    data = ["--data", f"{module}:calibration"]
    promise = ["--metric", f"{module}:metric", "--max-drop", f"{1 / case.points_per_unit:g}"]
    searched = run.optimize(case.model(), [*data, *promise])
    plain = run.optimize(case.model(), [*data, "--metric", f"{module}:metric", "-p", "quantize"])
    unit, steps = searched.report.get("pass_seconds"), searched.report.get("seconds", {})
    with tempfile.TemporaryDirectory() as scratch:
        peer = static(case, Path(scratch))
    kept = searched.kept
    return {
        **{key: kept[key] for key in ("commit", "error", "lost", "speed", "busy", "failures")},
        "seconds": searched.seconds,
        "pass_seconds": unit,
        "passes": None if unit is None else sum(steps.values()) / unit,
        "stages": searched.report.get("runs", []),
        "points": None if kept["lost"] is None else kept["lost"] * case.points_per_unit,
        "plain": None if plain.error else sum(s["seconds"] for s in plain.report["passes"]),
        **peer,
    }


def _cell(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _report() -> str:
    header = ["case", "build", "one pass", "passes", "seconds", "points lost", "speed-up", "`-p quantize`"]
    header += ["quantize_static", "one evaluation", "its points lost", "its speed-up"]
    rows = []
    for name in zoo.NAMES:
        if (found := tables.kept("seconds", name)) is None:
            continue
        rows.append(
            [
                name,
                found["commit"],
                _cell(found["pass_seconds"], ".1f", " s"),
                found["error"].replace("|", "/") or _cell(found["passes"], ".1f"),
                _cell(found["seconds"], ".0f", " s"),
                _cell(found["points"], ".2f"),
                _cell(found["speed"], ".2f"),
                _cell(found["plain"], ".1f", " s"),
                _cell(found["static"], ".1f", " s"),
                _cell(found["evaluation"], ".1f", " s"),
                _cell(found.get("static_points"), ".2f"),
                _cell(found.get("static_speed"), ".2f"),
            ]
        )
    stages = ["case", "stage", "passes predicted", "passes", "seconds"]
    spent = [
        [name, s["name"], _cell(s["predicted"], ".1f"), _cell(s["passes"], ".1f"), _cell(s["seconds"], ".1f", " s")]
        for name in zoo.NAMES
        for s in (tables.kept("seconds", name) or {"stages": []})["stages"]
        if s["predicted"] is not None
    ]
    return f"{tables.conditions()}\n\n{tables.table(header, rows)}\n\n{tables.table(stages, spent)}"


def main(cases: Sequence[str], again: bool) -> None:
    """Measure the cases that are not kept, and write the table after each."""
    for name in cases or zoo.NAMES:
        if not again and tables.kept("seconds", name) is not None:
            continue
        found = row(name)
        tables.keep("seconds", name, found)
        tables.write("seconds", _report(), run.PAGE)
        click.echo(f"{name}: {json.dumps({key: value for key, value in found.items() if key != 'stages'})}")
    tables.write("seconds", _report(), run.PAGE)
