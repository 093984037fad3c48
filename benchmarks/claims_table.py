"""Runs lwgraph on cases and lets `claims.py`, in a process of its own, measure again what the reports claim."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import tables, zoo
from benchmarks.optimize import CALL
from benchmarks.peers.run import write_feeds
from benchmarks.run import commit
from benchmarks.zoo import Case, cache
from lwgraph.optimizer.request import parse_seconds

SCRIPT = Path(__file__).resolve().with_name("claims.py")
PAGE = Path(__file__).resolve().parent / "PROMISE.md"
HELD = 1 / 3  # of the samples, which only claims.py sees
MOST = 2000  # labelled samples of each kind
LATE, GRACE = 2.0, 600.0  # times the budget, and seconds more, after which a process is given up


def samples(case: Case, folder: Path) -> tuple[list[str], Path]:
    """The options that give lwgraph its data, and the file or folder of what it does not see."""
    module = sys.modules[f"benchmarks.zoo.{case.name}"]
    feeds = case.calibration()
    for old in (folder / "data", folder / "rest"):
        shutil.rmtree(old, ignore_errors=True)
    if hasattr(module, "evaluation") and "labels" in (judged := module.evaluation()):
        order = np.random.default_rng(0).permutation(len(judged["labels"]))[: 2 * MOST]
        halves, rest = np.array_split(order, 2), folder / "rest.npz"
        np.savez(folder / "eval.npz", **{name: array[halves[0]] for name, array in judged.items()})
        np.savez(rest, **{name: array[halves[1]] for name, array in judged.items()})
        write_feeds(feeds, folder / "data")
        return ["--data", str(folder / "data"), "--eval-data", str(folder / "eval.npz")], rest
    held = max(1, round(HELD * len(feeds)))
    write_feeds(feeds[:-held], folder / "data")
    write_feeds(feeds[-held:], folder / "rest")
    return ["--data", str(folder / "data")], folder / "rest"


def claims(case: Case, budget: str) -> dict[str, Any]:
    """Optimize a case, and measure the claims again; an "error" where either ended badly, or in no reasonable time."""
    try:
        return _claims(case, budget)
    except subprocess.TimeoutExpired as late:
        return {"error": f"no answer after {late.timeout:.0f} s", "commit": commit()}


def _claims(case: Case, budget: str) -> dict[str, Any]:
    folder = cache.folder("results") / "claims" / case.name
    folder.mkdir(parents=True, exist_ok=True)
    out, source = folder / "out.onnx", case.model()
    options, rest = samples(case, folder)
    call = [sys.executable, "-c", CALL, "optimize", str(source), "-o", str(out), "--overwrite", "--quiet"]
    done = subprocess.run(
        [*call, *options, "--threads", "1", "--budget", budget, "--report", str(folder)],
        capture_output=True,
        text=True,
        timeout=LATE * parse_seconds(budget) + GRACE,
    )
    if done.returncode not in (0, 1, 3):
        return {"error": f"lwgraph ended with {done.returncode}: {done.stderr.strip()[-200:]}", "commit": commit()}
    checked = subprocess.run(
        [sys.executable, str(SCRIPT), str(source), str(out), str(folder / "report.json"), str(rest)],
        capture_output=True,
        text=True,
        timeout=GRACE,
    )
    if checked.returncode:
        return {"error": f"claims.py failed: {checked.stderr.strip()[-200:]}", "commit": commit()}
    return {"error": "", "claims": json.loads(checked.stdout), "commit": commit()}


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "no claim"
    told, measured = (_number(found[key]) for key in ("told", "found"))
    verdict = {True: "holds", False: "**does not hold**", None: "not to be said"}[found["holds"]]
    return f"{told} / {measured}: {verdict}"


def _number(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_number, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def table() -> str:
    """The table of what was kept."""
    columns = ("integer layers", "bytes of the result", "nodes of the result", "loss", "speed")
    rows = []
    for name in zoo.NAMES:
        if (found := tables.kept("claims", name)) is None:
            continue
        if found["error"]:
            cells = [found["error"].replace("|", "/"), *[""] * (len(columns) - 1)]
        else:
            cells = [_cell(found["claims"].get(column)) for column in columns]
        rows.append([name, *cells, found["commit"]])
    header = ["case (told / measured again)", *columns, "build"]
    return f"{tables.conditions()}\n\n" + tables.table(header, rows)


def main(cases: tuple[str, ...], budget: str, again: bool) -> bool:
    """Check the cases that are not kept and write the table after each; False when a claim does not hold.

    Args:
        cases: their names; none: all.
        budget: of each run of lwgraph optimize.
        again: whether to measure anew what is kept.
    """
    fine = True
    for name in cases or zoo.NAMES:
        result = None if again else tables.kept("claims", name)
        if result is None or result["error"]:
            result = claims(zoo.case(name), budget)
            tables.keep("claims", name, result)
            tables.write("claims", table(), PAGE)
        click.echo(f"{name}: {json.dumps(result)}")
        fine &= not result["error"] and all(each["holds"] is not False for each in result["claims"].values())
    return fine
