"""Channels that never change are found, folded and removed; others are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lwgraph import ir
from lwgraph.check import verify
from lwgraph.passes.prune.dead import RemoveDeadChannels
from lwgraph.passes.prune.intervals import channel_bounds
from lwgraph.rewrite.base import Context
from lwgraph.views.coupling import couple_channels
from tests.passes.prune.generated import networks
from tests.passes.prune.networks import Net, residual
from tests.passes.prune.pruning import assert_same, feeds, run, some


def removed_from(model: ir.Model) -> int:
    """How many channels the pass removes; the outputs must stay."""
    data, copy = feeds(model), ir.clone(model)
    count = RemoveDeadChannels().run(copy, Context())
    verify(copy)
    assert_same(run(copy, data), run(model, data))
    return count


def two_layers(
    change: Callable[[np.ndarray, np.ndarray], None], act: str = "Relu", k: int = 1, first: str = ""
) -> ir.Model:
    """Conv (8 channels), activation, Conv; `change` edits the first layer's weight and bias."""
    net = Net()
    x = net.input("N", 3, 6, 6)
    x = net.op(first, x) if first else x
    x = net.op(act, net.conv(x, 3, 8, 1)) if act else net.conv(x, 3, 8, 1)
    model = ir.load(net.model(net.conv(x, 8, 4, k)))
    values = list(model.graph.initializers.values())[:2]
    w, b = (np.array(ir.constant(value)) for value in values)
    change(w, b)
    for value, array in zip(values, (w, b), strict=True):
        ir.set_constant(value, array)
    return model


def zero_filter(w, b):
    w[2], b[2] = 0, 0


def constant_filter(w, b):
    w[2], b[2] = 0, 0.7


def closed(w, b):
    w[2], b[2] = -np.abs(w[2]), -0.1


def open_(w, b):
    w[2], b[2] = -np.abs(w[2]), 0.1


@pytest.mark.parametrize(
    ("change", "options", "count"),
    [
        (zero_filter, {}, 1),
        (zero_filter, {"k": 3}, 1),
        (zero_filter, {"act": "Sigmoid"}, 1),  # one half, into the bias
        (zero_filter, {"act": "Sigmoid", "k": 3}, 0),  # beside the padding it is not one half
        (constant_filter, {}, 1),
        (constant_filter, {"act": ""}, 1),
        (constant_filter, {"k": 3}, 0),
        (closed, {"first": "Abs"}, 0),  # |x| is positive, but what Abs does is not looked into
        (closed, {"first": "Relu"}, 0),  # the input has no channels of its own, so no bounds
        (lambda w, b: None, {}, 0),
    ],
)
def test_constant_channels(change, options, count):
    assert removed_from(two_layers(change, **options)) == count


@pytest.mark.parametrize(("change", "count"), [(closed, 1), (open_, 0)])
def test_a_relu_that_cannot_open(change, count):
    """Its inputs are outputs of a ReLU, its weights and bias negative."""
    net = Net()
    x = net.conv(net.conv(net.input("N", 3, 6, 6), 3, 8, 3, act="Relu"), 8, 8, 3, act="Relu")
    model = ir.load(net.model(net.conv(x, 8, 4, 3)))
    values = list(model.graph.initializers.values())[2:4]
    w, b = (np.array(ir.constant(value)) for value in values)
    change(w, b)
    for value, array in zip(values, (w, b), strict=True):
        ir.set_constant(value, array)
    assert removed_from(model) == count


def test_a_model_without_dead_channels_says_so():
    model, ctx = ir.load(residual()), Context()
    assert RemoveDeadChannels().run(model, ctx) == 0
    assert [each.reason for each in ctx.skipped] == ["no channel is constant whatever the inputs are"]


def test_one_channel_stays():
    def all_zero(w, b):
        w[:], b[:] = 0, 0

    assert removed_from(two_layers(all_zero)) == 7


