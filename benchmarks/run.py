"""A run's bounds: python -m benchmarks.run memory|budget|table [NAME]... [--again].

`memory` optimizes networks whose statistics do not fit, with --memory 2GB and --budget 180s, and takes the peak of the
process's resident memory. `budget` optimizes cases with several times and takes what each bought. Each run starts from
an empty cache, and what was measured is kept: a second call goes on where the first was stopped. Both write RUN.md.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import psutil
from onnx import TensorProto, helper, numpy_helper

from benchmarks import tables, zoo
from benchmarks.zoo import cache

Floats = npt.NDArray[np.float32]
PAGE = Path(__file__).resolve().parent / "RUN.md"
MEMORY, MEMORY_BUDGET = 2e9, 180.0  # --memory in bytes and --budget in seconds
FIXED = 500e6  # bytes that a process takes for itself: interpreter, libraries, data
CLASSES = 10
CASES = ("fmnist_resnet14", "orinet", "arbez_yolox_s")
BUDGETS = {"10s": 10.0, "60s": 60.0, "none": math.inf}
OVER, OVER_SECONDS = 0.1, 5.0  # a budget holds within the larger of these: a share of it, and seconds
# The `lwgraph` of this interpreter, which writes where it is as soon as its budget is overrun.
CALL = "import faulthandler; faulthandler.dump_traceback_later({limit}); from lwgraph.cli import main; main()"


# ------------------------------------------------------------ runs


@dataclass(frozen=True)
class Run:
    """One run of `lwgraph optimize`: seconds by the clock and of processors, peak resident bytes, error, and report."""

    seconds: float
    busy: float
    peak: int
    error: str
    report: dict[str, Any]

    @property
    def kept(self) -> dict[str, Any]:
        """What tables need of it, as plain data."""
        stages, score = self.report.get("stages", []), self.report.get("score") or {}
        progress = self.report.get("details", {}).get("progress", [])
        return {
            "seconds": self.seconds,
            "busy": self.busy,
            "peak": self.peak,
            "error": self.error,
            "commit": commit(),
            "first": progress[1]["seconds"] if len(progress) > 1 else None,
            "lost": score.get("drop"),
            "score": score.get("after"),
            "speed": 1 / stages[-1]["ratio"] if stages and stages[-1]["ratio"] else None,
            "size": stages[-1]["facts"]["bytes"] / stages[0]["facts"]["bytes"] if stages else None,
            "result": stages[-1]["name"] if stages else "",
            "runs": [[each["name"], each["seconds"], each["outcome"]] for each in self.report.get("runs", [])],
            "failures": self.report.get("failures", []),
            "notes": self.report.get("notes", []),
        }


def optimize(
    model: Path,
    options: Sequence[str],
    limit: float = math.inf,
    *,
    kept: Path | None = None,
    before: str = "",
) -> Run:
    """Call the command line, from an empty cache unless one is given.

    Args:
        model: the input.
        options: for `lwgraph optimize`.
        limit: seconds after which the stack is written to standard error.
        kept: a folder for the cache and the result, out.onnx, that outlives the run.
        before: statements that the process executes first.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lasting = kept or folder
        call = before + CALL.format(limit=min(limit, 1e6))
        command = [sys.executable, "-c", call, "optimize", str(model), "-o", str(lasting / "out.onnx"), "--quiet"]
        command += ["--overwrite", "--threads", "1", "--report", str(folder), *options]
        environment = os.environ | {"LWGRAPH_CACHE": str(lasting / "cache")}
        with open(folder / "errors", "w+", encoding="utf8") as errors:
            started = time.perf_counter()
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
            peak, busy = watch(child)
            seconds = time.perf_counter() - started
            errors.seek(0)
            said = errors.read()
        click.echo(said.strip()[-4000:], err=True)
        report = folder / "report.json"
        found = json.loads(report.read_text("utf8")) if report.exists() else {}
        # Exit code 1 says that a promise was not kept, 3 that it is not resolved; the report says so, too.
        failed = child.returncode not in (0, 1, 3) or not found
        return Run(
            seconds, busy, peak, f"ended with {child.returncode}: {said.strip()[-200:]}" if failed else "", found
        )


def watch(child: subprocess.Popen[bytes], every: float = 0.02) -> tuple[int, float]:
    """Wait for a process; the most bytes that it and the processes it began had resident together, and the seconds of
    processors that they took."""
    peak, ended = 0, threading.Event()
    process = psutil.Process(child.pid)

    def look() -> None:
        nonlocal peak
        while not ended.wait(every):
            try:
                family = [process, *process.children(recursive=True)]
                peak = max(peak, sum(each.memory_info().rss for each in family))
            except psutil.NoSuchProcess:  # one that just ended; the next look sees the others
                continue

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    ended.set()
    watcher.join()
    # The kernel misses no peak, but sees one process at a time.
    return max(peak, usage.ru_maxrss * 1024), usage.ru_utime + usage.ru_stime


