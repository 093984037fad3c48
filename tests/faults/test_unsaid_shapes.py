"""What shape inference does not know is measured: values that a runtime loses, ranks, batches, tensors without data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from lwgraph import ir, registry
from lwgraph.calibrate.capture import capture, measured_shapes
from lwgraph.calibrate.ranges import collect
from lwgraph.passes.prune.blocks import PruneBlocks
from lwgraph.passes.quantize.absorb_bias import AbsorbBias
from lwgraph.passes.quantize.equalize import Equalize
from lwgraph.passes.quantize.half import Half
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.passes.recover.repair import RepairStatistics
from lwgraph.rewrite import Context, Pass
from tests.faults.models import applied, conv, images, in_integers, kernel, model, reasons, run, sqnr

F32 = TensorProto.FLOAT
ANY = helper.make_tensor_value_info("y", F32, None)


def either(x: str, y: str, then: Sequence[NodeProto]) -> list[NodeProto]:
    """As `then` makes `y` where the first size of `x` is 7, else `x` itself: nothing knows the rank of `y`."""
    other = helper.make_node("Identity", [x], [f"{y}_other"])
    bodies = {
        "then_branch": helper.make_graph(then, "then", [], [helper.make_tensor_value_info(f"{y}_then", F32, None)]),
        "else_branch": helper.make_graph([other], "else", [], [helper.make_tensor_value_info(f"{y}_other", F32, None)]),
    }
    return [
        helper.make_node("Shape", [x], [f"{y}_shape"]),
        helper.make_node("Gather", [f"{y}_shape", "zero"], [f"{y}_size"]),
        helper.make_node("Equal", [f"{y}_size", "seven"], [f"{y}_flat"]),
        helper.make_node("If", [f"{y}_flat"], [y], f"if_{y}", **bodies),
    ]


def squeezed(x: str, y: str) -> list[NodeProto]:
    """PyTorch's squeeze of an axis of unknown size."""
    return either(x, y, [helper.make_node("Squeeze", [x, "zero"], [f"{y}_then"])])


SIZES = {"zero": np.array([0], np.int64), "seven": np.array([7], np.int64)}
NORM = {name: np.abs(kernel(i, 8)) + 0.5 for i, name in enumerate(("scale", "shift", "mean", "variance"))}
CONVS = {"w1": kernel(11, 8, 8, 3, 3), "w2": kernel(12, 8, 8, 3, 3), "b1": kernel(13, 8)}


def of_unknown_rank() -> ir.Model:
    """Conv, a squeeze, BatchNormalization, Relu, Conv."""
    nodes = [
        conv("x", "w1", "a"),
        *squeezed("a", "b"),
        helper.make_node("BatchNormalization", ["b", *NORM], ["c"], "norm"),
        helper.make_node("Relu", ["c"], ["d"], "relu"),
        conv("d", "w2", "y"),
    ]
    return model(nodes, {**CONVS, **NORM, **SIZES}, outputs=[ANY])


def test_a_value_that_the_runtime_optimizes_away_is_seen_all_the_same() -> None:
    before, feed = of_unknown_rank(), images(1)[0]
    ort = registry.executor("ort")
    assert measured_shapes(before, ["a", "b"], feed, ort) == {"a": (1, 8, 8, 8), "b": (1, 8, 8, 8)}
    ((_, seen),) = capture(before, ["a", "d"], [feed], ort)
    alone = model([conv("x", "w1", "y")], CONVS)
    np.testing.assert_allclose(seen["a"], run(alone, feed)[0], atol=1e-5)


def test_channels_where_the_rank_is_not_known() -> None:
    before, data = of_unknown_rank(), images()
    assert ir.infer_shapes(before).get(next(v for n in before.graph for v in n.outputs if v.name == "d")) is None
    seen = collect(before, data, registry.executor("ort"), ["d"], channels={"d": 1})["d"]
    assert seen.channel_low is not None and seen.channel_low.shape == (8,) and (seen.channel_low >= 0).all()


