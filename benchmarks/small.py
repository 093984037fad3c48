"""The fewest bytes within one point: `--preset small` beside a run without it, and what other tools make small."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks import judge, quantize, run, tables, whole, zoo
from benchmarks.peers.run import PEERS, write_feeds
from benchmarks.peers.run import run as run_peer
from benchmarks.quantize_table import PAGE
from benchmarks.zoo import Case, cache
from lwgraph import ir
from lwgraph.errors import LwgraphError, UsageError
from lwgraph.measure.download import download_bytes

KIND = "small"
OURS, DEFAULT = "lwgraph, small", "lwgraph"
ASKED = {OURS: ("--preset", "small"), DEFAULT: ()}
OTHERS = {"int4 in blocks of 32": "onnx_int4", "ONNX Runtime, int8": "ort_minmax", "float16": "ort_float16"}
WAYS = (*ASKED, *OTHERS)
# Of each run of lwgraph; the others have BUDGET.
BUDGETS = dict.fromkeys(("ddddocr_common", "efficientnet_lite0", "ppocrv5_rec", "arbez_yolox_s"), "240s")
BUDGET = "120s"


def _folder(case: Case) -> Path:
    return cache.folder("results") / KIND / case.name


def made(case: Case, way: str) -> tuple[Path, dict[str, Any]]:
    """What one way makes of a case, and what is told of the making."""
    folder = _folder(case) / way.replace(", ", "_").replace(" ", "_")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if (asked := ASKED.get(way)) is not None:
        budget = BUDGETS.get(case.name, BUDGET)
        ran = run.optimize(case.model(), [*whole.options(case), "--budget", budget, *asked], kept=folder)
        shutil.rmtree(folder / "cache", ignore_errors=True)
        return folder / "out.onnx", whole.figures(ran, case.points_per_unit)
    feeds = _folder(case) / "feeds"
    if not feeds.exists():
        with cache.replacing(feeds) as new:
            write_feeds(case.calibration(), new)
    outcome = run_peer(PEERS[OTHERS[way]], quantize.simplified(case), feeds, folder / "out.onnx")
    return folder / "out.onnx", {"error": outcome.error, "seconds": outcome.seconds, "commit": run.commit()}


def row(case: Case, way: str) -> dict[str, Any]:
    """Bytes of what one way makes, as it is and by zstd, over the input's; and points lost, if it runs."""
    out, told = made(case, way)
    if told["error"]:
        return told
    before = judge.size(case.model())
    packed = download_bytes({"out": ir.load(out)})["out"]["zstd"]
    found = {**told, "bytes": judge.size(out), "size": judge.size(out) / before, "packed": packed / before}
    try:
        base = judge.score(case, case.model())
        return found | {"points": case.points(base, judge.score(case, out))}
    except LwgraphError as error:
        return found | {"points": None, "fails": str(error)[:200]}


def _report() -> str:
    rows = []
    for name in zoo.NAMES:
        for way in WAYS:
            found = tables.kept(KIND, f"{name}-{way}")
            if found is None:
                continue
            if found["error"]:
                rows.append([name, way, found["error"].replace("|", "/"), "", "", "", found["commit"]])
                continue
            lost = "does not run" if found["points"] is None else f"{found['points']:.2f}"
            figures = [f"{found['bytes']:,}", f"{found['size']:.3f}", f"{found['packed']:.3f}"]
            rows.append([name, way, lost, *figures, found["commit"]])
    head = ["case", "way", "points lost", "bytes", "size", "size, zstd", "build"]
    return f"{tables.conditions()}\n\n{tables.table(head, rows)}"


def main(names: Sequence[str], again: bool) -> None:
    """Measure what is not kept, and write the table after each row.

    Raises:
        UsageError: there is no zstd here.
    """
    try:
        import zstandard  # noqa: F401
    except ImportError:
        raise UsageError("this table needs zstd: pip install 'lwgraph[compress]'") from None
    for name in names or zoo.NAMES:
        for way in WAYS:
            key = f"{name}-{way}"
            if not again and tables.kept(KIND, key) is not None:
                continue
            found = row(zoo.case(name), way)
            tables.keep(KIND, key, found)
            tables.write(KIND, _report(), PAGE)
            shown = {each: found.get(each) for each in ("error", "bytes", "size", "packed", "points", "fails")}
            click.echo(f"{key}: {json.dumps(shown)}")
    tables.write(KIND, _report(), PAGE)
