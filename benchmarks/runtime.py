"""The reference runtime against ONNX Runtime and onnx's ReferenceEvaluator: time, memory, accuracy.

    python -m benchmarks.runtime [--threads 1,2] [-o benchmarks/RUNTIME.md] [CASE ...]

All times are ratios of runs that take turns in one process, by the median and by the shortest times; memory is the peak
of the resident set of a process that runs one model once, so it includes Python and the libraries.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # onnx's evaluator multiplies by NumPy's BLAS

import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from benchmarks import zoo
from lwgraph import ir, registry
from lwgraph.calibrate.generate import generate
from lwgraph.runtime import kernels

RNG = np.random.default_rng(0)
SECONDS = 1.0  # per comparison, at least


def _conv(channels: int, size: int, group: int = 1) -> onnx.ModelProto:
    w = RNG.standard_normal((channels, channels // group, 3, 3)).astype(np.float32)
    return _model(
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4, group=group),
        {"w": w},
        TensorProto.FLOAT,
        [1, channels, size, size],
    )


def _integer_conv(channels: int, size: int) -> onnx.ModelProto:
    constants = {
        "w": RNG.integers(-127, 128, (channels, channels, 3, 3)).astype(np.int8), "xs": np.float32(0.02),
        "xz": np.uint8(3), "ws": np.full(channels, 0.01, np.float32), "wz": np.zeros(channels, np.int8),
        "ys": np.float32(0.5), "yz": np.uint8(7),
    }  # fmt: skip
    order = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    node = helper.make_node("QLinearConv", order, ["y"], pads=[1] * 4)
    return _model(node, constants, TensorProto.UINT8, [1, channels, size, size])


def _model(node: onnx.NodeProto, constants: dict[str, Any], kind: int, shape: list[int]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


KERNELS: dict[str, tuple[Callable[[], onnx.ModelProto], float]] = {
    "conv 3x3, 64 to 64, 56x56, float32": (lambda: _conv(64, 56), 2.5),
    "conv 3x3, 128 to 128, 28x28, float32": (lambda: _conv(128, 28), 2.5),
    "conv 3x3, 512 to 512, 7x7, float32": (lambda: _conv(512, 7), 2.5),
    "depthwise 3x3, 64, 56x56, float32": (lambda: _conv(64, 56, 64), 4.0),
    "depthwise 3x3, 256, 14x14, float32": (lambda: _conv(256, 14, 256), 4.0),
    "QLinearConv 3x3, 64 to 64, 56x56": (lambda: _integer_conv(64, 56), 4.0),
    "QLinearConv 3x3, 256 to 256, 14x14": (lambda: _integer_conv(256, 14), 4.0),
}


def _times(
    runs: list[Callable[[], Any]], seconds: float, pause: float = 0.0, least: int = 5
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(rounds, runs) seconds, the runs taking turns. In a pause the threads of the run before stop spinning."""
    for run in runs:
        run()
    rounds, start = [], time.perf_counter()
    while len(rounds) < least or time.perf_counter() - start < seconds:
        row = []
        for run in runs:
            if pause:
                time.sleep(pause)
            begin = time.perf_counter()
            run()
            row.append(time.perf_counter() - begin)
        rounds.append(row)
    return np.array(rounds)


def _against_ort(model: ir.Model, feeds: dict[str, Any], threads: int) -> tuple[float, float, float]:
    """Milliseconds of ONNX Runtime, and ours as a multiple: by medians of paired rounds, and by shortest times."""
    ort = registry.executor("ort", threads=threads).prepare(model)
    ours = registry.executor("reference", threads=threads).prepare(model)
    table = _times([lambda: ort(feeds), lambda: ours(feeds)], SECONDS, 0.01 if threads > 1 else 0.0)
    return (
        1e3 * float(table[:, 0].min()),
        float(np.median(table[:, 1] / table[:, 0])),
        float(table[:, 1].min() / table[:, 0].min()),
    )


def _against_onnx(model: ir.Model, feeds: dict[str, Any]) -> float:
    """How many times as fast as onnx's evaluator we are, one thread, by shortest times."""
    evaluator = ReferenceEvaluator(ir.to_proto(model))
    ours = registry.executor("reference").prepare(model)
    names = [v.name for v in model.graph.inputs]
    fed = {name: feeds[name] for name in names if name in feeds}
    table = _times([lambda: ours(feeds), lambda: evaluator.run(None, fed)], SECONDS, least=2)
    return float(table[:, 1].min() / table[:, 0].min())


_PEAK = """
import re, sys
import numpy as np
from lwgraph import ir, registry
model = ir.load(sys.argv[1])
feeds = dict(np.load(sys.argv[2]))
registry.executor(sys.argv[3]).prepare(model)(feeds)
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024)
"""