@pytest.mark.parametrize("pass_", [Equalize(), AbsorbBias(), Quantize(keep="none"), Half(activations=True)], ids=str)
def test_passes_where_the_rank_is_not_known(pass_: Pass) -> None:
    before, data = of_unknown_rank(), images()
    after, _, _ = applied(pass_, before, data)
    assert sqnr(before, after, data) > 25


def test_a_tensor_that_is_always_empty_stays_in_float() -> None:
    nodes = [
        conv("x", "w1", "y"),
        helper.make_node("Slice", ["y", "zero", "zero", "zero"], ["none"], "slice"),
        conv("none", "w2", "more"),
    ]
    outputs = [("y", F32, (1, 8, 8, 8)), ("more", F32, ("n", 8, 8, 8))]
    before, data = model(nodes, {**CONVS, **SIZES}, outputs=outputs), images()
    after, context, count = applied(Quantize(target="qnn", keep="none"), before, data)
    assert count and in_integers(after) == {"conv_y"} and "'none' was empty in every sample" in reasons(context)
    assert run(after, data[0])[1].shape == (0, 8, 8, 8)


def test_a_layer_left_in_float_between_integers_of_opset_10_can_be_loaded() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "m1"], ["a"], "one"),
        helper.make_node("Gemm", ["a", "m2", "b1"], ["b"], "float", beta=0.0),
        helper.make_node("MatMul", ["b", "m3"], ["y"], "two"),
    ]
    weights = {f"m{i}": kernel(20 + i, 16, 16) for i in (1, 2, 3)} | {"b1": kernel(24, 16)}
    sizes = {"inputs": [("x", F32, (4, 16))], "outputs": [("y", F32, (4, 16))]}
    before, data = model(nodes, weights, opset=10, **sizes), images(shape=(4, 16))
    after, _, count = applied(Quantize(target="qnn", keep="none"), before, data)
    assert count and after.graph.opset_imports[""] == 11 and sqnr(before, after, data) > 25


def test_a_term_that_is_repeated_is_no_residual_block() -> None:
    """Where the ranks are not known, a run tells them."""
    nodes = [
        helper.make_node("MatMul", ["x", "m1"], ["a"], "one"),
        helper.make_node("Shape", ["a"], ["shape"]),
        helper.make_node("Concat", ["one", "shape"], ["sizes"], axis=0),
        helper.make_node("Compress", ["sizes", "all"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["a", "wanted"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["d"], "sum"),
        helper.make_node("Softmax", ["d"], ["e"], axis=2),
        helper.make_node("MatMul", ["e", "m2"], ["y"], "two"),
    ]
    weights = {"m1": kernel(31, 8, 8), "m2": kernel(32, 8, 8), "one": np.array([1]), "all": np.ones(3, bool)}
    before = model(nodes, weights, inputs=[("x", F32, (5, 8))], outputs=[ANY])
    _, context, count = applied(PruneBlocks(ratio=0.9, most_error=10.0), before, images(shape=(5, 8)))
    assert not count and "sum: one of its terms is repeated along an axis" in reasons(context)


def test_a_batch_that_only_the_graph_fixes() -> None:
    nodes = [
        conv("x", "w1", "a"),
        helper.make_node("BatchNormalization", ["a", *NORM], ["b"], "norm"),
        helper.make_node("Reshape", ["b", "one"], ["y"]),
    ]
    weights = CONVS | NORM | {"one": np.array([1, 512], np.int64)}
    teacher = model(nodes, weights, inputs=[("x", F32, ("n", 8, 8, 8))], outputs=[ANY])
    student = ir.clone(teacher)
    ir.set_constant(student.graph.initializers["w1"], 1.3 * CONVS["w1"])
    context = Context(executor=registry.executor("ort"), data=images(24), teacher=teacher)
    RepairStatistics().run(student, context)
    assert context.gains and context.gains[0].after < context.gains[0].before
