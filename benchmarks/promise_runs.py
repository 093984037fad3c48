"""Whole runs of lwgraph on few and on many samples for judging, and what each lost on samples that it never saw."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import tables
from benchmarks.optimize import CALL
from benchmarks.run import commit
from benchmarks.zoo import cache, fashion
from lwgraph import demo, ir, registry
from lwgraph.arrays import Array, Floats
from lwgraph.measure.promise import BROKEN, KEPT, OPEN

PAGE = Path(__file__).resolve().parent / "PROMISE.md"
MAX_DROP = 0.01
MOST = 2000  # samples that a run may see; what is lost in truth is counted on all others
RUNS = ((32, False), (200, True), (MOST, True), (MOST, False))  # samples, and whether they have labels
EXPECTED = {32: (OPEN,), 200: (OPEN,), MOST: (KEPT, BROKEN)}
CODES = (0, 1, 3)  # of a run that wrote a result


def _classes(path: Path, images: Floats) -> Array:
    run = registry.executor("ort").prepare(ir.load(path))
    parts = np.array_split(images, max(1, len(images) // 100))
    return np.concatenate([next(iter(run({demo.INPUT: part}).values())).argmax(-1) for part in parts])


def measured(count: int, labelled: bool, budget: str) -> dict[str, Any]:
    """One run on so many samples for judging, and what it lost on the others."""
    images, labels = demo.normalize(fashion.images("t10k")), fashion.labels("t10k").astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    given, rest = order[:count], order[MOST:]
    folder = cache.folder("results") / "promise-runs" / f"{count}-{'labels' if labelled else 'none'}"
    folder.mkdir(parents=True, exist_ok=True)
    fitted = np.concatenate([feed[demo.INPUT] for feed in demo.calibration()[:8]])
    np.savez(folder / "data.npz", **{demo.INPUT: fitted})
    arrays = {demo.INPUT: images[given]} | ({"labels": labels[given]} if labelled else {})
    np.savez(folder / "eval.npz", **arrays)
    out = folder / "out.onnx"
    call = [sys.executable, "-c", CALL, "optimize", str(demo.MODEL), "-o", str(out), "--overwrite", "--json"]
    options = ["--data", folder / "data.npz", "--eval-data", folder / "eval.npz", "--max-drop", MAX_DROP]
    done = subprocess.run(
        [*call, *map(str, options), "--threads", "1", "--budget", budget], capture_output=True, text=True
    )
    if done.returncode not in CODES:
        raise click.ClickException(f"lwgraph ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    told = json.loads(done.stdout)
    before, after, truth = _classes(demo.MODEL, images[rest]), _classes(out, images[rest]), labels[rest]
    lost = float((before == truth).mean() - (after == truth).mean()) if labelled else float((before != after).mean())
    return {"code": done.returncode, "lost": lost, "score": told["score"], "commit": commit()}


def right(count: int, found: dict[str, Any]) -> bool:
    """Whether the verdict is one that so many samples allow, and holds on the others but for these samples' error."""
    score, error = found["score"], 2 * np.sqrt(max(found["lost"], 1e-3) / (10_000 - MOST))
    holds = {
        KEPT: found["lost"] <= MAX_DROP + error,
        BROKEN: found["lost"] >= MAX_DROP - error,
        OPEN: found["code"] == 3 and score["samples_needed"] is not None,
    }
    return score["verdict"] in EXPECTED[count] and holds[score["verdict"]] and found["lost"] <= score["bound"] + error


def main(budget: str) -> bool:
    """Do the runs and write the table; False where a verdict is wrong."""
    fine, rows = True, []
    for count, labelled in RUNS:
        found = measured(count, labelled, budget)
        fine &= right(count, found)
        score = found["score"]
        tables.keep("promise-runs", f"{count}-{labelled}", found)
        figures = [f"{100 * value:.2f}" for value in (score["estimate"], score["bound"], found["lost"])]
        needed = "" if score["samples_needed"] is None else f"{score['samples_needed']:,}"
        rows.append([f"{count:,}", "labels" if labelled else "none", score["verdict"], str(found["code"]), needed])
        rows[-1] += [*figures, "yes" if right(count, found) else "**no**", found["commit"]]
        click.echo("  ".join(rows[-1]))
    head = ["judged", "labels", "verdict", "exit code", "would do", "estimate", "bound", "lost on 8,000", "right"]
    tables.write("runs", f"{tables.conditions()}\n\n" + tables.table([*head, "build"], rows), PAGE)
    return fine


__all__ = ["main", "measured", "right"]
