"""`lwgraph optimize` on strangers' models without and with data, checked by a process that shares no code with it."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import tables
from benchmarks.optimize import CALL
from benchmarks.run import commit
from benchmarks.strangers import STRANGERS, Stranger
from benchmarks.zoo import cache

CHECK = Path(__file__).resolve().with_name("independent.py")
PAGE = Path(__file__).resolve().parents[1] / "STRANGERS.md"
CALIBRATION, FRESH = 64, 48  # samples
ROUNDING = 1e-3  # relative error of an output that exact and rounding rewrites may make
ALLOWED = 0.01  # of the loss, with two errors of its mean besides; of cosines twice that
SLOWER = 0.95  # slower is what is below that throughout, on a machine that does other work
WAYS = {"without data": [], "with data": ["--data"]}


def write(stranger: Stranger, folder: Path, part: str, count: int) -> Path:
    """A folder of feeds, one file each."""
    to = folder / part
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    rng = np.random.default_rng(("calib", "eval").index(part))
    for k, feed in enumerate(itertools.islice(stranger.samples(rng, part, stranger.path()), count)):
        np.savez(to / f"{k:03}.npz", **feed)
    return to


def one(name: str, way: str, budget: str) -> dict[str, Any]:
    """Optimize a model and check the result; "fault" says in words what is wrong, "" where nothing is."""
    stranger, folder = STRANGERS[name], cache.folder("results") / "strangers" / name
    fresh, out = write(stranger, folder, "eval", FRESH), folder / f"{way.replace(' ', '_')}.onnx"
    command = [sys.executable, "-c", CALL, "optimize", str(stranger.path()), "-o", str(out), "--overwrite", "--quiet"]
    command += ["--threads", "1", "--report", str(folder / way.replace(" ", "_"))]
    if WAYS[way]:
        command += ["--budget", budget, "--data", str(write(stranger, folder, "calib", CALIBRATION))]
    out.unlink(missing_ok=True)
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    found = {"code": done.returncode, "seconds": time.perf_counter() - start, "commit": commit()}
    said = done.stderr.strip().splitlines()
    found["said"] = said[-8:]
    if done.returncode:
        refused = done.returncode == 1 and len(said) == 1 and not out.exists()
        last = said[-1] if said else "nothing"
        return {**found, "fault": "" if refused else f"ended with {done.returncode}: {last}", "refused": last}
    checked = subprocess.run(
        [sys.executable, str(CHECK), str(stranger.path()), str(out), str(fresh), stranger.output],
        capture_output=True,
        text=True,
    )
    if checked.returncode:
        return {**found, "fault": f"the result cannot be run: {checked.stderr.strip()[-300:]}"}
    found |= json.loads(checked.stdout)
    return {**found, "fault": fault(found, way, stranger.output)}


def fault(found: dict[str, Any], way: str, kind: str) -> str:
    """In what the result is worse than the input."""
    if found["error"]:
        return str(found["error"])
    faults = []
    allowed = ALLOWED * (2 if kind == "embeddings" else 1) + 2 * found["loss_error"]
    if way == "with data" and found["loss"] > allowed:
        faults.append(f"loses {found['loss']:.3g}")
    if way == "without data":
        faults += [f"'{k}' differs by {v:.2g}" for k, v in found["outputs"].items() if v > ROUNDING]
    if found["bytes"][1] > found["bytes"][0]:
        faults.append(f"larger by {found['bytes'][1] - found['bytes'][0]} bytes")
    if found["speed"][1] < SLOWER:
        faults.append(f"{found['speed'][0]:.2f} to {found['speed'][1]:.2f} times as fast")
    return "; ".join(faults)


def _row(name: str, way: str, found: dict[str, Any]) -> list[str]:
    about = STRANGERS[name]
    row = [f"`{name}`, {about.package}", way, str(found["code"]), f"{found['seconds']:.0f}"]
    if "bytes" not in found:
        return [*row, "", "", "", "", found["fault"] or found["refused"], found["commit"]]
    before, after = found["bytes"]
    differs = max(found["outputs"].values())
    return [
        *row,
        f"{before / 1e6:.2f} to {after / 1e6:.2f}",
        "{:.2f} to {:.2f}".format(*found["speed"]),
        f"{differs:.1e}",
        f"{found['loss']:.4f} ({about.output})",
        found["fault"] or "no worse",
        found["commit"],
    ]


def table() -> str:
    """The table of what was kept."""
    rows = [
        _row(name, way, found)
        for name in STRANGERS
        for way in WAYS
        if (found := tables.kept("strangers", f"{name} {way}")) is not None
    ]
    header = ["model", "run", "exit", "s", "MB", "speed", "outputs differ", "loss", "verdict", "build"]
    return f"{tables.conditions()}\n\n" + tables.table(header, [[c.replace("|", "/") for c in row] for row in rows])


def main(names: tuple[str, ...], budget: str, again: bool) -> bool:
    """Run what is not kept and write the table; False when something is worse or ended badly."""
    fine = True
    for name in names or STRANGERS:
        for way in WAYS:
            found = None if again else tables.kept("strangers", f"{name} {way}")
            if found is None:
                found = one(name, way, budget)
                tables.keep("strangers", f"{name} {way}", found)
                tables.write("strangers", table(), PAGE)
            click.echo(f"{name} {way}: {found['fault'] or found.get('refused', 'no worse')}")
            fine &= not found["fault"]
    tables.write("strangers", table(), PAGE)
    return fine