def test_a_trunk_needs_all_its_branches():
    def zeroed(*rows: int) -> ir.Model:
        net = Net()
        x = net.conv(net.input("N", 3, 6, 6), 3, 8, 3, act="Relu")
        x = net.op("Relu", net.op("Add", x, net.conv(x, 8, 8, 1)))
        model = ir.load(net.model(net.head(x, 8)))
        for value in list(model.graph.initializers.values())[:4]:
            array = np.array(ir.constant(value))
            if array.ndim == 1 or {3: 0, 8: 1}[array.shape[1]] in rows:
                array[3] = 0
            ir.set_constant(value, array)
        return model

    assert removed_from(zeroed(0)) == 0 and removed_from(zeroed(1)) == 0 and removed_from(zeroed(0, 1)) == 1


def test_batch_norm_and_what_follows_from_a_removal():
    """A scale of zero; then the channel of the next layer that read only this one."""
    net = Net()
    x = net.op("Relu", net.bn(net.conv(net.input("N", 3, 6, 6), 3, 8, 3, bias=False), 8))
    x = net.conv(net.conv(x, 8, 8, 1, act="Relu"), 8, 4, 3)
    model = ir.load(net.model(x))
    scale, bias, second, after = (
        next(v for n, v in model.graph.initializers.items() if n == name)
        for name in (
            model.graph[1].inputs[1].name,
            model.graph[1].inputs[2].name,
            model.graph[3].inputs[1].name,
            model.graph[3].inputs[2].name,
        )
    )
    for value, index in ((scale, 5), (bias, 5)):
        array = np.array(ir.constant(value))
        array[index] = 0
        ir.set_constant(value, array)
    only, offset = np.array(ir.constant(second)), np.array(ir.constant(after))
    only[6] = 0
    only[6, 5], offset[6] = 3, 0
    ir.set_constant(second, only)
    ir.set_constant(after, offset)
    assert removed_from(model) == 2


def test_the_bounds_hold():
    model = ir.load(residual())
    coupling = couple_channels(model)
    bounds = channel_bounds(model, coupling)
    assert any(np.isfinite(each.low).any() for each in bounds.values())
    data = feeds(model)
    for (value, axis), each in bounds.items():
        found = run_value(model, value, data)
        lows = found.min(tuple(a for a in range(found.ndim) if a != axis))
        highs = found.max(tuple(a for a in range(found.ndim) if a != axis))
        assert np.all(lows >= each.low - 1e-4) and np.all(highs <= each.high + 1e-4)


def run_value(model: ir.Model, value: ir.Value, data: dict[str, np.ndarray]) -> np.ndarray:
    from lwgraph import registry

    return registry.executor("ort", optimize=False).prepare(model, [value.name])(data)[value.name]


@given(networks(), st.integers(0, 99))
@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_over_generated_networks(proto, seed):
    """Filters and biases are zeroed at random: whatever the pass then removes, the outputs stay."""
    model, rng = ir.load(proto), np.random.default_rng(seed)
    for group in couple_channels(model).prunable:
        chosen = some(group, rng)
        for each in group.weights("out", "channel"):
            value = each.axis.value
            if value.is_initializer():
                array = np.array(ir.constant(value))
                where = [slice(None)] * array.ndim
                where[each.axis.axis] = each.indices[chosen].reshape(-1)
                array[tuple(where)] = 0
                ir.set_constant(value, array)
    removed_from(model)


def test_it_removes_most_of_what_was_zeroed():
    model = ir.load(residual())
    rng = np.random.default_rng(0)
    zeroed = 0
    for group in couple_channels(model).prunable:
        chosen = some(group, rng)
        zeroed += len(chosen)
        for each in group.weights("out", "channel"):
            array = np.array(ir.constant(each.axis.value))
            where = [slice(None)] * array.ndim
            where[each.axis.axis] = each.indices[chosen].reshape(-1)
            array[tuple(where)] = 0
            ir.set_constant(each.axis.value, array)
    assert removed_from(model) >= zeroed
