"""Whether plans that lose in the race are the right ones to lose: with racing, and with every plan judged in full.

Both runs of a seed share prices and models, but no outcome; the two results are timed in turns. Rows are kept, with the
build: a second call goes on where the first was stopped.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import judge, run, tables, whole, zoo
from benchmarks.zoo import cache

CASES = ("fmnist_resnet14", "orinet", "ddddocr_common")
SEEDS, SAMPLES = 10, 3000
WITHIN = 0.03  # of the speed of the plan that is chosen with full judging
# Every candidate sees all samples, whatever it lost on the first of them.
FULLY = (
    "from lwgraph.optimizer import judge, racing; "
    "judge.Judge.raced = lambda self, model: racing.Raced(self.score(model)); "
)


def judged_by(name: str) -> list[str]:
    """Of `lwgraph optimize`, what judges: of many samples SAMPLES, so that ten seeds take minutes and not hours."""
    found = run.judged_by(name)
    if found[0] != "--eval-data":
        return found
    path = Path(found[1]).with_name(f"{name}-{SAMPLES}.npz")
    if not path.exists():
        with np.load(found[1]) as arrays, cache.replacing(path) as new:
            picks = np.random.default_rng(0).permutation(len(next(iter(arrays.values()))))[:SAMPLES]
            np.savez(new, **{key: array[np.sort(picks)] for key, array in arrays.items()})
    return ["--eval-data", str(path)]


def row(name: str, seed: int) -> dict[str, Any]:
    """One seed of one case."""
    case = zoo.case(name)
    options = ["--data", f"benchmarks.zoo.{name}:calibration", *judged_by(name), "--seed", str(seed)]
    options += ["--max-drop", f"{1 / case.points_per_unit:g}", *whole.EXHAUSTIVE]
    with tempfile.TemporaryDirectory() as scratch:
        folder, full, raced = Path(scratch), Path(scratch, "full.onnx"), Path(scratch, "raced.onnx")
        told = {}
        for out, before in ((full, FULLY), (raced, "")):
            for outcome in folder.glob("cache/outcomes-*"):
                shutil.rmtree(outcome)
            ran = run.optimize(case.model(), options, kept=folder, before=before)
            if ran.error:
                return {"commit": run.commit(), "error": ran.error}
            shutil.move(folder / "out.onnx", out)
            notes = [note for note in ran.kept["notes"] if "dropped before" in note]
            told[out.stem] = {"seconds": ran.seconds, "speed": ran.kept["speed"], "dropped": notes}
        ratio = judge.race(case, {"full": full, "raced": raced}).speedup("raced").ratio
    return {"commit": run.commit(), "error": "", "ratio": ratio, **told}


def _report() -> str:
    rows, header = [], ["case", "build", "seeds", "least", "mean", f"within {100 * WITHIN:g} %", "with plans dropped"]
    for name in CASES:
        kept = [f for seed in range(SEEDS) if (f := tables.kept("lost_races", f"{name}-{seed}")) and not f["error"]]
        if not kept:
            continue
        ratios, dropped = [f["ratio"] for f in kept], sum(bool(f["raced"]["dropped"]) for f in kept)
        good = sum(ratio >= 1 - WITHIN for ratio in ratios)
        figures = [f"{min(ratios):.3f}", f"{sum(ratios) / len(ratios):.3f}", f"{good} of {len(kept)}", str(dropped)]
        rows.append([name, kept[-1]["commit"], str(len(kept)), *figures])
    return tables.table(header, rows)


def main(names: Sequence[str], again: bool) -> bool:
    """Measure what is not kept, and write the table after each; whether all that is kept is within what is allowed."""
    for name in names or CASES:
        for seed in range(SEEDS):
            if not again and tables.kept("lost_races", f"{name}-{seed}") is not None:
                continue
            found = row(name, seed)
            tables.keep("lost_races", f"{name}-{seed}", found)
            tables.write("races", _report(), run.PAGE)
            click.echo(f"{name}, seed {seed}: {json.dumps(found)}")
    kept = [tables.kept("lost_races", f"{name}-{seed}") for name in names or CASES for seed in range(SEEDS)]
    return all(f is None or (not f["error"] and f["ratio"] >= 1 - WITHIN) for f in kept)
