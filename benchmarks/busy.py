"""Whether `lwgraph bench` tells the truth on a busy machine: a ratio known from a quiet one, and twenty runs beside
processes that take all cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import tables
from benchmarks.optimize import CALL
from benchmarks.run import commit
from benchmarks.zoo import cache
from lwgraph import demo
from lwgraph.optimizer import optimize

PAGE = Path(__file__).resolve().parent / "PROMISE.md"
RUNS, SECONDS = 20, 6.0
QUIET_RUNS, QUIET_SECONDS = 3, 15.0
OFF = 1.5  # a headline may be off by less than this factor
SPIN = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(100000))"  # ends with its parent, too


def pair() -> tuple[Path, Path]:
    """The embedded network, and the same in integers."""
    path = cache.folder("results") / "busy" / "integers.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        x = np.random.default_rng(0).standard_normal((64, 1, 28, 28)).astype(np.float32)
        optimize(demo.MODEL, pipeline="default,quantize{keep=none}", data={"image": x}, max_drop=1.0).save(path)
    return demo.MODEL, path


def bench(models: tuple[Path, Path], seconds: float) -> dict[str, Any]:
    """What `lwgraph bench` says of the second model."""
    command = [sys.executable, "-c", CALL, "bench", *map(str, models), "--seconds", str(seconds), "--json"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    found: dict[str, Any] = told["models"][1]
    return found


@contextmanager
def busy() -> Iterator[None]:
    """Within: all cores have other work."""
    command = [sys.executable, "-c", SPIN, str(os.getpid())]
    others = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for other in others:
            other.terminate()
            other.wait()


def main() -> bool:
    """Measure both and write the table; False when a speed was told that is wrong. Takes about four minutes."""
    models = pair()
    quiet = [bench(models, QUIET_SECONDS) for _ in range(QUIET_RUNS)]
    settled = [each["speed"] for each in quiet if each["settled"]]
    if len(settled) < QUIET_RUNS or max(settled) > 1.05 * min(settled):
        raise click.ClickException(f"the machine is not quiet, so nothing can be compared with: {quiet}")
    truth, found = float(np.median(settled)), []
    with busy():
        for number in range(RUNS):
            found.append(bench(models, SECONDS))
            click.echo(f"{number + 1}: {json.dumps(found[-1])}")
    told = [each for each in found if each["settled"]]
    missed = [each for each in told if not each["interval"][0] <= truth <= each["interval"][1]]
    off = max((max(each["speed"] / truth, truth / each["speed"]) for each in told), default=1.0)
    header = ["quiet ratio", "runs", "not settled", "settled", "intervals that miss it", "worst headline", "build"]
    row = [
        f"{truth:.2f}",
        str(RUNS),
        str(RUNS - len(told)),
        str(len(told)),
        str(len(missed)),
        f"off by {off:.2f}" if told else "none",
        commit(),
    ]
    tables.keep("busy", "fmnist_resnet14", {"truth": truth, "found": found, "commit": commit()})
    tables.write("busy", f"{tables.conditions()}\n\n" + tables.table(header, [row]), PAGE)
    return not missed and off < OFF
