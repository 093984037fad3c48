"""Weights as codes on every case: points, bytes, loading and running, of floats and on top of 8-bit integers."""

from __future__ import annotations

import json
import lzma
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import onnxruntime

from benchmarks import judge, run, tables, zoo
from benchmarks.quantize_table import PAGE
from benchmarks.zoo import Case
from lwgraph import ir, registry
from lwgraph.rewrite import Context, Pass, Pipeline

WAYS = {
    "4-bit powers of two": "power-of-two",
    "5-bit sums of two powers": "power-of-two{bits=5}",
    "codebooks of 16": "share-weights",
    "4-bit powers of two, int8": "power-of-two,quantize",
    "codebooks of 16, int8": "share-weights,quantize",
    "int8 alone": "quantize",
}
LOADS = 25  # of each model, in turns; the least counts
SECONDS = 5.0  # of timing


def loading(models: dict[str, Path]) -> dict[str, float]:
    """Seconds of the processor that ONNX Runtime takes to make a session, the least of LOADS, all models in turns."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = judge.THREADS, 3
    best = dict.fromkeys(models, float("inf"))
    for _ in range(LOADS):
        for name, path in models.items():
            started = time.process_time()
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            best[name] = min(best[name], time.process_time() - started)
    return best


def made(case: Case, pipeline: str, path: Path) -> None:
    """The case's model after these passes."""
    model, executor = ir.load(case.model()), registry.executor("ort", threads=judge.THREADS)
    context = Context(executor=executor, data=list(case.calibration()))
    passes = Pipeline([Pass.parse(text) for text in pipeline.split(",")])
    passes.rewrite(model, context)
    ir.save(model, path, overwrite=True, external=False)


def row(case: Case, way: str) -> dict[str, Any]:
    """All figures of one way to store the weights of a case."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "coded.onnx")
        made(case, WAYS[way], path)
        models = {"input": case.model(), "coded": path}
        loads = loading(models)
        base = judge.score(case, case.model())
        return {
            "commit": run.commit(),
            "points": case.points(base, judge.score(case, path)),
            "size": judge.size(path) / judge.size(case.model()),
            "packed": len(lzma.compress(path.read_bytes())) / judge.size(case.model()),
            "loading": loads["coded"] / loads["input"],
            "speed": judge.race(case, models, SECONDS).speedup("coded").ratio,
        }


def _report() -> str:
    rows = []
    for name in zoo.NAMES:
        for way in WAYS:
            found = tables.kept("codes", f"{name}-{way}")
            if found is not None:
                figures = [f"{found[key]:{style}}" for key, style in STYLES.items()]
                rows.append([name, way, *figures, found["commit"]])
    head = ["case", "weights", "points lost", "size", "size, lzma", "loading", "speed-up", "build"]
    return f"{tables.conditions()}\n\n{tables.table(head, rows)}"


STYLES = {"points": ".2f", "size": ".3f", "packed": ".3f", "loading": ".2f", "speed": ".2f"}


def main(names: Sequence[str], again: bool) -> None:
    """Measure what is not kept, and write the table after each row."""
    for name in names or zoo.NAMES:
        for way in WAYS:
            key = f"{name}-{way}"
            if not again and tables.kept("codes", key) is not None:
                continue
            found = row(zoo.case(name), way)
            tables.keep("codes", key, found)
            tables.write("codes", _report(), PAGE)
            click.echo(f"{key}: {json.dumps(found)}")
    tables.write("codes", _report(), PAGE)
