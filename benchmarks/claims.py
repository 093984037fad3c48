"""Measures again what a JSON report claims of a written model, in a process that shares no code with lwgraph.

    python benchmarks/claims.py INPUT RESULT REPORT.json DATA

DATA has samples that the run did not see: an .npz with an array (n, ...) for each input, and "labels" (n,) where there
are any; or a folder with an .npz (1, ...) for each sample, as these may differ in size.
Prints one JSON object: {claim: {"told": ..., "found": ..., "holds": true, false, or null where it cannot be said}}.
Only ONNX Runtime, onnx and NumPy are used.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

Floats = npt.NDArray[np.floating[Any]]
SECONDS = 10.0  # of timing
HIGHEST_DB = 100.0  # what decibels of an equal output are counted as
# Kernels that compute in integers, and where their weight stands.
KERNELS = {
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "QGemm": 3,
    "ConvInteger": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
}


def session(path: Path, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    """The runtime on one thread; writes the graph that it runs where that is wanted."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those within it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] * attribute.HasField("g") + list(attribute.graphs):
                yield from graphs(inner)


def claim(told: Any, found: Any, holds: bool | None) -> dict[str, Any]:
    """One line of the answer."""
    return {"told": told, "found": found, "holds": holds}


def size(path: Path) -> int:
    """Bytes of the model and of its external data."""
    outside = path.with_name(path.name + ".data")
    return path.stat().st_size + (outside.stat().st_size if outside.exists() else 0)


def nodes(path: Path) -> int:
    """Nodes of all graphs and functions."""
    model = onnx.load(path, load_external_data=False)
    return sum(len(g.node) for g in graphs(model.graph)) + sum(len(f.node) for f in model.functions)


def integer_layers(path: Path) -> int:
    """Kernels with constant weights that compute in integers, in the graph that the runtime really runs."""
    with tempfile.TemporaryDirectory() as folder:
        session(path, Path(folder, "ran.onnx"))
        ran = onnx.load(Path(folder, "ran.onnx"))
    found = 0
    constant: set[str] = set()
    for graph in graphs(ran.graph):
        constant |= {each.name for each in graph.initializer}
        found += sum(node.op_type in KERNELS and node.input[KERNELS[node.op_type]] in constant for node in graph.node)
    return found


def loaded(data: Path) -> tuple[list[dict[str, Floats]], Any]:
    """Samples as batches of one, and their labels."""
    found: list[dict[str, Floats]] = []
    labels = None
    for path in sorted(data.glob("*.npz")) if data.is_dir() else [data]:
        with np.load(path) as arrays:
            inputs = {name: arrays[name] for name in arrays.files if name != "labels"}
            labels = arrays["labels"] if "labels" in arrays.files else None
        count = 1 if data.is_dir() else len(next(iter(inputs.values())))
        found += [inputs] if data.is_dir() else [{k: v[i : i + 1] for k, v in inputs.items()} for i in range(count)]
    return found, labels


def outputs(path: Path, samples: list[dict[str, Floats]]) -> list[Floats]:
    """The first output of each sample."""
    run = session(path)
    name = run.get_outputs()[0].name
    return [np.asarray(run.run([name], sample)[0]) for sample in samples]


def read(leading: npt.NDArray[np.int64], blank: int) -> list[int]:
    """Symbols without repetitions and blanks."""
    return [int(s) for i, s in enumerate(leading) if s != blank and (i == 0 or s != leading[i - 1])]


def edits(a: list[int], b: list[int]) -> int:
    """Symbols to insert, drop or replace to make one text of the other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def losses(name: str, before: list[Floats], after: list[Floats], labels: Any) -> Floats | None:
    """What each sample lost, in the metric's unit; None for a metric that is not one of a sample."""
    pairs = list(zip(before, after, strict=True))
    if name == "top1" and labels is not None:
        right = [
            [float(y.argmax(-1).ravel()[0] == label) for y in pair] for pair, label in zip(pairs, labels, strict=True)
        ]
        return np.array([a - b for a, b in right])
    if name == "agreement":
        return np.array([1 - float((a.argmax(-1) == b.argmax(-1)).mean()) for a, b in pairs])
    if name == "cosine":
        unit = [[y.ravel() / max(float(np.linalg.norm(y)), 1e-12) for y in pair] for pair in pairs]
        return np.array([1 - float(a @ b) for a, b in unit])
    if name == "symbols":
        leading = [[y.reshape(-1, y.shape[-1]).argmax(-1) for y in pair] for pair in pairs]
        blank = int(np.bincount(np.concatenate([theirs for theirs, _ in leading])).argmax())  # what is read most often
        texts = [[read(each, blank) for each in pair] for pair in leading]
        return np.array([edits(a, b) / max(len(a), len(b), 1) for a, b in texts])
    if name == "psnr" and labels is None:  # against the original; the peak is the range of its outputs
        peak = max(float(a.max()) for a in before) - min(float(a.min()) for a in before)
        errors = [float(np.square(a.astype(np.float64) - b).mean()) for a, b in pairs]
        return np.array([HIGHEST_DB - min(HIGHEST_DB, 10 * math.log10(peak**2 / max(e, 1e-300))) for e in errors])
    return None


