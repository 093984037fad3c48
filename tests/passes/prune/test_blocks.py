"""Residual blocks are found by structure, refused with reasons, and removed; their neighbours make up for them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lwgraph import ir, registry
from lwgraph.check import verify
from lwgraph.errors import UsageError
from lwgraph.measure.work import count
from lwgraph.passes.prune.blocks import PruneBlocks
from lwgraph.passes.prune.bypass import bypass, neighbours
from lwgraph.rewrite.base import Context
from lwgraph.views.residual import find_residuals
from tests.passes.prune.networks import PATTERNS, Net
from tests.passes.prune.pruning import feeds, run


def trunk(gains: tuple[float, ...] = (0.5, 0.02, 1.0), width: int = 16, side: int = 8) -> onnx.ModelProto:
    """ResNet blocks; what each adds is scaled by its gain."""
    net = Net()
    x = net.conv(net.input("N", 3, side, side), 3, width, 3, act="Relu")
    for gain in gains:
        y = net.conv(x, width, width, 3, act="Relu")
        w = net.weight(width, width, 3, 3, gain=gain)
        y = net.op("Conv", y, w, net.small(width), kernel_shape=[3, 3], pads=[1] * 4)
        x = net.op("Relu", net.op("Add", y, x))
    return net.model(net.head(net.conv(x, width, 24, 3, act="Relu"), 24))


def context(model: ir.Model, batches: int = 3) -> Context:
    data = [feeds(model, batch=16, seed=i) for i in range(batches)]
    return Context(executor=registry.executor("ort"), data=data)


def error(model: ir.Model, other: ir.Model) -> float:
    data = [feeds(model, batch=32, seed=seed) for seed in range(50, 52)]
    y, yhat = (np.concatenate([run(m, feed)[0] for feed in data]).astype(np.float64) for m in (model, other))
    return float(np.square(y - yhat).sum() / np.square(y - y.mean(0)).sum())


@pytest.mark.parametrize(
    ("name", "blocks", "identities"),
    [("residual", 5, 3), ("mobile", 2, 2), ("c2f", 2, 2), ("resnext", 2, 2), ("attention", 2, 2), ("plain", 0, 0)],
)
def test_blocks_that_are_found(name, blocks, identities):
    """Of a projection block both branches may go, so it is listed twice."""
    model = ir.load(PATTERNS[name]())
    found, refused = find_residuals(model)
    assert (len(found), sum(block.identity for block in found)) == (blocks, identities)
    assert not refused


REFUSED = {
    "both of its terms are used elsewhere": lambda net, x: net.op(
        "Concat", *(lambda a, b: (net.op("Add", a, b), a, b))(net.conv(x, 3, 8), net.conv(x, 3, 8)), axis=1
    ),
    "its branch does not start from the other term": lambda net, x: (
        lambda a: net.op("Concat", net.op("Add", a, net.conv(x, 3, 8)), a, axis=1)
    )(net.conv(x, 3, 8)),
    "its branches read several values": lambda net, x: net.op(
        "Add", net.op("Add", net.op("Mul", x, "z"), x), net.op("Sub", x, "z")
    ),
    "repeated along an axis": lambda net, x: net.op(
        "Add", (y := net.conv(x, 3, 8)), net.op("GlobalAveragePool", net.conv(y, 8, 8))
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_sums_that_are_no_blocks(words):
    net = Net()
    net.input(1, 3, 4, 4, name="z")
    model = ir.load(net.model(REFUSED[words](net, net.input(1, 3, 4, 4))))
    found, refused = find_residuals(model)
    assert any(words in each.reason for each in refused), refused
    assert not any(block.add.name in {each.place for each in refused} for block in found)


@pytest.mark.parametrize("name", ["residual", "mobile", "resnext", "attention", "attention_qkv"])
def test_each_block_can_be_taken_out(name):
    """The model without it is what the executor gives with the branch multiplied by zero."""
    model = ir.load(PATTERNS[name]())
    data = feeds(model)
    for index in range(len(find_residuals(model)[0])):
        copy, silent = ir.clone(model), ir.clone(model)
        block = find_residuals(silent)[0][index]
        zero = ir.add_initializer(silent.graph, np.zeros(1, np.float32), "zero")
        mul = ir.make_node("Mul", [block.add.inputs[block.slot], zero])
        mul.outputs[0].name = "silenced"
        silent.graph.insert_before(block.add, mul)
        block.add.replace_input_with(block.slot, mul.outputs[0])
        bypass(copy, find_residuals(copy)[0][index])
        verify(copy)
        assert len(copy.graph) < len(model.graph)
        np.testing.assert_allclose(run(copy, data)[0], run(silent, data)[0], rtol=1e-4, atol=1e-5)


def test_the_layer_before_aims_at_what_the_block_gave():
    model = ir.load(trunk((0.5, 0.5)))
    blocks = find_residuals(model)[0]
    total, after = blocks[1].add.outputs[0].name, blocks[1].add.outputs[0].consumers()[0].outputs[0].name
    left = bypass(model, blocks[1])
    assert left.name == after and left.producer().op_type == "Relu"
    assert left.producer().inputs[0].name == total
    assert [node.op_type for node in model.graph].count("Relu") == 6 - 2
    near = neighbours(model, left)
    convs = [node.name for node in model.graph if node.op_type == "Conv"]
    assert near[0] == convs[2] and set(near[1:]) == {convs[-1], [n.name for n in model.graph][-1]}


def test_the_cheapest_block_per_millisecond_goes_first():
    model = ir.load(trunk())
    ctx, copy = context(model, 6), ir.clone(model)
    order = [block.name for block in find_residuals(model)[0]]
    options = {each.item: each for each in PruneBlocks().options(model, ctx)}
    assert list(options) == order and all(each.kept == 0 and each.width == 1 for each in options.values())
    assert min(options, key=lambda name: options[name].error) == order[1]
    bare = ir.clone(model)
    bypass(bare, next(block for block in find_residuals(bare)[0] if block.name == order[0]))
    assert options[order[0]].error < 0.7 * error(model, bare)  # what its neighbours make up for
    assert PruneBlocks(ratio=0.1, most_error=0.2).run(copy, ctx) >= 1
    verify(copy)
    assert order[1] not in {node.name for node in copy.graph}
    assert count(copy, {}).parameters < count(model, {}).parameters and error(model, copy) < 0.25
    assert ctx.gains[0].after <= ctx.gains[0].before


def test_no_block_goes_beyond_the_error():
    model = ir.load(trunk((1.0, 1.5)))
    ctx, before = context(model, 2), ir.fingerprint(model)
    assert PruneBlocks(most_error=1e-6).run(model, ctx) == 0
    assert ir.fingerprint(model) == before
    assert all("most_error is 1e-06" in each.reason or "of its time" in each.reason for each in ctx.skipped)


def test_named_blocks_and_those_left_alone():
    model = ir.load(trunk())
    names = [block.name for block in find_residuals(model)[0]]
    ctx, copy = context(model, 2), ir.clone(model)
    assert PruneBlocks(blocks=f"{names[0]},re:^{names[2]}$").run(copy, ctx) == 2
    assert [block.name for block in find_residuals(copy)[0]] == [names[1]]
    assert PruneBlocks(ignore=names[1], only=",".join(names), ratio=0.9, most_error=1e9).run(copy, ctx) == 0
    assert names[1] in {block.name for block in find_residuals(copy)[0]}
    assert any(each.place == names[1] and each.reason.startswith("among ignore=") for each in ctx.skipped)
    with pytest.raises(UsageError, match="matches no residual block; the model has: Add"):
        PruneBlocks(blocks="nothing").run(ir.clone(model), ctx)


def test_stated_blocks():
    model = ir.load(trunk())
    names = [block.name for block in find_residuals(model)[0]]
    ctx, copy, blind = context(model, 4), ir.clone(model), ir.clone(model)
    assert PruneBlocks().apply(copy, {names[1]: 0, names[0]: 1}, ctx) == 1
    alone = Context()
    assert PruneBlocks().apply(blind, {names[1]: 0}, alone) == 1
    assert "nothing compensates" in alone.warnings[0]
    assert error(model, copy) < error(model, blind)
    for kept, words in (({"x": 0}, "no residual block 'x'"), ({names[0]: 2}, "cannot keep 2")):
        with pytest.raises(UsageError, match=words):
            PruneBlocks().apply(ir.clone(model), kept, alone)


def nested() -> onnx.ModelProto:
    """A residual block whose branch has another one."""
    net = Net()
    x = net.conv(net.input("N", 3, 8, 8), 3, 16, 3, act="Relu")
    a = net.conv(x, 16, 16, 3, act="Relu")
    b = net.conv(net.conv(a, 16, 16, 3, act="Relu"), 16, 16, 3)
    inner = net.op("Relu", net.op("Add", a, b))
    x = net.op("Relu", net.op("Add", x, net.conv(inner, 16, 16, 3)))
    return net.model(net.head(x, 16))


def test_a_block_within_a_block_goes_with_it():
    model = ir.load(nested())
    inner, outer = [block.name for block in find_residuals(model)[0]]
    for how in (PruneBlocks(blocks="*"), PruneBlocks(ratio=0.99, most_error=1e9)):
        copy, ctx = ir.clone(model), context(model, 2)
        assert how.run(copy, ctx) in (1, 2) and find_residuals(copy)[0] == []
        verify(copy)
    ctx, copy = context(model, 2), ir.clone(model)
    assert PruneBlocks().apply(copy, {outer: 0, inner: 0}, ctx) == 1
    assert [each.place for each in ctx.skipped if "with another" in each.reason] == [inner]


def test_a_model_without_sums_says_so():
    model = ir.load(PATTERNS["plain"]())
    ctx = context(model)
    assert PruneBlocks().run(model, ctx) == 0
    assert [each.reason for each in ctx.skipped] == ["the model has no sum of two branches, and so no residual block"]


def test_data_are_needed():
    with pytest.raises(UsageError, match="needs calibration samples"):
        PruneBlocks().run(ir.load(trunk()), Context())


@pytest.mark.parametrize("options", [{"ratio": 1.0}, {"most_error": 0.0}, {"samples": 1}])
def test_bad_options(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        PruneBlocks(**options)
