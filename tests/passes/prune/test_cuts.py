"""Edits at single operators: older opsets, computed shapes, quantized pairs, tables, odd slices; and refusals."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from lwgraph import ir
from lwgraph.errors import CheckError
from lwgraph.passes.prune.remove_channels import remove_channels
from lwgraph.passes.prune.surgery import CUTS
from lwgraph.views.coupling import couple_channels
from tests.passes.prune.networks import Net
from tests.passes.prune.pruning import assert_same, cut, feeds, run, some, with_zeros


def qdq() -> onnx.ModelProto:
    """Activations per tensor, weights per output channel."""
    net = Net(opset=17)

    def quantized(x: str) -> str:
        scale, zero = net.constant(np.float32(0.05)), net.constant(np.uint8(128))
        return net.op("DequantizeLinear", net.op("QuantizeLinear", x, scale, zero), scale, zero)

    def conv(x: str, cin: int, cout: int) -> str:
        w = net.constant(net.rng.integers(-127, 128, (cout, cin, 3, 3)).astype(np.int8))
        scale = net.constant((0.001 + 0.002 * net.rng.random(cout)).astype(np.float32))
        w = net.op("DequantizeLinear", w, scale, net.constant(np.zeros(cout, np.int8)), axis=0)
        return net.op("Relu", net.op("Conv", quantized(x), w, net.small(cout), pads=[1] * 4))

    x = conv(conv(net.input("N", 3, 8, 8), 3, 12), 12, 8)
    return net.model(net.head(quantized(x), 8))


def einsum() -> onnx.ModelProto:
    net = Net()
    x = net.op("Relu", net.op("Einsum", net.input("N", 5, 4), net.weight(4, 3, 6), equation="ntc,chd->nthd"))
    scores = net.op("Einsum", x, x, equation="nthd,nshd->nhts")
    x = net.op("Einsum", scores, x, equation="nhts,nshd->nthd")
    return net.model(net.op("Einsum", x, net.weight(3, 6, 2), equation="nthd,hdk->ntk"))


def lstm_with_zero_states() -> onnx.ModelProto:
    """Initial states made with the size of the batch, as PyTorch exports them."""
    net, hidden = Net(), 10
    x = net.op("Relu", net.op("MatMul", net.input(5, "N", 4), net.weight(4, 8)))
    batch = net.op("Gather", net.op("Shape", x), net.constant(np.array([1])), axis=0)
    zeros = net.op("ConstantOfShape", net.op("Concat", net.ints(1), batch, net.ints(hidden), axis=0))
    y, last, cell = net.op(
        "LSTM",
        x,
        net.weight(1, 40, 8),
        net.weight(1, 40, hidden),
        net.constant(0.1 * net.rng.standard_normal((1, 80)).astype(np.float32)),
        "",
        zeros,
        zeros,
        net.constant(0.1 * net.rng.standard_normal((1, 30)).astype(np.float32)),
        outputs=3,
        hidden_size=hidden,
    )
    x = net.op("Add", net.op("Squeeze", y, net.ints(1)), net.op("Add", last, cell))
    return net.model(net.op("MatMul", x, net.weight(hidden, 3)))


def unused_outputs() -> onnx.ModelProto:
    """Outputs that nothing reads, with recorded sizes."""
    net, hidden = Net(), 10
    x, _ = net.op("MaxPool", net.conv(net.input("N", 3, 8, 8), 3, 16, 3), outputs=2, kernel_shape=[2, 2])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(-1, 16, 49)), perm=[2, 0, 1])
    y, _, _ = net.op(
        "LSTM",
        x,
        net.weight(2, 40, 16),
        net.weight(2, 40, hidden),
        outputs=3,
        hidden_size=hidden,
        direction="bidirectional",
    )
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(49, -1, 2 * hidden))
    return onnx.shape_inference.infer_shapes(net.model(net.op("MatMul", y, net.weight(2 * hidden, 3))))


def dynamic_view() -> onnx.ModelProto:
    """x.view(x.size(0), x.size(1) * 16): the target is computed from the shape, channels included."""
    net = Net()
    x = net.conv(net.input("N", 3, 4, 4), 3, 8, 3, act="Relu")
    shape = net.op("Shape", x)
    n, c = (net.op("Gather", shape, net.constant(np.int64(i)), axis=0) for i in (0, 1))
    c = net.op("Mul", c, net.constant(np.int64(16)))
    n, c = (net.op("Unsqueeze", each, net.ints(0)) for each in (n, c))
    x = net.op("Reshape", x, net.op("Concat", n, c, axis=0))
    return net.model(net.gemm(x, 128, 5))


def old_opset() -> onnx.ModelProto:
    """Opset 9: bounds, axes, sizes and pads are attributes."""
    net = Net(opset=9)
    x = net.conv(net.input("N", 3, 8, 8), 3, 12, 3, act="Relu")
    a, b, c = net.op("Split", x, outputs=3, axis=1, split=[4, 6, 2])
    x = net.op("Concat", net.op("Slice", b, axes=[1], starts=[1], ends=[6]), a, c, axis=1)
    x = net.op("Pad", x, pads=[0, 1, 0, 0, 0, 2, 0, 0])
    x = net.op("Upsample", x, net.constant(np.array([1, 1, 2, 2], np.float32)))
    x = net.op("Squeeze", net.op("Unsqueeze", x, axes=[1]), axes=[1])
    x = net.op("Clip", net.conv(x, 14, 10, 1), min=0.0, max=6.0)
    x = net.op("ReduceMean", x, axes=[2, 3], keepdims=0)
    x = net.op("Softmax", net.gemm(x, 10, 6), axis=1)
    return net.model(x)


def tables() -> onnx.ModelProto:
    """An embedding, a position table that is expanded, a reduction that drops the channels."""
    net = Net(opset=18)
    shape = net.ints(1, 6, 12)
    ids = net.op("Cast", net.op("Abs", net.input("N", 6)), to=onnx.TensorProto.INT64)
    x = net.op("Gather", net.weight(9, 12), net.op("Min", ids, net.constant(np.int64(8))))
    x = net.op("Add", x, net.op("Expand", net.constant(net.rng.standard_normal((6, 12)).astype(np.float32)), shape))
    x = net.op("Mul", x, net.op("ReduceMean", x, net.ints(2)))
    x = net.op("MatMul", net.op("LpNormalization", x, axis=-1), net.weight(12, 8))
    mask = net.op("Greater", x, net.constant(np.float32(0)))
    x = net.op("Where", mask, x, net.constant(np.zeros((1, 1, 8), np.float32)))
    return net.model(net.op("MatMul", net.op("ReduceSum", x, net.ints(1), keepdims=0), net.weight(8, 3)))


def uneven_slices() -> onnx.ModelProto:
    """Slices of which no regular part is left, forwards and backwards."""
    net = Net()
    x = net.conv(net.input("N", 3, 4, 4), 3, 24, 3, act="Tanh")
    one, two, three = net.ints(1), net.ints(2), net.ints(3)
    a = net.op("Slice", x, net.ints(1), net.ints(24), one, three)
    b = net.op("Slice", x, net.ints(-1), net.ints(-(1 << 62)), one, net.ints(-2))
    c = net.op("Slice", x, net.ints(0, 1), net.ints(24, 3), net.constant(np.array([-3, 2])), net.ints(2, 1))
    c = net.op("Pad", c, net.ints(0, 0, 1, 0, 0, 0, 1, 0))
    del two
    x = net.op("Concat", a, b, c, axis=1)
    return net.model(net.conv(x, 8 + 12 + 12, 4))


def split_by_count() -> onnx.ModelProto:
    net = Net(opset=18)
    x = net.conv(net.input("N", 3, 4, 4), 3, 14, 3, act="Relu")
    parts = net.op("Split", x, outputs=3, axis=1, num_outputs=3)  # 5, 5, 4
    return net.model(*(net.conv(part, size, 2) for part, size in zip(parts, (5, 5, 4), strict=True)))


SPECIAL = {
    each.__name__: each
    for each in (
        qdq,
        einsum,
        lstm_with_zero_states,
        unused_outputs,
        dynamic_view,
        old_opset,
        tables,
        uneven_slices,
        split_by_count,
    )
}


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("seed", [0, 1])
def test_zeros_leave_no_trace(name, seed):
    model, rng = ir.load(SPECIAL[name]()), np.random.default_rng(seed)
    groups = [group for group in couple_channels(model).prunable if not group.caveats]
    assert groups
    choice = {group.number: some(group, rng) for group in groups}
    zeroed = with_zeros(model, choice)
    for value in zeroed.graph.initializers.values():  # a scale of zero is no scale
        users = {node.op_type for node in value.consumers()}
        if users <= {"QuantizeLinear", "DequantizeLinear"} and value.dtype == ir.DataType.FLOAT:
            array = np.array(ir.constant(value))
            ir.set_constant(value, np.where(array == 0, np.float32(1), array))
    data = feeds(model)
    pruned = cut(model, choice)
    assert_same(run(pruned, data), run(zeroed, data))
    assert run(pruned, feeds(model, batch=3))[0].shape == run(model, feeds(model, batch=3))[0].shape


def test_what_was_left_out_is_gone():
    """Zero states and the nodes that made them, old constants, the computed target of a Reshape."""
    model = ir.load(lstm_with_zero_states())
    pruned = cut(model, {g.number: np.arange(4) for g in couple_channels(model).prunable})
    assert not {"Shape", "ConstantOfShape"} & {node.op_type for node in pruned.graph}
    assert all(ir.use_count(value) for value in pruned.graph.initializers.values())


def test_recorded_shapes_follow():
    proto = onnx.shape_inference.infer_shapes(dynamic_view())
    model = ir.load(proto)
    assert model.graph[0].outputs[0].shape is not None
    pruned = cut(model, {couple_channels(model).prunable[0].number: np.array([0, 3, 5])})  # verified inside
    assert list(pruned.graph[0].outputs[0].shape)[1:] == [5, 4, 4]


def test_regular_slices_stay_slices_and_others_become_gathers():
    model = ir.load(uneven_slices())
    group = couple_channels(model).prunable[0]
    kinds = [
        node.op_type
        for node in cut(model, {g.number: np.arange(g.width // 2) for g in couple_channels(model).prunable}).graph
    ]
    assert "Slice" in kinds
    assert group.width > 1
    odd = {g.number: np.arange(1, g.width, 3) for g in couple_channels(model).prunable if g.width > 3}
    assert "Gather" in [node.op_type for node in cut(model, odd).graph]


def simple() -> ir.Model:
    net = Net()
    return ir.load(net.model(net.conv(net.conv(net.input("N", 3, 4, 4), 3, 4, act="Relu"), 4, 2)))


def test_the_last_channel_stays():
    model = simple()
    before = ir.fingerprint(model)
    coupling = couple_channels(model)
    with pytest.raises(CheckError, match="at least one must stay"):
        remove_channels(model, coupling, {coupling.prunable[0]: [0, 1, 2, 3]})
    assert ir.fingerprint(model) == before


def test_frozen_channels_stay():
    model = simple()
    coupling = couple_channels(model)
    frozen = next(group for group in coupling.groups if group.frozen)
    with pytest.raises(CheckError, match=r"group 1 \('Conv_\d+'\) cannot be removed: output '.*' of the graph"):
        remove_channels(model, coupling, {frozen: [0]})
    assert remove_channels(model, coupling, {frozen: [], coupling.prunable[0]: []}) == 0


def test_a_constant_that_others_use_is_left_to_them():
    net = Net()
    x = net.conv(net.input("N", 3, 4, 4), 3, 4, act="Relu")
    b = net.small(4)
    y = net.op("Conv", x, net.weight(4, 4, 1, 1), b)
    z = net.op("Conv", x, net.weight(4, 4, 1, 1), b)
    model = ir.load(net.model(net.conv(y, 4, 2), net.op("Relu", z)))
    choice = {g.number: np.array([1]) for g in couple_channels(model).prunable if "Conv_7" in g.name or g.width == 4}
    pruned = cut(model, choice)
    assert sorted(v.const_value.size for v in pruned.graph.initializers.values() if len(v.shape) == 1)[:2] == [2, 3]
    assert any(v.const_value.size == 4 for v in pruned.graph.initializers.values() if len(v.shape) == 1)


def test_integer_constants_keep_their_type():
    model = ir.load(dynamic_view())
    pruned = cut(model, {couple_channels(model).prunable[0].number: np.array([0])})
    assert {value.dtype for value in pruned.graph.initializers.values()} == {ir.DataType.FLOAT, ir.DataType.INT64}


def test_each_edit_is_for_an_operator_with_a_rule():
    import lwgraph.passes.prune.cuts  # noqa: F401 - registers the edits
    from lwgraph.views.coupling.rules import load

    assert set(CUTS) <= set(load())
    assert helper.make_node("Conv", [], []).op_type in CUTS