def _peak(path: Path, feeds: Path, executor: str) -> float:
    """Peak resident MB of a process that runs a model once."""
    command = [sys.executable, "-W", "ignore", "-c", _PEAK, str(path), str(feeds), executor]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _ulps(count: int) -> tuple[float, float]:
    """Worst errors of random reductions: precise in ulps, plain as a share of its bound n u sum|xy|."""
    worst_precise = worst_plain = 0.0
    rng = np.random.default_rng(1)
    for _ in range(count):
        n = int(rng.integers(1, 5000))
        x, y = ((rng.standard_normal(n) * np.exp(rng.uniform(-6, 6, n))).astype(np.float32) for _ in "xy")
        terms = [Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x, y, strict=True)]
        exact, size = sum(terms), sum(map(abs, terms))
        left, right = np.repeat(x[None], 4, 0), y[:, None]
        precise = Fraction(float(kernels.matmul(left, right, precise=True)[3, 0]))
        plain = Fraction(float(kernels.matmul(left, right)[3, 0]))
        unit = Fraction(float(np.spacing(np.abs(np.float32(float(exact))))))
        worst_precise = max(worst_precise, float(abs(precise - exact) / unit))
        worst_plain = max(worst_plain, float(abs(plain - exact) / (size * n * Fraction(1, 2**24))))
    return worst_precise, worst_plain


def _inputs(model: ir.Model, name: str) -> dict[str, Any]:
    """One sample of the size on which the case is scored."""
    shapes = {
        "ddddocr_common": {"input1": [1, 1, 64, 160]}, "ppocrv5_rec": {"x": [1, 3, 48, 320]},
        "ffdnet_rgb": {model.graph.inputs[0].name or "": [1, 3, 240, 240]},
    }  # fmt: skip
    return generate(model, 1, 0, shapes=shapes.get(name))[0]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("cases", nargs=-1, type=click.Choice(zoo.NAMES), metavar="[CASE]...")
@click.option("--threads", default="1,2", show_default=True, help="Thread counts, separated by commas.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the page here, too.")
@click.option("--reductions", default=1000, show_default=True, help="Random reductions for the accuracy figures.")
def main(cases: tuple[str, ...], threads: str, output: Path | None, reductions: int) -> None:
    """Measure, and print a page in Markdown."""
    counts = [int(text) for text in threads.split(",")]
    lines: list[str] = []

    def say(line: str = "") -> None:
        lines.append(line)
        click.echo(line)

    say("# The reference runtime, measured")
    say()
    say(
        f"`python -m benchmarks.runtime`: onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}, Python "
        f"{platform.python_version()}, NumPy {np.__version__}, {os.cpu_count()} processors, kernels "
        f"{kernels.compiled.level() if kernels.compiled else 'in NumPy'}, load {os.getloadavg()[0]:.1f} at the start."
    )
    say("Ratios are medians of interleaved rounds, by shortest times in brackets; 1.0 is as fast as ONNX Runtime.")
    say()
    say("## Kernels")
    say()
    head = " | ".join(f"ours / ORT, {n} thread{'s' * (n > 1)}" for n in counts)
    say(f"| kernel | ORT ms, 1 thread | {head} | limit | times as fast as ReferenceEvaluator |")
    say("|---|---|" + "---|" * len(counts) + "---|---|")
    for name, (make, limit) in KERNELS.items():
        model = ir.load(make())
        x = model.graph.inputs[0]
        feeds = {"x": (RNG.random(x.shape.numpy()) * 255).astype(x.dtype.numpy())}  # type: ignore[union-attr]
        measured = [_against_ort(model, feeds, n) for n in counts]
        ratios = " | ".join(f"{median:.2f} ({least:.2f})" for _, median, least in measured)
        say(f"| {name} | {measured[0][0]:.2f} | {ratios} | {limit} | {_against_onnx(model, feeds):.0f} |")
    say()
    say("## Whole models")
    say()
    say(f"| model | ORT ms, 1 thread | {head} | limit | times as fast as ReferenceEvaluator | peak MB, ORT | ours |")
    say("|---|---|" + "---|" * len(counts) + "---|---|---|---|")
    for name in cases or zoo.NAMES:
        path = zoo.case(name).model()
        model = ir.load(path)
        feeds = _inputs(model, name)
        with tempfile.TemporaryDirectory() as folder:
            stored = Path(folder) / "feeds.npz"
            np.savez(stored, **feeds)
            peaks = [_peak(path, stored, executor) for executor in ("ort", "reference")]
        measured = [_against_ort(model, feeds, n) for n in counts]
        ratios = " | ".join(f"{median:.2f} ({least:.2f})" for _, median, least in measured)
        faster = _against_onnx(model, feeds)
        say(
            f"| {name} | {measured[0][0]:.1f} | {ratios} | 4.0 | {faster:.1f} | {peaks[0]:.0f} | {peaks[1]:.0f} "
            f"({peaks[1] / peaks[0]:.2f}) |"
        )
    say()
    say("## Accuracy")
    say()
    precise, plain = _ulps(reductions)
    say(
        f"Worst of {reductions} random reductions of up to 5,000 terms: with float64 accumulation {precise:.3f} units "
        f"in the last place of float32 (limit 1); plain float32 {plain:.2g} of its bound n u sum|xy| (limit 1)."
    )
    if output is not None:
        output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
