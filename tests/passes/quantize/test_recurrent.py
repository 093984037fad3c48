"""LSTM and GRU as loops over integer products."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from lwgraph import ir, registry
from lwgraph.check import verify
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.passes.quantize.recurrent import QuantizeRecurrent
from lwgraph.rewrite import Context

HIDDEN, INPUTS, STEPS = 12, 9, 6
GATES = {"LSTM": 4, "GRU": 3}


def model(
    op: str = "LSTM",
    direction: str = "forward",
    *,
    batch: int | str = "n",
    opset: int = 17,
    state: float | None = None,
    bias: bool = True,
    lengths: bool = False,
    outputs: int | None = None,
    **attributes: Any,
) -> ir.Model:
    rng = np.random.default_rng(0)
    d, g = (2 if direction == "bidirectional" else 1), GATES[op]
    constants = {
        "w": rng.normal(0, 0.4, (d, g * HIDDEN, INPUTS)),
        "r": rng.normal(0, 0.4, (d, g * HIDDEN, HIDDEN)),
        "b": rng.normal(0, 0.3, (d, 2 * g * HIDDEN)),
    }
    if state is not None:
        constants |= {"h": np.full((d, 2, HIDDEN), state), "c": rng.normal(0, 1, (d, 2, HIDDEN))}
    if lengths:
        constants["l"] = np.array([STEPS, STEPS])
    names = [
        "x",
        "w",
        "r",
        "b" if bias else "",
        "l" if lengths else "",
        "h" if state is not None else "",
        "c" if state is not None and op == "LSTM" else "",
    ]
    if op == "GRU":
        names.pop()
    count = outputs or (3 if op == "LSTM" else 2)
    results = ["y", "last", "cell"][:count]
    node = helper.make_node(op, names, results, name="layer", direction=direction, hidden_size=HIDDEN, **attributes)
    shapes: list[list[int | str]] = [[STEPS, d, batch, HIDDEN], [d, batch, HIDDEN], [d, batch, HIDDEN]]
    graph = helper.make_graph(
        [node],
        "recurrent",
        [helper.make_tensor_value_info("x", 1, [STEPS, batch, INPUTS])],
        [helper.make_tensor_value_info(n, 1, s) for n, s in zip(results, shapes, strict=False)],
        [
            onnx.numpy_helper.from_array(v.astype(np.int32 if k == "l" else np.float32), k)
            for k, v in constants.items()
            if k in names
        ],
    )
    return ir.load(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)]))


def rewritten(made: ir.Model) -> tuple[ir.Model, Context, int]:
    copy, context = ir.clone(made), Context()
    count = QuantizeRecurrent().run(copy, context)
    verify(copy)
    return copy, context, count


def compared(a: ir.Model, b: ir.Model, executor: str = "ort") -> float:
    feed = {"x": np.random.default_rng(1).normal(size=(STEPS, 2, INPUTS)).astype(np.float32)}
    y = registry.executor("ort").prepare(a)(feed)
    z = registry.executor(executor).prepare(b)(feed)
    assert list(y) == list(z) and all(y[k].shape == z[k].shape for k in y)
    return max(float(np.square(y[k] - z[k]).mean() / y[k].var()) for k in y)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op", "options"), [("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 1})])
def test_the_loop_means_the_layer(op: str, options: dict[str, Any], direction: str) -> None:
    made = model(op, direction, **options)
    got, _, count = rewritten(made)
    assert count == 1 and not any(n.op_type == op for n in got.graph)
    assert compared(made, got) < 1e-3


@pytest.mark.parametrize("opset", [11, 12, 13, 18, 21])
def test_every_opset(opset: int) -> None:
    made = model(opset=opset)
    assert compared(made, rewritten(made)[0]) < 1e-3


@pytest.mark.parametrize("options", [{"state": 0.9, "batch": 2}, {"bias": False}, {"batch": 2}, {"outputs": 1}])
def test_states_biases_and_batches(options: dict[str, Any]) -> None:
    for op in GATES:
        made = model(op, "bidirectional", **options)
        assert compared(made, rewritten(made)[0]) < 1e-3


def test_the_reference_runtime_agrees() -> None:
    got = rewritten(model("GRU", "bidirectional"))[0]
    assert compared(got, got, "reference") < 1e-6


def test_weights_are_bytes() -> None:
    got = rewritten(model())[0]
    bodies = [n.attributes["body"].value for n in got.graph if n.op_type == "Scan"]
    values = [*got.graph.initializers.values(), *(v for b in bodies for v in b.initializers.values())]
    sizes = {v.name: ir.constant(v).nbytes for v in values if ir.constant(v) is not None}  # type: ignore[union-attr]
    assert sum(sizes.values()) < 0.5 * 4 * 4 * HIDDEN * (HIDDEN + INPUTS)


def test_what_would_not_mean_the_same_is_left() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"state": 1.5, "batch": 2}, "initial state"),
        ({"lengths": True, "batch": 2}, "lengths"),
        ({"clip": 3.0}, "clip"),
        ({"activations": ["Tanh"] * 3}, "activations"),
        ({"opset": 10}, "opset"),
    ]
    for options, why in cases:
        got, context, count = rewritten(model(**options))
        assert count == 0 and why in context.skipped[0].reason and any(n.op_type == "LSTM" for n in got.graph)


def test_quantize_takes_recurrent_layers_along() -> None:
    made = model("LSTM", "bidirectional")
    rng = np.random.default_rng(2)
    data = [{"x": rng.normal(size=(STEPS, 2, INPUTS)).astype(np.float32)} for _ in range(4)]
    for options, loops in [({}, 1), ({"nodes_to_exclude": ("layer",)}, 0), ({"target": "tensorrt"}, 0)]:
        copy = ir.clone(made)
        count = Quantize(keep="none", **options).run(copy, Context(data=list(data)))  # type: ignore[arg-type]
        assert count == loops and any(n.op_type == "Scan" for n in copy.graph) == bool(loops)
        assert compared(made, copy) < 1e-3


def test_a_loop_that_is_slower_or_too_inaccurate_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model("GRU")
    data = [{"x": np.random.default_rng(2).normal(size=(STEPS, 2, INPUTS)).astype(np.float32)}]
    for seconds, max_loss, why in [(1.0, None, "no faster"), (0.5, 1e-12, "raises the loss"), (0.5, 0.5, "")]:
        monkeypatch.setattr(
            "lwgraph.passes.quantize.quantize.race",
            lambda runs, feed, seconds=seconds: {"before": 1.0, "after": seconds},
        )
        mixed = Quantize().within(made, Context(data=list(data)), max_loss)
        assert bool(mixed.running) == (not why) and why in mixed.kept.get("layer", "")
        assert ir.fingerprint(mixed.model) != ir.fingerprint(made) or why


def test_what_is_said_to_be_in_integers_is_neither_timed_nor_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trial plans say so, many times over."""
    data, asked = [{"x": np.random.default_rng(2).normal(size=(STEPS, 2, INPUTS)).astype(np.float32)}], list[str]()
    for name in ("race", "Distance"):
        monkeypatch.setattr(
            f"lwgraph.passes.quantize.quantize.{name}", lambda *given, name=name: asked.append(name) or {}
        )
    assert Quantize(keep="none", calibration_method="minmax", equalize=False, rounding="nearest").run(
        model("GRU"), Context(data=list(data))
    )
    assert not asked