def loss(score: dict[str, Any], before: list[Floats], after: list[Floats], labels: Any) -> dict[str, Any]:
    """Whether the loss on samples that nothing saw is within its bound, but for two errors of these samples' mean."""
    bound, name = score.get("bound"), score["name"]
    if name == "sqnr":
        signal = sum(float(np.square(a.astype(np.float64)).sum()) for a in before)
        error = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(before, after, strict=True))
        found = HIGHEST_DB - min(HIGHEST_DB, 10 * math.log10(signal / error) if error else HIGHEST_DB)
        return claim(bound, found, None if bound is None else found <= bound + 0.5)
    if name == "variance" and len({y.shape for y in before}) == 1:
        middle = np.mean(before, axis=0, dtype=np.float64)
        error = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(before, after, strict=True))
        found = error / sum(float(np.square(a - middle).sum()) for a in before)
        return claim(bound, found, None if bound is None else found <= 1.2 * bound + 1e-9)
    each = losses(name, before, after, labels)
    if each is None or bound is None:
        return claim(bound, None if each is None else float(each.mean()), None)
    error = float(each.std()) / math.sqrt(len(each))
    return claim(bound, float(each.mean()), bool(each.mean() - 2 * error <= bound + 1e-9))


def speed(models: tuple[Path, Path], sample: dict[str, Floats], stage: dict[str, Any]) -> dict[str, Any]:
    """Whether the ratio of the fastest runs, in turns, lies in the interval; this measurement has one of its own."""
    runs, rounds = [session(path) for path in models], []
    for run in runs:
        for _ in range(3):
            run.run(None, sample)
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(rounds) < 8:
        row = [0.0, 0.0]
        for i in (0, 1) if len(rounds) % 2 else (1, 0):
            start = time.perf_counter()
            runs[i].run(None, sample)
            row[i] = time.perf_counter() - start
        rounds.append(row)
    table = np.array(rounds)
    halves = [
        part.min(axis=0) for part in (table[::2], table[1::2], table[: len(table) // 2], table[len(table) // 2 :])
    ]
    ratios = [float(a / b) for a, b in [*halves, table.min(axis=0)]]
    if stage["ratio_spread"] is None or str(stage.get("speed", "")).startswith("not settled"):
        return claim(stage.get("speed"), ratios[-1], None)
    low, high = 1 / stage["ratio_spread"][1], 1 / stage["ratio_spread"][0]
    return claim([low, high], [min(ratios), max(ratios)], min(ratios) <= high and max(ratios) >= low)


def check(source: Path, result: Path, report: dict[str, Any], data: Path) -> dict[str, Any]:
    """All claims of one report."""
    first, last = report["stages"][0], report["stages"][-1]
    told = sum(layer["precision"] == "int8" for layer in report["layers"])
    found = integer_layers(result)
    claims = {"integer layers": claim(told, found, told == found)}
    for words, stage, path in (("input", first, source), ("result", last, result)):
        for what, measured in (("bytes", size(path)), ("nodes", nodes(path))):
            claims[f"{what} of the {words}"] = claim(stage["facts"][what], measured, stage["facts"][what] == measured)
    samples, labels = loaded(data)
    if report.get("score"):
        claims["loss"] = loss(report["score"], outputs(source, samples), outputs(result, samples), labels)
    claims["speed"] = speed((source, result), samples[0], last)
    return claims


if __name__ == "__main__":
    source, result, report, data = map(Path, sys.argv[1:5])
    print(json.dumps(check(source, result, json.loads(report.read_text("utf8")), data)))
