"""Images at a lower resolution: what is put in front, that the interface stays, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.check import verify
from lwgraph.errors import UsageError
from lwgraph.passes.prune.shrink_input import ShrinkInput
from lwgraph.rewrite import Context, Pass
from tests.passes.prune.pictures import classifier, fixed, image
from tests.passes.quantize.quantize_models import Net

ORT = registry.executor("ort")


def seen(model: ir.Model, fed: dict[str, Array]) -> Array:
    """What the first convolution sees."""
    copy = ir.clone(model)
    conv = next(node for node in copy.graph if node.op_type == "Conv")
    assert conv.inputs[0] is not None
    copy.graph.outputs.append(conv.inputs[0])
    runs = [registry.executor(name).prepare(copy)(fed) for name in ("ort", "reference")]
    name = str(conv.inputs[0].name)
    np.testing.assert_allclose(runs[0][name], runs[1][name], atol=1e-6)
    return runs[0][name]


@pytest.mark.parametrize(
    ("scale", "size", "expected", "operators"),
    [
        (0.5, (24, 20), (12, 10), ["AveragePool"]),
        (0.75, (24, 20), (18, 15), ["Resize"]),
        (0.3, (60, 30), (18, 9), ["AveragePool", "Resize"]),
        (0.5, (25, 31), (12, 16), ["Resize"]),
        (0.7, (224, 29), (157, 20), ["Resize"]),
    ],
)
def test_the_sizes_that_are_left(
    scale: float, size: tuple[int, int], expected: tuple[int, int], operators: list[str]
) -> None:
    for sides in (size, ("height", "width")):
        model, fed = classifier(*sides), image(*size)
        assert ShrinkInput(scale).run(model, Context(executor=ORT, data=[fed])) == 1
        left = seen(model, fed)
        if sides == size:
            assert left.shape == (2, 3, *expected)
            assert [node.op_type for node in list(model.graph)[: len(operators)]] == operators
            shapes = {node.op_type: list(node.outputs[0].shape or ()) for node in model.graph}
            assert shapes[operators[-1]][1:] == [3, *expected] and shapes["Conv"][2:] == list(expected)
        else:
            assert all(abs(got - want) <= 2 for got, want in zip(left.shape[2:], expected, strict=True))
        # The picture is the same, seen from the same place: a ramp stays a ramp with the same middle.
        assert left.mean() == pytest.approx(fed["x"].mean(), abs=0.08)
        steps = np.diff(left[0, 0].mean(1))[1:-1]
        assert np.allclose(steps, steps[0], rtol=0.02)


@pytest.mark.parametrize("sides", [(24, 24), ("height", "width")])
def test_the_interface_stays(sides: tuple[int | str, int | str]) -> None:
    model, again = classifier(*sides), classifier(*sides)
    before = ORT.prepare(model)(image(24, 24))
    for each in (model, again):
        assert ShrinkInput(0.5).run(each, Context(seed=3)) == 1  # without data some are made up
    verify(model)
    assert ir.fingerprint(model) == ir.fingerprint(again)
    assert list(model.graph.inputs[0].shape or ())[2:] == list(classifier(*sides).graph.inputs[0].shape or ())[2:]
    for name, after in ORT.prepare(model)(image(24, 24)).items():
        np.testing.assert_allclose(after, before[name], rtol=0.1, atol=0.1)


def folded() -> ir.Model:
    """It runs at other sizes and gives outputs of other shapes then."""
    n = Net(17)
    h = n.conv(n.input("x", [1, 3, 16, 16]), 3, 4, name="conv")
    return n.model(n.op("Reshape", h, n.constant(np.array([-1, 8]))))


def pictures_only() -> ir.Model:
    n = Net(17)
    return n.model(n.gemm(n.input("x", ["batch", 16]), 16, 5, name="head"))


@pytest.mark.parametrize(
    ("model", "scale", "reason"),
    [
        (fixed(), 0.75, "the smaller image does not fit what follows"),
        (folded(), 0.75, "instead of [128, 8]"),
        (pictures_only(), 0.75, "no batch of images"),
        (classifier(channels=16), 0.75, "no batch of images"),
        (classifier(12, 12), 0.5, "fewer than 8"),
        (classifier(opset=10), 0.5, "opset 11"),
    ],
)
def test_what_cannot_be_shrunk_stays_as_it_is(model: ir.Model, scale: float, reason: str) -> None:
    before, context = ir.fingerprint(model), Context(executor=ORT)
    assert ShrinkInput(scale).run(model, context) == 0
    assert ir.fingerprint(model) == before
    assert reason in context.skipped[0].reason


def test_outputs_of_the_size_of_the_image_keep_it() -> None:
    """A network that resizes its output to the size that it reads of the input."""
    n = Net(17)
    x = n.input("x", [1, 3, 16, 16])
    h = n.op("MaxPool", n.conv(x, 3, 4, name="conv"), kernel_shape=[2, 2], strides=[2, 2])
    batch = n.op("Concat", n.constant(np.array([1, 4])), n.op("Slice", n.op("Shape", x), *_slice(n)), axis=0)
    empty = n.constant(np.array([], np.float32))
    model = n.model(n.op("Resize", h, empty, empty, batch, mode="linear"))
    assert ShrinkInput(0.5).run(model, Context(executor=ORT)) == 1
    (found,) = ORT.prepare(model)(image(16, 16, batch=1)).values()
    assert found.shape == (1, 4, 16, 16) and seen(model, image(16, 16, batch=1)).shape[2:] == (8, 8)


def _slice(n: Net) -> list[str]:
    return [n.constant(np.array([each])) for each in (2, 4)]


def test_options() -> None:
    n = Net(17)
    n.inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 3, 16, 16]))
    h = n.op("Add", n.op("GlobalAveragePool", n.input("x", [1, 3, 16, 16])), n.op("GlobalAveragePool", "mask"))
    model = n.model(h)
    assert ShrinkInput(0.5, inputs=("mask",)).run(model, Context(executor=ORT)) == 1
    assert [str(node.inputs[0].name) for node in model.graph if node.op_type == "AveragePool"] == ["mask"]
    assert Pass.parse("shrink-input{scale=0.5}") == ShrinkInput(0.5)
    for options, said in [({"scale": 1.0}, "between 0 and 1"), ({"scale": 0.0}, "between 0 and 1")]:
        with pytest.raises(UsageError, match=said):
            ShrinkInput(**options)
    with pytest.raises(UsageError, match="'y', which the model does not have"):
        ShrinkInput(inputs=("y",)).run(model, Context(executor=ORT))
    with pytest.raises(UsageError, match="no batch of images"):
        ShrinkInput(inputs=("x",)).run(pictures_only(), Context(executor=ORT))
