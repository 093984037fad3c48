"""A text classifier: which part of Python's library a docstring is of. The sentence encoder with a linear layer on top.

No package has a classifier of texts small enough for this table, so its last layer is fitted here, by ridge regression.
"""

from __future__ import annotations

import ast
import functools
import sysconfig
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from benchmarks.zoo import cache, fetch, minilm
from benchmarks.zoo.case import Case, Feeds, Run, first

PARTS = ("asyncio", "email", "http", "importlib", "logging", "multiprocessing", "tkinter", "unittest", "xml")
LEAST, MOST, EACH = 40, 500, 200  # characters of a text; texts of one part
FITTED, CALIBRATION = 0.5, 128  # share of the texts that the last layer is fitted to; texts for calibration
RIDGE = 0.1


def texts(part: str) -> list[str]:
    """The first paragraphs of the docstrings in a package of Python's library, without those that come twice."""
    found: dict[str, None] = {}
    for file in sorted((Path(sysconfig.get_path("stdlib")) / part).rglob("*.py")):
        if "test" in file.relative_to(sysconfig.get_path("stdlib")).parts:
            continue
        for node in ast.walk(ast.parse(file.read_text("utf8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                line = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                if LEAST <= len(line) <= MOST:
                    found[line] = None
    return list(found)[:EACH]


def _tokens() -> cache.Arrays:
    from tokenizers import Tokenizer  # needed once, for the cache

    reader = Tokenizer.from_file(str(fetch.package_file(minilm.PACKAGE, f"{minilm.INSIDE}/tokenizer.json")))
    reader.no_padding()
    reader.enable_truncation(minilm.LONGEST)
    lines = [(label, line) for label, part in enumerate(PARTS) for line in texts(part)]
    order = np.random.default_rng(0).permutation(len(lines))
    rows = [reader.encode(lines[i][1]).ids for i in order]
    return {
        "ids": np.concatenate(rows).astype(np.int64),
        "ends": np.cumsum([len(row) for row in rows]),
        "labels": np.array([lines[i][0] for i in order]),
    }


@functools.cache
def _samples() -> tuple[list[Feeds], npt.NDArray[np.int64]]:
    """All texts in a fixed order, and the part that each is of."""
    stored = cache.arrays("docstrings", f"{minilm.PACKAGE} {PARTS} {LEAST} {MOST} {EACH}", _tokens)
    rows = np.split(stored["ids"], stored["ends"][:-1])
    kept = [{"input_ids": row[None], "attention_mask": np.ones_like(row[None])} for row in rows]
    return [{**feed, "token_type_ids": np.zeros_like(feed["input_ids"])} for feed in kept], stored["labels"]


def _fitted() -> int:
    return int(FITTED * len(_samples()[0]))


def model() -> Path:
    """The network, made once into the cache."""
    path = cache.folder("models") / "docstrings.onnx"
    if not path.exists():
        from lwgraph import ir, registry

        feeds, labels = _samples()
        run = registry.executor("ort").prepare(ir.load(minilm.model()))
        x = minilm.embeddings(run, feeds[: _fitted()]).astype(np.float64)
        aims, mean = np.eye(len(PARTS))[labels[: _fitted()]], x.mean(0)
        centred = x - mean
        weight = np.linalg.solve(centred.T @ centred + RIDGE * np.eye(x.shape[1]), centred.T @ (aims - aims.mean(0)))
        made = onnx.load(minilm.model())
        (embedding,) = made.graph.output
        for name, array in (("classifier.weight", weight), ("classifier.bias", aims.mean(0) - mean @ weight)):
            made.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
        inputs = [embedding.name, "classifier.weight", "classifier.bias"]
        made.graph.node.append(helper.make_node("Gemm", inputs, ["logits"], name="/classifier/Gemm"))
        del made.graph.output[:]
        made.graph.output.append(helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", len(PARTS)]))
        with cache.replacing(path) as new:
            onnx.save(made, new)
    return path


def calibration() -> list[Feeds]:
    """Of the texts that the last layer was fitted to, 128, one a feed, each of its own length."""
    return _samples()[0][:CALIBRATION]


def evaluation() -> list[Feeds]:
    """The other half of the texts."""
    return _samples()[0][_fitted() :]


def metric(run: Run) -> float:
    """The share of texts whose part is found."""
    labels = _samples()[1][_fitted() :]
    right = [first(run(feed)).argmax() == label for feed, label in zip(evaluation(), labels, strict=True)]
    return float(np.mean(right))


def example() -> Feeds:
    """The longest text."""
    return max(evaluation(), key=lambda feed: feed["input_ids"].size)


CASE = Case("docstrings", "text classifier, six transformer layers", model, calibration, metric, example, "top-1", 0.82)
