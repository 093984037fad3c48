"""Compares a model with what became of it, in a process that shares no code with lwgraph.

    python benchmarks/strangers/independent.py INPUT RESULT SAMPLES classes|embeddings|values|rows|columns

SAMPLES is a folder of .npz files, one feed each, that nothing saw before. Prints one JSON object: for every output how
it differs, the loss of the first with its standard error, bytes, and the time as a ratio. Only ONNX Runtime and NumPy
are used.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

SECONDS = 6.0  # of timing
ROUNDS = 16, 2000  # of timing, at least and at most
SURE, SEEN, OVERLAP = 0.5, 0.25, 0.5  # scores of what is surely there and of what is seen; of two boxes of the same

Array = npt.NDArray[Any]


def session(path: Path) -> onnxruntime.InferenceSession:
    """The runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def signature(run: onnxruntime.InferenceSession) -> list[tuple[str, str]]:
    """Names and types of all inputs and outputs, in order."""
    return [(each.name, each.type) for each in [*run.get_inputs(), *run.get_outputs()]]


def flat(value: Any) -> Array:
    """A tensor, or the tensors in a sequence or in maps, as one vector."""
    if isinstance(value, list):
        return np.concatenate([flat(each) for each in value]) if value else np.zeros(0)
    if isinstance(value, dict):
        return np.array([value[key] for key in sorted(value)]).ravel()
    return np.asarray(value).ravel()


def distance(before: list[Any], after: list[Any]) -> float:
    """Of one output over all samples: the share of whole or textual values that differ, or the relative L2 error."""
    a, b = (np.concatenate([flat(each) for each in values]) for values in (before, after))
    if a.shape != b.shape:
        return math.inf
    if a.dtype.kind != "f":
        return float((a != b).mean()) if a.size else 0.0
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return math.inf
    a, b = (x[np.isfinite(a)].astype(np.float64) for x in (a, b))
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(a)), 1e-30))


def detected(kind: str, output: Array) -> tuple[Array, Array, Array]:
    """Of each anchor: the box (n, 4) as middle and size, the best class's score (n,), and that class (n,).

    "rows": (1, n, 5 + classes) of YOLOX before its decoding: the middle from the anchor's cell on and the logarithm of
    the size, in cells; the score of a box beside those of classes. "columns": (1, 4 + classes, n) of YOLOv8.
    """
    if kind == "rows":
        table = output.reshape(-1, output.shape[-1]).astype(np.float64)
        boxes, scores = np.hstack([table[:, :2], np.exp(table[:, 2:4])]), table[:, 4:5] * table[:, 5:]
    else:
        table = output.reshape(output.shape[-2:]).T.astype(np.float64)
        boxes, scores = table[:, :4], table[:, 4:]
    return boxes, scores.max(1), scores.argmax(1)


def undetected(kind: str, before: Array, after: Array) -> float:
    """The share of what one of the two surely detects that the other does not see, anchor by anchor."""
    (a, p, c), (b, q, d) = detected(kind, before), detected(kind, after)
    low = np.maximum(a[:, :2] - a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2)
    high = np.minimum(a[:, :2] + a[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)
    shared = np.clip(high - low, 0, None).prod(1)
    whole = a[:, 2:].prod(1) + b[:, 2:].prod(1) - shared
    same = (shared >= OVERLAP * whole) & (c == d) & (p >= SEEN) & (q >= SEEN)
    sure = np.concatenate([p >= SURE, q >= SURE])
    return float(1 - np.concatenate([same, same])[sure].mean()) if sure.any() else 0.0


def losses(kind: str, before: list[Any], after: list[Any]) -> Array:
    """What each sample lost of the first output: the share of classes, 1 less the cosine, what is not detected, or the
    share of variance."""
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(before, after, strict=True)]
    if any(a.shape != b.shape for a, b in pairs):
        return np.ones(len(pairs))
    if pairs[0][0].dtype.kind != "f":
        return np.array([float((a != b).mean()) for a, b in pairs])
    if kind == "classes" and pairs[0][0].shape[-1] > 1:
        return np.array([float((a.argmax(-1) != b.argmax(-1)).mean()) for a, b in pairs])
    if kind in ("rows", "columns"):
        return np.array([undetected(kind, a, b) for a, b in pairs])
    known = [(a[np.isfinite(a)].astype(np.float64), b[np.isfinite(a)].astype(np.float64)) for a, b in pairs]
    if kind == "embeddings":
        return np.array([1 - float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30)) for a, b in known])
    same = all(a.shape == known[0][0].shape for a, _ in known)
    centre = np.mean([a for a, _ in known], axis=0) if same else np.mean(np.concatenate([a for a, _ in known]))
    spread = np.mean([np.square(a - centre).mean() for a, _ in known])
    return np.array([float(np.square(a - b).mean() / max(spread, 1e-30)) for a, b in known])


def speed(runs: list[onnxruntime.InferenceSession], feed: dict[str, Array]) -> list[float]:
    """How much less of the processor the second takes, in turns: between which of four parts of the rounds it lies.

    The processor's time of this one thread: the clock would tell what else the machine does.
    """
    rounds: list[list[float]] = []
    end = time.perf_counter() + SECONDS
    while (time.perf_counter() < end and len(rounds) < ROUNDS[1]) or len(rounds) < ROUNDS[0]:
        row = [0.0, 0.0]
        for which in (0, 1) if len(rounds) % 2 else (1, 0):
            start = time.thread_time()
            runs[which].run(None, feed)
            row[which] = time.thread_time() - start
        rounds.append(row)
    table = np.array(rounds)
    parts = table[::2], table[1::2], table[: len(table) // 2], table[len(table) // 2 :]
    ratios = [float(best[0] / best[1]) for best in (part.min(axis=0) for part in parts)]
    return [min(ratios), max(ratios)]


def main(source: Path, result: Path, folder: Path, kind: str) -> dict[str, Any]:
    """All that is measured."""
    runs = [session(source), session(result)]
    names = [each.name for each in runs[0].get_outputs()]
    if signature(runs[0]) != signature(runs[1]):
        return {"error": f"inputs or outputs changed: {signature(runs[1])}"}
    feeds = []
    for file in sorted(folder.glob("*.npz")):
        with np.load(file, allow_pickle=False) as arrays:
            feeds.append({name: arrays[name] for name in arrays.files})
    before, after = (list(zip(*[run.run(None, feed) for feed in feeds], strict=True)) for run in runs)
    lost = losses(kind, list(before[0]), list(after[0]))
    return {
        "error": "",
        "samples": len(feeds),
        "outputs": {name: distance(list(a), list(b)) for name, a, b in zip(names, before, after, strict=True)},
        "loss": float(lost.mean()),
        "loss_error": float(lost.std() / math.sqrt(len(lost))),
        "bytes": [source.stat().st_size, result.stat().st_size],
        "speed": speed(runs, feeds[0]),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])))
