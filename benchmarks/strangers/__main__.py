"""Whether strangers' models are understood.

    python -m benchmarks.strangers [NAME]...

Each is loaded, saved and loaded again, fed generated inputs, run by both executors, and goes through `lwgraph optimize`
without data. A line of the result that says "error" is a bug in lwgraph.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.strangers import STRANGERS
from lwgraph import ir, registry
from lwgraph.calibrate.generate import generate
from lwgraph.errors import LwgraphError
from lwgraph.measure import compare_runs
from lwgraph.rewrite.base import Contract

SAMPLES, GIGABYTES = 2, 8
CALL = "from lwgraph.cli import main; main()"


def round_trip(name: str, model: ir.Model) -> str:
    """Save, load, and compare byte for byte."""
    with tempfile.TemporaryDirectory() as scratch:
        ir.save(model, Path(scratch) / "again.onnx")
        again = ir.load(Path(scratch) / "again.onnx")
        return "same" if ir.fingerprint(again) == ir.fingerprint(model) else "error: changed by saving and loading"


def executors_agree(name: str, model: ir.Model) -> str:
    """Whether the reference executor computes what ONNX Runtime computes, its graph optimizations off."""
    feeds = generate(model, SAMPLES)
    runs = (registry.executor("reference"), registry.executor("ort", optimize=False))
    compared = compare_runs(*(executor.prepare(model) for executor in runs), feeds, Contract.ROUNDING)
    return "agree" if compared.ok else f"error: {compared}"


def optimized(name: str, model: ir.Model) -> str:
    """What the command line makes of it without data, checked by both executors; never larger."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.onnx"
        command = [sys.executable, "-c", CALL, "optimize", str(STRANGERS[name].path()), "-o", str(out), "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return f"error: ended with {done.returncode}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        after = ir.load(out)
        size = out.stat().st_size / STRANGERS[name].path().stat().st_size
        feeds = generate(model, SAMPLES, seed=1)
        for executor in (registry.executor("reference"), registry.executor("ort")):
            runs = executor.prepare(model), executor.prepare(after)
            compared = compare_runs(*runs, feeds, Contract.APPROXIMATE)
            if not compared.ok:
                return f"error: {executor.name}: {compared}"
        nodes = " to ".join(str(len(list(m.graph))) for m in (model, after))
        return f"{'' if size <= 1 else 'error: larger, '}{nodes} nodes, size {size:.3f}"


CHECKS: dict[str, Callable[[str, ir.Model], str]] = {
    "round trip": round_trip,
    "executors": executors_agree,
    "optimize": optimized,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(STRANGERS)), metavar="[NAME]...")
def main(names: tuple[str, ...]) -> None:
    """Run the checks on all strangers, or the named ones; exit 1 when one finds a bug."""
    limit = GIGABYTES << 30  # a check that needs more is a bug, too, and must not take the machine with it
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    wrong = 0
    for name in names or sorted(STRANGERS):
        file = STRANGERS[name].path()
        click.echo(f"{name} ({file.stat().st_size / 1e6:.1f} MB)")
        for title, check in CHECKS.items():
            started = time.perf_counter()
            try:
                result = check(name, ir.load(file))
            except LwgraphError as error:
                result = f"error: {error}"
            except Exception as crash:
                result = f"error: crashed with {type(crash).__name__}: {crash}"
            wrong += result.startswith("error")
            click.echo(f"  {title:12} {result}  ({time.perf_counter() - started:.1f} s)")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
