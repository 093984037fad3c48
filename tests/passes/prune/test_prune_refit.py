"""Costs measured at the outputs decide, and after the cut layers are refitted to what they gave before."""

from __future__ import annotations

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.check import verify
from lwgraph.passes.prune import assessment
from lwgraph.passes.prune.channels import PruneChannels
from lwgraph.passes.prune.importance import Ranking
from lwgraph.passes.prune.widths import at_outputs
from lwgraph.plan.roles import Removal
from lwgraph.plan.search.sensitivity import Sensitivity
from lwgraph.rewrite.base import Context
from lwgraph.views.coupling import couple_channels
from tests.passes.prune.networks import PATTERNS, Net
from tests.passes.prune.pruning import feeds, run


def context(model: ir.Model, batches: int = 4) -> Context:
    executor = registry.executor("ort")
    data = [feeds(model, batch=32, seed=i) for i in range(batches)]
    return Context(executor=executor, data=data, statistics=Statistics(model, data, executor, rows_per_unknown=50))


def error(model: ir.Model, other: ir.Model) -> float:
    """On samples that nothing was fitted to."""
    data = [feeds(model, batch=32, seed=seed) for seed in range(50, 54)]
    y, yhat = (np.concatenate([run(m, feed)[0] for feed in data]).astype(np.float64) for m in (model, other))
    return float(np.square(y - yhat).sum() / np.square(y - y.mean(0)).sum())


def deep(depth: int = 4) -> ir.Model:
    net = Net()
    x = net.conv(net.input("N", 3, 8, 8), 3, 24, 3, act="Relu")
    for _ in range(depth):
        x = net.conv(x, 24, 24, 3, act="Relu")
    return ir.load(net.model(net.head(x, 24)))


def test_errors_that_add_up_are_corrected():
    model = deep()
    ctx, errors = context(model), {}
    for refit in (False, True):
        copy = ir.clone(model)
        PruneChannels(ratio=0.4, scope="group", multiple=1, refit=refit).run(copy, ctx)
        verify(copy)
        errors[refit] = error(model, copy)
    assert errors[True] < 0.8 * errors[False]


def test_layers_are_refitted_behind_a_relu_and_on_many_patches(monkeypatch):
    model, asked = deep(1), {}
    monkeypatch.setattr(assessment, "refit", lambda *_, **named: asked.update(named))
    PruneChannels(ratio=0.4, scope="group", multiple=1).run(model, context(model, 1))
    assert asked["relu"] and asked["least_rows"] == 32768 and asked["scope"] == "all" and asked["kept"]


@pytest.mark.parametrize("name", ["residual", "mobile", "decoder", "conv_gru"])
def test_patterns_are_not_harmed(name):
    model = ir.load(PATTERNS[name]())
    ctx, errors = context(model, 2), []
    for refit in (False, True):
        copy = ir.clone(model)
        assert PruneChannels(ratio=0.3, scope="group", multiple=1, refit=refit).run(copy, ctx)
        verify(copy)
        errors.append(error(model, copy))
    assert errors[1] < 1.1 * errors[0]


def test_applied_choices_are_refitted_on_demand():
    model, prune = deep(1), PruneChannels(multiple=1)
    ctx, found = context(model, 2), []
    name = prune.options(model, ctx)[0].item
    for refit in (False, True):
        copy = ir.clone(model)
        assert prune.apply(copy, {name: 12}, ctx, refit=refit) == 12
        found.append(error(model, copy))
    assert found[1] < found[0]


def test_costs_take_the_measured_size_and_keep_their_shape():
    net = Net()
    model = ir.load(net.model(net.conv(net.conv(net.conv(net.input(1, 3, 4, 4), 3, 8), 8, 8), 8, 2)))
    one, two = couple_channels(model).prunable
    cost = np.arange(9.0) ** 2
    rankings = {one: Ranking(np.arange(8), cost), two: Ranking(np.arange(8), cost)}
    found = at_outputs(
        rankings,
        [Sensitivity(Removal(one.name, 6, 8, 0, 0.0), 0.4), Sensitivity(Removal(one.name, 4, 8, 0, 0.0), np.inf)],
    )
    assert found[two] is rankings[two]
    assert found[one].cost[2] == pytest.approx(0.4) and found[one].cost[1] == pytest.approx(0.1)
    assert found[one].cost[4] == 1e6 and np.all(np.diff(found[one].cost) >= 0)
    np.testing.assert_array_equal(found[one].order, rankings[one].order)


def test_what_the_outputs_do_not_need_goes_first():
    """Two branches that look alike to the layers that read them; the sum behind listens to one only."""
    net = Net()
    x = net.input("N", 3, 8, 8)
    branches = [net.conv(net.conv(x, 3, 32, 3, act="Relu"), 32, 16, 3) for _ in range(2)]
    quiet = net.op("Mul", branches[1], net.constant(np.float32(0.01)))
    model = ir.load(net.model(net.op("Add", branches[0], quiet)))
    copy = ir.clone(model)
    PruneChannels(ratio=0.25, multiple=16, refit=False).run(copy, context(model, 1))
    widths = [ir.constant_shape(node.inputs[1])[0] for node in copy.graph if node.op_type == "Conv"]
    assert widths[0] == 32 and widths[2] == 16
