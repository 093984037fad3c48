"""Choosing channels and making up for them: against brute force, on layers of every kind, and on the demo."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lwgraph import demo, ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.check import verify
from lwgraph.errors import UsageError
from lwgraph.layers.moments import Block
from lwgraph.measure.work import count
from lwgraph.passes.prune import importance as importances
from lwgraph.passes.prune.assessment import matches
from lwgraph.passes.prune.channels import PruneChannels
from lwgraph.passes.prune.importance import Importance, Ranking, by_score
from lwgraph.passes.prune.readers import PruneView, Work
from lwgraph.passes.prune.widths import by_work, kept_by_ratio, step_of
from lwgraph.rewrite.base import Context
from tests.passes.prune.networks import Net
from tests.passes.prune.pruning import context, parameters, run


def scene_of(proto: onnx.ModelProto) -> PruneView:
    model = ir.load(proto)
    return PruneView(model, context(model))


def chain(kind: str) -> onnx.ModelProto:
    """Conv, Relu, then a layer of some kind that reads its 12 channels."""
    net = Net()
    x = net.conv(net.input("N", 3, 8, 8), 3, 12, 3, act="Relu")
    if kind == "conv":
        return net.model(net.conv(x, 12, 6, 3))
    if kind == "grouped":
        return net.model(net.conv(x, 12, 6, 3, group=2))
    if kind == "transposed":
        return net.model(net.op("ConvTranspose", x, net.weight(12, 6, 2, 2), net.small(6), strides=[2, 2]))
    if kind == "transposed groups":
        return net.model(net.op("ConvTranspose", x, net.weight(12, 3, 2, 2), net.small(6), strides=[2, 2], group=2))
    if kind == "flat gemm":
        x = net.op("AveragePool", x, kernel_shape=[4, 4], strides=[4, 4])
        return net.model(net.gemm(net.op("Flatten", x), 48, 6))
    if kind == "gemm":
        return net.model(net.gemm(net.op("Flatten", net.op("GlobalAveragePool", x)), 12, 6, trans_b=False))
    y = net.op("MatMul", net.op("Transpose", x, perm=[0, 2, 3, 1]), net.weight(12, 6))
    return net.model(net.op("Add", y, net.small(6)) if kind == "matmul with bias" else y)


KINDS = ("conv", "grouped", "transposed", "transposed groups", "flat gemm", "gemm", "matmul", "matmul with bias")


def measured_error(model: ir.Model, pruned: ir.Model, data: list[dict[str, np.ndarray]]) -> float:
    before = np.concatenate([run(model, each)[0] for each in data]).astype(np.float64)
    after = np.concatenate([run(pruned, each)[0] for each in data]).astype(np.float64)
    channel = 1 if before.ndim == 4 and before.shape[1] == 6 else -1
    axes = tuple(axis for axis in range(before.ndim) if axis != channel % before.ndim)
    return float(np.square(after - before).sum() / np.square(before - before.mean(axes, keepdims=True)).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_the_predicted_error_is_the_measured_one(kind):
    """Remove half of the channels: the cost that the choice saw is what the outputs show on the same samples."""
    model = ir.load(chain(kind))
    ctx = context(model, 8192 if "gemm" in kind else 1024, rows=600)  # so many that the ridge is next to nothing
    pruned = ir.clone(model)
    option = PruneChannels(ratio=0.5, scope="group", multiple=1, refit=False)
    assert option.run(pruned, ctx) == (3 if "group" in kind else 6)
    verify(pruned)
    view = PruneView(ir.clone(model), ctx)
    group = view.coupling.prunable[0]
    predicted = importances.Obs().rank(group, view).cost[group.width // 2]
    error = measured_error(model, pruned, ctx.data)
    assert error == pytest.approx(predicted, rel=0.1 if kind != "matmul" else 0.3)
    uncompensated = ir.clone(model)
    PruneChannels(ratio=0.5, scope="group", multiple=1, compensate=False).run(uncompensated, ctx)
    assert error < 0.8 * measured_error(model, uncompensated, ctx.data)


def test_obs_agrees_with_brute_force():
    """The cost of each single channel is that of the least-squares fit without it."""
    view = scene_of(chain("conv"))
    group = view.coupling.prunable[0]
    (reader,) = view.readers(group)
    block = view.moments(reader).blocks[0]
    part = importances._ShrinkingWeight(block, reader.columns[0], 1.0)
    costs = part.costs(np.arange(group.width))
    for channel in range(group.width):
        kept = np.setdiff1d(np.arange(len(block.moments)), reader.columns[0][channel])
        fit = np.linalg.solve(block.moments[np.ix_(kept, kept)], block.cross[:, kept].T).T
        full = np.zeros_like(block.matrix)
        full[:, kept] = fit
        assert block.loss(full) == pytest.approx(costs[channel], rel=1e-6)


def test_removing_in_rounds_adds_up_to_the_joint_cost():
    view = scene_of(chain("conv"))
    group = view.coupling.prunable[0]
    (reader,) = view.readers(group)
    block = view.moments(reader).blocks[0]
    one, two = (importances._ShrinkingWeight(block, reader.columns[0], 1.0) for _ in range(2))
    assert one.remove(np.array([3])) + one.remove(np.array([0, 7])) == pytest.approx(
        two.remove(np.array([0, 3, 7])), rel=1e-6
    )
    np.testing.assert_allclose(one.weight, two.weight, atol=1e-8)


def test_a_group_too_large_for_memory_is_ranked_in_one_round(monkeypatch):
    view = scene_of(chain("conv"))
    group = view.coupling.prunable[0]
    exact = importances.Obs().rank(group, view)
    monkeypatch.setattr(importances, "MEMORY_BYTES", 1000)
    once = importances.Obs().rank(group, view)
    assert once.order[0] == exact.order[0] and np.all(np.diff(once.cost) >= 0)


def test_a_channel_that_others_can_say_costs_nothing():
    """One filter twice, one the sum of two (before no activation), one constant: three channels go for free."""
    net = Net()
    x = net.conv(net.input("N", 3, 6, 6), 3, 8, 1)
    model = ir.load(net.model(net.conv(x, 8, 4, 1)))
    w, b = (np.array(ir.constant(value)) for value in list(model.graph.initializers.values())[:2])
    w[5], b[5] = w[2], b[2]
    w[6], b[6] = w[0] + w[1], b[0] - 3
    w[7] = 0
    for value, array in zip(list(model.graph.initializers.values())[:2], (w, b), strict=True):
        ir.set_constant(value, array)
    ctx = context(model, 1024, rows=4000)
    before = [run(model, each)[0] for each in ctx.data]
    # Eight channels of rank three: two thirds can go.
    assert PruneChannels(ratio=0.6, scope="group", multiple=1).run(model, ctx) == 5
    for each, expected in zip(ctx.data, before, strict=True):
        np.testing.assert_allclose(run(model, each)[0], expected, atol=0.02)


def test_the_bias_takes_up_the_mean_only_where_there_is_something_to_take():
    net = Net()
    x = net.conv(net.input("N", 3, 6, 6), 3, 8, 1, act="Relu", bias=False)
    model = ir.load(net.model(net.conv(net.conv(x, 8, 16, 1, bias=False), 16, 4, 1, bias=False)))
    assert PruneChannels(ratio=0.5, scope="group", multiple=4, only="Conv_3,Relu*").run(model, context(model)) == 4
    assert [len(node.inputs) for node in model.graph if node.op_type == "Conv"] == [2, 3, 2]


def test_shared_weights_are_refitted_together_and_stay_shared():
    net = Net()
    x = net.conv(net.input("N", 3, 8, 8), 3, 12, 3, act="Relu")
    w, b = net.weight(12, 12, 3, 3), net.small(12)
    for _ in range(2):
        x = net.op("Relu", net.op("Conv", x, w, b, pads=[1] * 4))
    model = ir.load(net.model(net.head(x, 12)))
    PruneChannels(ratio=0.5, scope="group", multiple=1).run(model, context(model))
    verify(model)
    convs = [node for node in model.graph if node.op_type == "Conv"]
    assert convs[1].inputs[1] is convs[2].inputs[1] and list(convs[1].inputs[1].shape) == [6, 6, 3, 3]


def residual_net() -> onnx.ModelProto:
    net = Net()
    x = net.conv(net.input("N", 3, 8, 8), 3, 32, 3, act="Relu")
    for _ in range(2):
        x = net.op("Add", x, net.conv(net.conv(x, 32, 64, 3, act="Relu"), 64, 32, 1))
    return net.model(net.head(x, 32))


@pytest.mark.parametrize("name", [*importances.BUILT_IN])
def test_every_importance_prunes_to_the_work_asked_for(name):
    model = ir.load(residual_net())
    ctx = context(model)
    shapes = {"x": [1, 3, 8, 8]}
    before = Work(PruneView(model, ctx)).total({})
    assert before == count(model, PruneView(model, ctx).shapes | shapes).macs
    assert PruneChannels(ratio=0.4, importance=name, multiple=8).run(model, ctx)
    verify(model)
    after = Work(PruneView(model, ctx)).total({})
    assert 0.4 * before < after <= 0.6 * before
    widths = [ir.constant_shape(node.inputs[1])[0] for node in model.graph if node.op_type == "Conv"]
    assert all(width % 8 == 0 for width in widths)


def test_work_where_the_file_leaves_the_image_open():
    """Measured on a sample; by the weights alone, said so, without one."""
    known, open_ = residual_net(), residual_net()
    for axis in (2, 3):
        open_.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    model, ctx = ir.load(open_), context(ir.load(known))
    sample = len(ctx.data[0]["x"])
    assert Work(PruneView(model, ctx)).total({}) == sample * Work(PruneView(ir.load(known), ctx)).total({})
    assert not ctx.warnings
    blind = Context()
    assert Work(PruneView(model, blind)).total({}) > 0 and "not known without calibration data" in blind.warnings[0]
    pruned = ir.clone(model)
    assert PruneChannels(ratio=0.4, multiple=8).run(pruned, ctx)
    after = Work(PruneView(pruned, ctx)).total({}) / Work(PruneView(model, ctx)).total({})
    assert 0.4 < after <= 0.6


def test_the_same_bytes_each_time():
    prints = set()
    for _ in range(2):
        model = ir.load(residual_net())
        PruneChannels(ratio=0.4, multiple=8).run(model, context(model))
        prints.add(ir.fingerprint(model))
    assert len(prints) == 1


def test_steps_stop_when_nothing_is_left():
    view = scene_of(residual_net())
    rankings = {group: by_score(np.ones(group.width)) for group in view.coupling.prunable}
    removed = by_work(rankings, 0.99, 16, view, 0.5)
    assert {group.width: len(channels) for group, channels in removed.items()} == {32: 16, 64: 32}


@pytest.mark.parametrize(
    ("width", "ratio", "multiple", "kept"),
    [
        (64, 0.3, 16, 48),
        (64, 0.5, 16, 32),
        (64, 0.9, 16, 16),
        (24, 0.5, 16, 16),
        (16, 0.9, 16, 16),
        (40, 0.0, 16, 40),
        (10, 0.55, 1, 5),
        (48, 0.5, 32, 32),
    ],
)
def test_kept_widths(width, ratio, multiple, kept):
    net = Net()
    view = scene_of(net.model(net.conv(net.conv(net.input("N", 3, 4, 4), 3, width), width, 2)))
    assert kept_by_ratio(view.coupling.prunable[0], ratio, multiple) == kept


def test_a_channel_of_a_grouped_layer_is_several_filters():
    net = Net()
    x = net.conv(net.conv(net.input("N", 3, 4, 4), 3, 32), 32, 64, 3, group=4)
    view = scene_of(net.model(net.conv(x, 64, 2)))
    assert [(group.width, step_of(group, 16)) for group in view.coupling.prunable] == [(8, 4), (16, 4)]


def test_which_groups():
    model = ir.load(residual_net())
    ctx = context(model)
    assert PruneChannels(scope="group", ratio=0.5, multiple=16, only="re:Conv_(4|99)$").run(model, ctx) == 16
    assert {skipped.reason.split(";")[0] for skipped in ctx.skipped} >= {"not among only=re:Conv_(4|99)$"}
    assert any("output 'v" in skipped.reason for skipped in ctx.skipped)
    model, ctx = ir.load(residual_net()), context(model)
    PruneChannels(scope="group", ratio=0.5, ignore="Conv_4,Conv_1?").run(model, ctx)
    assert [skipped.place for skipped in ctx.skipped if skipped.reason.startswith("among ignore")]
    assert matches("a*, re:^b+$", ["x", "bbb"]) and not matches("a*,re:^b+$", ["xa", "bbc"])


def test_narrow_groups_are_left_and_said():
    net = Net()
    model = ir.load(net.model(net.conv(net.conv(net.input("N", 3, 4, 4), 3, 12), 12, 2)))
    ctx = context(model)
    before = ir.fingerprint(model)
    assert PruneChannels().run(model, ctx) == 0
    assert "it has 12 channels; kept widths are multiples of 16" in {skipped.reason for skipped in ctx.skipped}
    assert ir.fingerprint(model) == before


def test_without_data_a_warning():
    model = ir.load(residual_net())
    ctx = Context()
    assert PruneChannels(ratio=0.3).run(model, ctx)
    assert ctx.warnings == [
        f"{PruneChannels.name}: no calibration data; channels are chosen and refitted by the weights alone"
    ]
    verify(model)


def test_constant_nodes_are_cut_as_well():
    net = Net()
    x = net.conv(net.input("N", 3, 4, 4), 3, 32)
    proto = net.model(net.conv(x, 32, 4))
    for tensor in proto.graph.initializer:
        proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
    del proto.graph.initializer[:]
    model = ir.load(proto)
    assert PruneChannels(ratio=0.5, scope="group").run(model, context(model)) == 16
    verify(model)


class Last(Importance):
    """The last channels matter least."""

    name = "last"

    def rank(self, group, view):
        return Ranking(np.arange(group.width)[::-1], np.linspace(0, 1, group.width + 1))


def test_an_importance_of_ones_own():
    model = ir.load(chain("conv"))
    first = np.array(ir.constant(model.graph[0].inputs[1]))
    option = PruneChannels(ratio=0.5, scope="group", multiple=1, importance=f"{__name__}:Last", compensate=False)
    assert option.run(model, Context()) == 6
    np.testing.assert_array_equal(ir.constant(model.graph[0].inputs[1]), first[:6])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 1.0}, "option 'ratio' is 1.0; allowed: from 0 to below 1"),
        ({"most": 0.0}, "'most'"),
        ({"multiple": 0}, "'multiple'"),
        ({"importance": "obss"}, "importance 'obss' is unknown; did you mean 'obs'?"),
        ({"importance": "lwgraph.ir:Model"}, "is not an importance"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(UsageError, match=words.replace("?", r"\?")):
        PruneChannels(**options)


def test_the_demo_keeps_its_accuracy():
    """A third of the work goes for next to nothing, and for a lot without the refit."""
    original = ir.load(demo.MODEL)
    executor = registry.executor("ort")
    data = demo.calibration()[:6]
    images, labels = demo.evaluation(100)

    def accuracy(model: ir.Model) -> float:
        found = [next(iter(executor.prepare(model)(feed).values())).argmax(1) for feed in images[:5]]
        return float((np.concatenate(found) == labels[:500]).mean())

    def pruned(**options) -> ir.Model:
        model = ir.clone(original)
        PruneChannels(ratio=0.3, **options).run(model, Context(statistics=Statistics(original, data, executor)))
        verify(model)
        return model

    base, good, bad = accuracy(original), pruned(), pruned(compensate=False)
    assert parameters(good) < 0.75 * parameters(original)
    assert base - accuracy(good) <= 0.01
    assert base - accuracy(good) <= (base - accuracy(bad)) / 3


@pytest.mark.parametrize("outputs", [5, 60])  # W itself, and W^T W in its place
def test_what_removals_cost_is_what_is_lost_at_best(outputs: int) -> None:
    """Eight removals, also past the point where what is gone is taken out, against least squares from the start."""
    rng = np.random.default_rng(0)
    weight, root = rng.standard_normal((outputs, 24)), rng.standard_normal((24, 40))
    moments = root @ root.T / 40
    part = importances._ShrinkingWeight(Block(weight, moments, 0.0), np.arange(24).reshape(12, 2), 2.0)
    alive, spent = np.arange(12), 0.0
    for channel in (3, 7, 0, 11, 5, 8, 1, 6):
        alive = alive[alive != channel]
        spent += part.remove(np.array([channel]))
        kept = (2 * alive[:, None] + np.arange(2)).reshape(-1)
        fitted = np.linalg.solve(moments[np.ix_(kept, kept)], moments[kept] @ weight.T).T
        change = weight.copy()
        change[:, kept] -= fitted
        assert spent == pytest.approx(2 * np.trace(change @ moments @ change.T))
        costs = part.costs(alive)
        worst = alive[int(np.argmax(costs))]
        left = (2 * alive[alive != worst][:, None] + np.arange(2)).reshape(-1)
        change = weight.copy()
        change[:, left] -= np.linalg.solve(moments[np.ix_(left, left)], moments[left] @ weight.T).T
        assert spent + costs.max() == pytest.approx(2 * np.trace(change @ moments @ change.T))
