"""Folding finds channels that others speak for; Taylor those that the outputs do not listen to."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.check import verify
from lwgraph.errors import UsageError
from lwgraph.passes.prune.channels import PruneChannels
from lwgraph.passes.prune.fold import Fold
from lwgraph.passes.prune.importance import MORE, importance
from lwgraph.passes.prune.readers import PruneView
from lwgraph.rewrite.base import Context
from tests.passes.prune.networks import Net
from tests.passes.prune.pruning import feeds, run


def context(model: ir.Model) -> Context:
    executor = registry.executor("ort")
    data = [feeds(model, batch=32, seed=i) for i in range(4)]
    return Context(executor=executor, data=data, statistics=Statistics(model, data, executor, rows_per_unknown=60))


def twins(act: str = "Relu") -> ir.Model:
    """A layer whose channel 5 is twice channel 2, and channel 6 equal to channel 1; another layer reads it."""
    net = Net()
    model = ir.load(net.model(net.conv(net.conv(net.input("N", 3, 8, 8), 3, 8, 3, act=act), 8, 4, 3)))
    w, b = (np.array(ir.constant(value)) for value in list(model.graph.initializers.values())[:2])
    w[5], b[5] = 2 * w[2], 2 * b[2]
    w[6], b[6] = w[1], b[1]
    for value, array in zip(list(model.graph.initializers.values())[:2], (w, b), strict=True):
        ir.set_constant(value, array)
    return model


def test_near_duplicates_are_folded_into_one():
    model = twins()
    ctx = context(model)
    view = PruneView(ir.clone(model), ctx)
    ranking = Fold().rank(view.coupling.prunable[0], view)
    first = set(ranking.order[:2].tolist())
    assert len(first & {2, 5}) == 1 and len(first & {1, 6}) == 1  # of each pair one
    assert ranking.cost[2] < 0.4 * ranking.cost[3]  # a ridge is in between
    copy = ir.clone(model)
    assert PruneChannels(importance="fold", ratio=0.25, scope="group", multiple=1, refit=False).run(copy, ctx) == 2
    verify(copy)
    bare, expected = ir.clone(model), run(model, ctx.data[0])[0]
    PruneChannels(importance="fold", ratio=0.25, scope="group", multiple=1, compensate=False).run(bare, ctx)
    errors = [float(np.square(run(each, ctx.data[0])[0] - expected).mean()) for each in (copy, bare)]
    assert errors[0] < 0.02 * errors[1]  # the others speak for the two that went


def test_of_two_that_say_the_same_one_stays():
    """Channels 0 and 1 share 0.9 of their variance, 2 is alone; their reader has squared weights 2, 1 and 5."""
    shared = np.sqrt(0.9)
    moments = np.array([[1, shared, 0], [shared, 1, 0], [0, 0, 1]])
    weight = np.sqrt([[2.0, 1.0, 5.0]])
    block = SimpleNamespace(power=1.0, powers=weight[0] ** 2, chosen=lambda at: moments[np.ix_(at, at)])
    reader = SimpleNamespace(columns=[np.array([[0], [1], [2]])])
    scene = SimpleNamespace(readers=lambda group: [reader], moments=lambda reader: SimpleNamespace(losses=[block]))
    ranking = Fold().rank(SimpleNamespace(width=3), scene)
    assert ranking.order.tolist() == [1, 0, 2]  # once 1 is gone, nothing speaks for 0
    np.testing.assert_allclose(ranking.cost, [0, 0.1, 2.1, 7.1])


def test_taylor_is_the_squared_slope_of_the_outputs(monkeypatch):
    """Against differences: each channel's reading weights turned down a little."""
    pytest.importorskip("torch")
    from lwgraph.passes.prune import taylor

    monkeypatch.setattr(taylor, "PROBES", 16)
    net = Net()
    model = ir.load(net.model(net.conv(net.conv(net.input("N", 3, 5, 5), 3, 6, 3, act="Tanh"), 6, 2, 3)))
    ctx = Context(data=[feeds(model, batch=1, seed=i) for i in range(32)])
    view = PruneView(model, ctx)
    group = view.coupling.prunable[0]
    ranking = taylor.Taylor().rank(group, view)
    scores = np.empty(group.width)
    scores[ranking.order] = np.diff(ranking.cost)
    expected = np.zeros(group.width)
    for channel in range(group.width):
        less = ir.clone(model)
        value = [node for node in less.graph if node.op_type == "Conv"][1].inputs[1]
        weight = np.array(ir.constant(value))
        weight[:, channel] *= 0.99
        ir.set_constant(value, weight)
        for feed in ctx.data:
            y, z = (run(each, feed)[0].astype(float) for each in (model, less))
            expected[channel] += np.square((y - z) / 0.01 / y.std(ddof=1)).sum() / len(ctx.data)
    np.testing.assert_allclose(scores, expected, rtol=0.25)
    assert np.corrcoef(scores, expected)[0, 1] > 0.95
    assert PruneChannels(importance="taylor", ratio=0.5, scope="group", multiple=1).run(ir.clone(model), ctx) == 3


def test_taylor_without_torch_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    model = twins()
    with pytest.raises(UsageError, match=r"needs PyTorch; pip install 'lwgraph\[torch\]'"):
        PruneChannels(importance="taylor", multiple=1).run(model, Context(data=[feeds(model)]))


def test_taylor_needs_samples():
    with pytest.raises(UsageError, match="'taylor' needs calibration samples"):
        PruneChannels(importance="taylor", multiple=1).run(twins(), Context())


@pytest.mark.parametrize("name", MORE)
def test_their_names(name):
    assert importance(name).name == name and importance(name).needs_data
    with pytest.raises(UsageError, match=f"did you mean '{name}'"):
        importance(name + "s")


def test_the_example_in_the_documentation(tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs" / "prune.md").read_text("utf8")
    (tmp_path / "mine.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    monkeypatch.syspath_prepend(tmp_path)
    model = twins()
    weight = np.abs(ir.constant(model.graph[0].inputs[1])).reshape(8, -1).max(1)
    assert PruneChannels(importance="mine:Quiet", widths="Conv*=6", multiple=1, compensate=False).run(model, Context())
    left = np.abs(ir.constant(model.graph[0].inputs[1])).reshape(6, -1).max(1)
    np.testing.assert_allclose(np.sort(left), np.sort(weight)[2:])
