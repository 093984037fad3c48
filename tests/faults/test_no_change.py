"""A pass that finds nothing to do leaves names, types and opsets as they were, and does not end the run."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from lwgraph import ir, registry
from lwgraph.rewrite import Context, Pass, Pipeline
from lwgraph.rewrite.instruments.verify import Verify
from tests.faults.models import images, kernel, model

SHAPE = (2, 6)
DATA = images(4, SHAPE)
RAISING = ("half", "power-of-two", "quantize", "quantize-recurrent", "quantize-weights", "share-weights")  # the opset
TRAINED = {"distill"}  # takes torch, and always does something


def small(opset: int) -> ir.Model:
    """Nodes and inner values without names, types or sizes of their own, and layers too small for any pass."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Concat", ["b", "x"], ["c"], axis=1),
        helper.make_node("Softmax", ["c"], ["y"], axis=1),
    ]
    return model(
        nodes,
        {"w": kernel(1, 6, 3)},
        inputs=[("x", TensorProto.FLOAT, SHAPE)],
        outputs=[("y", TensorProto.FLOAT, (2, 9))],
        opset=opset,
        infer=False,
    )


@pytest.mark.parametrize(
    ("name", "opset"),
    [
        *((name, 9) for name in sorted({*registry.names("passes"), *registry.names("forms")} - TRAINED)),
        *((name, 17) for name in RAISING),
    ],
)
def test_nothing_is_changed(name: str, opset: int) -> None:
    before = small(opset)
    after = ir.clone(before)
    context = Context(executor=registry.executor("ort"), data=DATA, teacher=before)
    (step,) = Pipeline([Pass.parse(name)]).rewrite(after, context, [Verify(approximate=False)])
    if not step.count:
        assert ir.fingerprint(after) == ir.fingerprint(before)
