"""Cross-layer equalization: the same function, evener channels, and less lost by quantization."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.calibrate.ranges import collect
from lwgraph.check import verify
from lwgraph.passes.quantize.equalize import Equalize, wanted
from lwgraph.passes.quantize.graph.channels import Channels
from lwgraph.passes.quantize.graph.shapes import infer
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.rewrite import Context
from tests.passes.quantize.quantize_models import Net, detector, images, residual

DATA = images(6)


def equalized(model: ir.Model, data: list[dict[str, Array]] | None) -> tuple[ir.Model, int]:
    made = ir.clone(model)
    count = Equalize().run(made, Context(executor=registry.executor("ort"), data=data))  # type: ignore[arg-type]
    verify(made)
    return made, count


def outputs(model: ir.Model, data: list[dict[str, Array]]) -> Array:
    run = registry.executor("ort").prepare(model)
    return np.concatenate([v.reshape(-1) for f in data for v in run(f).values()]).astype(np.float64)


def lost(model: ir.Model, other: ir.Model, data: list[dict[str, Array]]) -> float:
    y, z = outputs(model, data), outputs(other, data)
    return float(((y - z) ** 2).mean() / y.var())


def uneven(n: Net, weight: str, bias: str, spread: float = 300.0) -> None:
    """Make the output channels of a layer differ by a factor of `spread`."""
    factor = np.geomspace(1, 1 / spread, len(n.constants[bias])).astype(np.float32)
    n.constants[weight] *= factor.reshape(-1, 1, 1, 1)
    n.constants[bias] *= factor


def chain() -> ir.Model:
    n = Net()
    x = n.input("x", [1, 3, 16, 16])
    a = n.op("Relu", n.conv(x, 3, 16, name="a"))
    uneven(n, "c0", "c1")
    b = n.conv(n.op("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2]), 16, 8, name="b")
    n.constants["c2"] *= np.geomspace(1, 300, 16).astype(np.float32).reshape(1, -1, 1, 1)
    return n.model(b)


def branches() -> ir.Model:
    """Add of a constant and of a tensor, Concat, Slice, Split, ConvTranspose, groups, Pad, Flatten, a gate."""
    n = Net()
    x = n.input("x", [1, 3, 16, 16])
    a = n.op("LeakyRelu", n.conv(x, 3, 8, name="a"), alpha=0.1)
    uneven(n, "c0", "c1")
    b = n.op("Add", n.conv(a, 8, 8, name="b"), n.constant(n.rng.normal(size=(8, 1, 1)).astype(np.float32)))
    c = n.op("Relu", n.op("Add", a, b))
    d = n.conv(c, 8, 8, group=8, name="d")
    left, right = f"{(s := n.op('Split', d, axis=1, outputs=2, name='split'))}", "split_out1"
    del s
    both = n.op("Concat", right, n.op("Relu", left), c, axis=1)
    part = n.op("Slice", both, *(n.constant(np.array(v, np.int64)) for v in ([2], [14], [1])))
    up = n.op(
        "ConvTranspose",
        part,
        n.constant(n.rng.normal(size=(12, 3, 2, 2)).astype(np.float32)),
        n.constant(n.rng.normal(size=6).astype(np.float32)),
        group=2,
        strides=[2, 2],
        name="up",
    )
    gate = n.op("Sigmoid", n.conv(n.op("GlobalAveragePool", up), 6, 6, k=1, name="gate"))
    gated = n.op("Mul", up, gate)
    padded = n.op("Pad", gated, n.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)))
    small = n.op("AveragePool", n.conv(padded, 6, 4, group=2, name="e"), kernel_shape=[17, 17], strides=[17, 17])
    return n.model(n.gemm(n.op("Flatten", n.op("Relu", small)), 16, 5, name="head"))


def clipped() -> ir.Model:
    n = Net()
    x = n.input("x", [1, 3, 16, 16])
    zero, six = n.constant(np.float32(0)), n.constant(np.float32(6))
    a = n.op("Clip", n.conv(x, 3, 16, name="a"), zero, six)
    n.constants["c2"] *= np.geomspace(3, 0.02, 16).astype(np.float32).reshape(-1, 1, 1, 1)  # some reach 6, some 0.05
    n.constants["c3"][:] = 0
    b = n.op("Clip", n.op("Add", n.conv(a, 16, 16, group=16, name="b"), a), zero, six)
    return n.model(n.conv(b, 16, 8, k=1, name="c"))


MODELS: dict[str, Callable[[], ir.Model]] = {
    "chain": chain,
    "branches": branches,
    "clipped": clipped,
    "residual": residual,
    "detector": detector,
}


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_the_function_stays_the_same(name: str, data: bool) -> None:
    model = MODELS[name]()
    made, count = equalized(model, DATA if data else None)
    assert lost(model, made, DATA) < 1e-9
    assert count > 0 or name == ("detector" if data else "clipped")  # even enough, and nobody knows who reaches clips


def test_other_data_may_go_further_in_a_channel_before_it_is_clipped() -> None:
    model = clipped()
    made, _ = equalized(model, DATA)
    assert lost(model, made, [{k: np.float32(1.5) * v for k, v in f.items()} for f in DATA]) < 1e-9


@pytest.mark.parametrize("name", ["chain", "clipped"])
def test_quantization_loses_less(name: str) -> None:
    model = MODELS[name]()
    made, _ = equalized(model, DATA)
    errors = []
    for start in (model, made):
        end = ir.clone(start)
        context = Context(executor=registry.executor("ort"), data=list(DATA))
        Quantize(calibration_method="minmax", keep="none", equalize=False).run(end, context)
        errors.append(lost(model, end, images(seed=7)))
    assert errors[1] < 0.7 * errors[0]


def test_channels_end_up_even() -> None:
    made, _ = equalized(chain(), DATA)
    run = registry.executor("ort").prepare(made, ["relu1_out"])
    reach = np.max([run(f)["relu1_out"].max(axis=(0, 2, 3)) for f in DATA], axis=0)
    assert reach.max() / reach.min() < 100  # it was over 300


def test_what_must_not_be_scaled_is_not() -> None:
    """Graph outputs and the inputs of sigmoids hold their channels."""
    n = Net()
    x = n.input("x", [1, 3, 16, 16])
    a = n.op("Relu", n.conv(x, 3, 16, name="a"))
    uneven(n, "c0", "c1")
    b = n.conv(a, 16, 8, name="b")
    s = n.conv(n.op("Sigmoid", b), 8, 4, name="s")
    model = n.model(s, a)
    made, count = equalized(model, DATA)
    assert count == 0 and lost(model, made, DATA) == 0


def test_shared_weights_are_copied_before_they_are_scaled() -> None:
    n = Net()
    x = n.input("x", [1, 8, 16, 16])
    a = n.op("Relu", n.conv(x, 8, 8, name="a"))
    uneven(n, "c0", "c1")
    b = n.op("Sigmoid", n.op("Conv", a, "c0", "c1", pads=[1] * 4, name="b"))
    model, data = n.model(n.op("Conv", b, "c0", "c1", pads=[1] * 4, name="c")), images(4, (1, 8, 16, 16))
    made, count = equalized(model, data)
    assert count == 2 and lost(model, made, data) < 1e-9


def test_channels_that_meet_are_one_variable() -> None:
    model = residual()
    infer(model)
    channels = Channels.of(model.graph)
    by_name = {layer.node.name: layer for layer in channels.layers}
    stem, outer, inner = (channels.roots(by_name[name].outputs) for name in ("stem", "outer", "inner"))
    np.testing.assert_array_equal(stem, outer)
    assert not set(stem) & set(inner)
    assert channels.frozen(by_name["stem"].inputs).all() and channels.frozen(by_name["classifier"].outputs).all()
    assert not channels.frozen(by_name["pointwise"].outputs).any()


def test_a_quantized_model_is_left_alone() -> None:
    made = residual()
    context = Context(executor=registry.executor("ort"), data=list(DATA))
    Quantize(calibration_method="minmax", keep="none").run(made, context)
    assert Equalize().run(made, context) == 0 and "already quantized" in context.skipped[-1].reason


def test_channels_are_only_evened_out_where_that_promises_enough() -> None:
    uneven_, executor = chain(), registry.executor("ort")
    infer(uneven_)
    names = wanted(uneven_)
    seen = collect(uneven_, DATA, executor, names, channels=dict.fromkeys(names, 1), samples=0)
    assert Equalize().balance(ir.clone(uneven_), seen) == 2
    assert Equalize().balance(ir.clone(uneven_), seen, 1.03) == 2
    assert Equalize().balance(ir.clone(uneven_), seen, 1e9) == 0