def commit() -> str:
    """The commit that is measured; with a plus where code was changed since, not only a page with figures."""
    told = subprocess.run(["git", "describe", "--always"], capture_output=True, text=True, cwd=PAGE.parent)
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ":/*.py", ":/*.c", ":/*.h"], cwd=PAGE.parent)
    return told.stdout.strip() + "+" * (changed.returncode == 1)


# ------------------------------------------------------------ memory


class Network:
    """A chain of layers with random weights; its last layer is fitted to tell classes apart.

    Args:
        shape: of the input, without the batch.
        seed: of the weights.
    """

    def __init__(self, shape: Sequence[int], seed: int) -> None:
        self.rng, self.shape, self.now, self.width = np.random.default_rng(seed), list(shape), "x", 0
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, array: npt.NDArray[Any]) -> str:
        """A new initializer."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def add(self, operator: str, *weights: npt.NDArray[Any], **attributes: Any) -> None:
        """One more node on the last value."""
        out = f"v{len(self.nodes)}"
        names = [self.now, *(self.weight(w) for w in weights)]
        self.nodes.append(helper.make_node(operator, names, [out], name=f"{operator}_{len(self.nodes)}", **attributes))
        self.now = out

    def size(self) -> int:
        """Bytes of the weights."""
        return sum(len(weight.raw_data) for weight in self.weights)

    def random(self, *shape: int) -> npt.NDArray[Any]:
        """Weights (o, c, *k) that keep the size of what goes through them and a Relu."""
        return self.rng.standard_normal(shape, np.float32) * math.sqrt(2 / math.prod(shape[1:]))

    def model(self) -> onnx.ModelProto:
        """What was added so far, from x (N, *shape) to the last value."""
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *self.shape])],
            [helper.make_tensor_value_info(self.now, TensorProto.FLOAT, None)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

    def outputs(self, x: Floats) -> Floats:
        """What the layers so far give for inputs x (N, ...)."""
        session = onnxruntime.InferenceSession(self.model().SerializeToString(), providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(None, {"x": each[None]})[0] for each in x])

    def classify(self, x: Floats, labels: npt.NDArray[np.int64]) -> None:
        """A last layer from the features (N, D) so far, of least squares to the classes."""
        features = self.outputs(x).astype(np.float64)
        mean, aims = features.mean(0), np.eye(CLASSES)[labels]
        centred = features - mean
        kernel = centred @ centred.T
        kernel[np.diag_indices(len(kernel))] += 1e-2 * np.trace(kernel) / len(kernel)
        weight = centred.T @ np.linalg.solve(kernel, aims)
        self.add("Gemm", weight, -mean @ weight)


def samples(shape: Sequence[int], count: int, seed: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Inputs (count, *shape) around one random pattern for each class, smooth along the last axis; and the classes."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(0).standard_normal((CLASSES, *shape), np.float32)
    labels = rng.integers(0, CLASSES, count)
    x = patterns[labels] + rng.standard_normal((count, *shape), np.float32)
    return (x + np.roll(x, 1, -1)).astype(np.float32), labels


def wide_conv() -> tuple[Network, Sequence[int]]:
    """A 1-D convolution of 1,024 channels with 64 taps, whose fan-in is 65,536."""
    net = Network((16, 192), 1)
    net.add("Conv", net.random(1024, 16, 3), np.zeros(1024), kernel_shape=[3], pads=[1, 1])
    net.add("Relu")
    net.add("Conv", net.random(1024, 1024, 64), np.zeros(1024), kernel_shape=[64], strides=[4])
    net.add("Relu")
    net.add("ReduceMean", keepdims=0)
    net.nodes[-1].input.append("axes")
    net.weights.append(numpy_helper.from_array(np.array([2]), "axes"))
    return net, (16, 192)


def vgg_head() -> tuple[Network, Sequence[int]]:
    """Convolutions, then a Gemm from 25,088 to 4,096."""
    net, width = Network((3, 224, 224), 2), 3
    for channels in (32, 64, 128, 256, 512):
        net.add("Conv", net.random(channels, width, 3, 3), np.zeros(channels), kernel_shape=[3, 3], pads=[1] * 4)
        net.add("Relu")
        net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
        width = channels
    net.add("Flatten")
    net.add("Gemm", net.random(4096, 25088), np.zeros(4096), transB=1)
    net.add("Relu")
    return net, (3, 224, 224)


def long_chain(layers: int = 300) -> tuple[Network, Sequence[int]]:
    """Small convolutions in a chain, each near the identity, so that the input is still there at the end."""
    net = Network((3, 24, 24), 3)
    net.add("Conv", net.random(16, 3, 3, 3), np.zeros(16), kernel_shape=[3, 3], pads=[1] * 4)
    for _ in range(layers - 1):
        weight = 0.05 * net.random(16, 16, 3, 3)
        weight[np.arange(16), np.arange(16), 1, 1] += 1
        net.add("Relu")
        net.add("Conv", weight, np.zeros(16), kernel_shape=[3, 3], pads=[1] * 4)
    net.add("Relu")
    net.add("AveragePool", kernel_shape=[4, 4], strides=[4, 4])
    net.add("Flatten")
    return net, (3, 24, 24)


def large_encoder(layers: int = 12, width: int = 2048, heads: int = 16) -> tuple[Network, Sequence[int]]:
    """A transformer encoder of 604 million parameters, 2.4 GB, over what protobuf holds: its weights are external."""
    net, shape = Network((16, width), 4), (16, width)
    last = np.array([0, 0, heads, width // heads])

    def integers(array: npt.NDArray[np.int64]) -> str:
        net.weights.append(numpy_helper.from_array(array, f"i{len(net.weights)}"))
        return net.weights[-1].name

    def dense(x: str, rows: int, columns: int) -> str:
        net.now = x
        net.add("MatMul", net.random(columns, rows).T * math.sqrt(0.5))
        net.add("Add", np.zeros(columns))
        return net.now

    def joined(operator: str, a: str, b: str, **attributes: Any) -> str:
        net.now = a
        net.add(operator, **attributes)
        net.nodes[-1].input.append(b)
        return net.now

    def split(x: str, order: list[int]) -> str:
        joined("Reshape", x, integers(last))
        net.add("Transpose", perm=order)
        return net.now

    def normed(x: str) -> str:
        net.now = x
        net.add("LayerNormalization", np.ones(width), np.zeros(width))
        return net.now

    x = net.now
    for _ in range(layers):
        y = normed(x)
        q, k, v = (split(dense(y, width, width), o) for o in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
        joined("MatMul", q, k)
        net.add("Mul", np.array((width // heads) ** -0.5))
        net.add("Softmax", axis=-1)
        joined("MatMul", net.now, v)
        net.add("Transpose", perm=[0, 2, 1, 3])
        y = joined("Reshape", net.now, integers(np.array([0, 0, width])))
        x = joined("Add", dense(y, width, width), x)
        y = dense(normed(x), width, 4 * width)
        net.add("Relu")
        x = joined("Add", dense(net.now, 4 * width, width), x)
    joined("ReduceMean", normed(x), integers(np.array([1])), keepdims=0)
    return net, shape


NETWORKS: dict[str, tuple[Callable[[], tuple[Network, Sequence[int]]], int]] = {  # and the number of samples
    "wide_conv": (wide_conv, 128),
    "vgg_head": (vgg_head, 96),
    "long_chain": (long_chain, 256),
    "large_encoder": (large_encoder, 48),
}
LARGE = 1 << 30  # bytes of weights from which on they lie in a file of their own, and no classes are told apart


def made(name: str) -> tuple[Path, Path]:
    """The model and the data of a network, made once."""
    folder = cache.folder("results") / "run"
    model, data = folder / f"{name}.onnx", folder / f"{name}.npz"
    if not (model.exists() and data.exists()):
        make, count = NETWORKS[name]
        net, shape = make()
        if net.size() < LARGE:
            net.classify(*samples(shape, count, 1))
            with cache.replacing(model) as new:
                onnx.save(net.model(), new)
        else:
            onnx.save(net.model(), model, save_as_external_data=True, location=f"{name}.onnx.data")
        with cache.replacing(data) as new:
            np.savez(new, x=samples(shape, count, 2)[0])
    return model, data


def memory_row(name: str) -> dict[str, Any]:
    """One run under --memory."""
    model, data = made(name)
    options = ["--data", str(data), "--memory", f"{MEMORY / 1e9:g}GB", "--budget", f"{MEMORY_BUDGET:g}s"]
    run = optimize(model, options, allowed(MEMORY_BUDGET))
    size = sum(path.stat().st_size for path in model.parent.glob(f"{name}.onnx*"))
    return run.kept | {"allowed": MEMORY + 1.5 * size + FIXED, "bytes": size}


# ------------------------------------------------------------ budget


def allowed(budget: float) -> float:
    """Seconds within which a budget holds."""
    return budget + max(OVER * budget, OVER_SECONDS)


def judged_by(name: str) -> list[str]:
    """Options of what judges a case: its samples where it has them apart from its metric, which may be too many."""
    module = importlib.import_module(f"benchmarks.zoo.{name}")
    if not hasattr(module, "evaluation"):
        return ["--metric", f"{module.__name__}:metric"]
    path = cache.folder("results") / "run" / f"{name}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with cache.replacing(path) as new:
            np.savez(new, **module.evaluation())
    return ["--eval-data", str(path)]


def budget_row(name: str, budget: str) -> dict[str, Any]:
    """One run with a budget, or the whole run."""
    from benchmarks import whole  # it needs this file

    case = zoo.case(name)
    if budget == "none":
        return whole.of(case)
    ran = optimize(case.model(), [*whole.options(case), "--budget", budget], allowed(BUDGETS[budget]))
    return whole.figures(ran, case.points_per_unit)


# ------------------------------------------------------------ tables


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def memory_table() -> str:
    """What is kept of `memory`."""
    header = [
        "network",
        "build",
        "MB of model",
        "peak, MB",
        "allowed, MB",
        "time",
        "processor",
        "first result",
        "result",
        "points",
        "speed-up",
    ]
    rows = []
    for name in NETWORKS:
        if (found := tables.kept("run", f"memory-{name}")) is None:
            continue
        lost = None if found["lost"] is None else 100 * found["lost"]
        rows.append(
            [
                name,
                found["commit"],
                f"{found['bytes'] / 1e6:.0f}",
                f"{found['peak'] / 1e6:.0f}",
                f"{found['allowed'] / 1e6:.0f}",
                f"{found['seconds']:.0f} s",
                f"{found['busy']:.0f} s",
                _cell(found["first"], ".0f") + " s" * (found["first"] is not None),
                (found["error"] or found["result"]).replace("|", "/"),
                _cell(lost, ".2f"),
                _cell(found["speed"], ".2f"),
            ]
        )
    return tables.table(header, rows)


def budget_table() -> str:
    """What is kept of `budget`."""
    header = ["case", "build", "budget", "time", "holds", "first result", "points lost", "speed-up", "size"]
    rows = []
    for name in CASES:
        for budget, seconds in BUDGETS.items():
            if (found := tables.kept("run", f"budget-{name}-{budget}")) is None:
                continue
            rows.append(
                [
                    name,
                    found["commit"],
                    budget,
                    f"{found['seconds']:.1f} s",
                    found["error"].replace("|", "/") or ("yes" if found["seconds"] <= allowed(seconds) else "no"),
                    _cell(found["first"], ".1f") + " s" * (found["first"] is not None),
                    _cell(found["points"], ".2f"),
                    _cell(found["speed"], ".2f"),
                    _cell(found["size"], ".2f"),
                ]
            )
    return tables.table(header, rows)


def write() -> None:
    """Write the tables from what is kept."""
    tables.write("memory", memory_table(), PAGE)
    tables.write("budget", f"{tables.conditions()}\n\n{budget_table()}", PAGE)


def _row(key: str, again: bool, measure: Callable[[], dict[str, Any]]) -> None:
    found = None if again else tables.kept("run", key)
    if found is None:
        found = measure()
        tables.keep("run", key, found)
        write()
    shown = {name: value for name, value in found.items() if name != "notes"}
    click.echo(f"{key}: {json.dumps(shown)}")


AGAIN = click.option("--again", is_flag=True, help="Measure anew what is kept.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Whether a run keeps within its time and memory."""


@main.command()
@click.argument("names", nargs=-1, type=click.Choice(list(NETWORKS)), metavar="[NETWORK]...")
@AGAIN
def memory(names: tuple[str, ...], again: bool) -> None:
    """Run the networks whose statistics do not fit."""
    for name in names or NETWORKS:
        _row(f"memory-{name}", again, lambda name=name: memory_row(name))  # type: ignore[misc]


@main.command()
@click.argument("names", nargs=-1, type=click.Choice(CASES), metavar="[CASE]...")
@click.option("--budget", "budgets", multiple=True, type=click.Choice(list(BUDGETS)), help="Only this one; repeatable.")
@AGAIN
def budget(names: tuple[str, ...], budgets: tuple[str, ...], again: bool) -> None:
    """Run the cases with several budgets."""
    for name in names or CASES:
        for each in budgets or BUDGETS:
            _row(f"budget-{name}-{each}", again, lambda name=name, each=each: budget_row(name, each))  # type: ignore[misc]


@main.command()
def table() -> None:
    """Write RUN.md from what is kept."""
    write()


if __name__ == "__main__":
    main()
