"""Peak memory on a model with a gigabyte of external data: python -m benchmarks.memory [--size 1.0].

Makes a chain of matrix products whose weights are external, then runs each job on it in a process of its own and prints
the peak of its resident memory, file pages included, as a multiple of the weights. The limit is 1.5.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from onnx import TensorProto, helper

import lwgraph
from lwgraph import ir
from lwgraph.rewrite import Context, Pipeline

WIDTH = 2048  # each weight is WIDTH x WIDTH float32, 16 MiB
LIMIT = 1.5


def generate(folder: Path, gigabytes: float) -> Path:
    """A model with `gigabytes` of external weights, written one weight at a time."""
    count = max(1, round(gigabytes * 1e9 / (WIDTH * WIDTH * 4)))
    shape, names = ["N", WIDTH], [f"weight_{index}" for index in range(count)]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [f"x_{index}", name], [f"x_{index + 1}"], name=f"product_{index}")
            for index, name in enumerate(names)
        ],
        "chain",
        [helper.make_tensor_value_info("x_0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"x_{count}", TensorProto.FLOAT, shape)],
    )
    rng = np.random.default_rng(0)
    path = folder / "chain.onnx"
    with open(folder / "chain.onnx.data", "wb") as data:
        for index, name in enumerate(names):
            weight = rng.standard_normal((WIDTH, WIDTH), np.float32) / np.float32(WIDTH**0.5)
            tensor = graph.initializer.add(name=name, dims=weight.shape, data_type=TensorProto.FLOAT)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (
                ("location", data.name.rsplit("/", 1)[-1]),
                ("offset", index * weight.nbytes),
                ("length", weight.nbytes),
            ):
                tensor.external_data.add(key=key, value=str(value))
            data.write(weight.tobytes())
    path.write_bytes(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    )
    return path


def copy(path: Path) -> None:
    """Load and save."""
    ir.save(ir.load(path), path.with_suffix(".copy.onnx"), overwrite=True)


def rewrite_half(path: Path) -> None:
    """Load, double every second weight, compare all of it with the original by fingerprint, save."""
    original = ir.load(path)
    model = ir.clone(original)
    for value in list(model.graph.initializers.values())[::2]:
        weight = ir.constant(value)
        assert weight is not None
        ir.set_constant(value, weight * 2)
    assert ir.fingerprint(model) != ir.fingerprint(original)
    ir.save(model, path.with_suffix(".half.onnx"), overwrite=True)


def read_all(path: Path) -> None:
    """Load and look at every weight, one after the other."""
    model = ir.load(path)
    for value in model.graph.initializers.values():
        weight = ir.constant(value)
        assert weight is not None and np.isfinite(weight).all()


def clean(path: Path) -> None:
    """Load, run the exact and rounding passes, save."""
    model = ir.load(path)
    Pipeline.parse("default").run(model, Context())
    ir.save(model, path.with_suffix(".clean.onnx"), overwrite=True)


def optimize(path: Path) -> None:
    """All of `lwgraph optimize` without data, verification and timing included."""
    lwgraph.optimize(path).save(path.with_suffix(".lw.onnx"), overwrite=True)


JOBS: dict[str, Callable[[Path], None]] = {
    "copy": copy,
    "rewrite-half": rewrite_half,
    "read-all": read_all,
    "clean": clean,
    "optimize": optimize,
}


def _run(job: str, path: Path, pipe: multiprocessing.connection.Connection) -> None:
    start = time.perf_counter()
    JOBS[job](path)
    pipe.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.perf_counter() - start))


def measure(job: str, path: Path) -> tuple[int, float]:
    """Peak resident bytes and seconds of one job, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(job, path, send))
    process.start()
    send.close()
    found: tuple[int, float] = receive.recv()
    process.join()
    return found


@click.command()
@click.option("--size", default=1.0, show_default=True, help="Weights, in gigabytes.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where to write (about twice --size).")
@click.argument("jobs", nargs=-1, type=click.Choice(list(JOBS)))
def main(size: float, folder: Path | None, jobs: tuple[str, ...]) -> None:
    """Measure the peak memory of JOBS (default: all). Exit code 1 when one is over the limit."""
    worst = 0.0
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = generate(Path(temporary), size)
        weights = (path.parent / "chain.onnx.data").stat().st_size
        click.echo(f"weights {weights / 1e9:.2f} GB; peak resident memory as a multiple of them (limit {LIMIT}):")
        for job in jobs or JOBS:
            peak, seconds = measure(job, path)
            worst = max(worst, peak / weights)
            click.echo(f"{job:14} {peak / weights:6.2f}  ({peak / 1e6:7.0f} MB, {seconds:5.1f} s)")
    raise SystemExit(worst > LIMIT)


if __name__ == "__main__":
    main()
