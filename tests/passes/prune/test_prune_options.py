"""Groups as a planner sees them: sizes, work and predicted errors; choices applied; what they do to the output."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.check import verify
from lwgraph.errors import LwgraphError, UsageError
from lwgraph.measure.work import count
from lwgraph.passes.prune.channels import PruneChannels
from lwgraph.plan.roles import Removal
from lwgraph.plan.search.sensitivity import Reference, measure_sensitivity, split_feeds
from lwgraph.rewrite.base import Context
from lwgraph.views.coupling import couple_channels
from tests.passes.prune.networks import PATTERNS, Net
from tests.passes.prune.pruning import feeds, run


def net() -> ir.Model:
    net = Net()
    x = net.conv(net.input(1, 3, 8, 8), 3, 32, 3, act="Relu")
    x = net.op("Add", x, net.conv(net.conv(x, 32, 64, 3, act="Relu"), 64, 32, 1))
    return ir.load(net.model(net.head(net.conv(x, 32, 48, 3, act="Relu"), 48)))


def context(model: ir.Model, count: int = 24) -> Context:
    executor = registry.executor("ort")
    data = [feeds(model, batch=1, seed=i) for i in range(count)]
    return Context(executor=executor, data=data, statistics=Statistics(model, data, executor))


def macs(model: ir.Model) -> int:
    shapes = {
        value.name: [size if isinstance(size, int) else None for size in dims]
        for value, dims in ir.infer_shapes(model).items()
    }
    return count(model, shapes).macs


def test_every_option_is_what_it_says():
    model, prune = net(), PruneChannels(multiple=8, most=0.6)
    ctx = context(model)
    before = ir.fingerprint(model)
    options = prune.options(model, ctx)
    assert ir.fingerprint(model) == before
    sizes = {}
    for option in options:
        sizes.setdefault(option.item, []).append(option.kept)
        copy = ir.clone(model)
        assert prune.apply(copy, {option.item: option.kept}, ctx) == option.width - option.kept
        verify(copy)
        assert macs(copy) == option.macs < macs(model)
    assert list(sizes.values()) == [[24, 16], [56, 48, 40, 32], [40, 32, 24]]
    for item, widths in sizes.items():
        errors = [each.error for each in options if each.item == item]
        assert len(widths) == len(errors) and errors == sorted(errors) and 0 < errors[0] < 1
    assert {name for each in options for name in each.nodes} == {
        n.name for n in model.graph if n.op_type in ("Conv", "Gemm")
    }


def test_choices_are_made_together_and_ranked_once(monkeypatch):
    model, prune = net(), PruneChannels(multiple=8)
    ctx = context(model)
    items = {each.item: each.width // 2 for each in prune.options(model, ctx)}
    monkeypatch.setattr(PruneChannels, "_study", None)  # what is known is used
    copy = ir.clone(model)
    assert prune.apply(copy, items, ctx) == 16 + 32 + 24
    verify(copy)
    assert run(copy, ctx.data[0])[0].shape == run(model, ctx.data[0])[0].shape


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ({"Conv_9": 8}, "no group that may shrink is named 'Conv_9'; did you mean"),
        ({"Conv_4": 0}, "group 'Conv_4' cannot keep 0 channels; allowed: 1 to 32"),
        ({"Conv_4": 33}, "allowed: 1 to 32"),
    ],
)
def test_choices_that_cannot_be_made(kept, words):
    model = net()
    with pytest.raises(UsageError, match=words.replace("?", r"\?")):
        PruneChannels().apply(model, kept, Context())


def test_long_menus_are_thinned():
    one = Net()
    model = ir.load(one.model(one.conv(one.conv(one.input(1, 3, 4, 4), 3, 512), 512, 4)))
    kept = [each.kept for each in PruneChannels(multiple=16).options(model, Context())]
    assert len(kept) == 8 and kept[0] == 496 and kept[-1] == 128 and all(k % 16 == 0 for k in kept)


def test_group_names_are_unique():
    for make in PATTERNS.values():
        names = [group.name for group in couple_channels(ir.load(make())).groups]
        assert len(set(names)) == len(names)


def test_sensitivity_is_the_error_at_the_output(tmp_path):
    model, prune = net(), PruneChannels(multiple=16)
    ctx = context(model)
    held = [feeds(model, batch=1, seed=100 + i) for i in range(6)]
    found = measure_sensitivity(model, prune, ctx, held, folder=tmp_path)
    assert [each.removal for each in found] == prune.options(model, ctx)
    for each in found:
        copy = ir.clone(model)
        prune.apply(copy, {each.removal.item: each.removal.kept}, ctx)
        y, yhat = (np.concatenate([run(m, feed)[0] for feed in held]).astype(float) for m in (model, copy))
        assert each.loss == pytest.approx(np.square(y - yhat).sum() / np.square(y - y.mean(0)).sum(), rel=1e-3)
        assert json.loads(json.dumps(each.to_dict()))["loss"] == each.loss


def test_sensitivity_goes_on_where_it_stopped(tmp_path, monkeypatch):
    model, prune = net(), PruneChannels(multiple=16)
    ctx = context(model)
    held, steps = ctx.data[:2], []

    def stop(what, done, total):
        if what == "measuring sensitivities":
            steps.append((done, total))
            if done == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_sensitivity(model, prune, ctx.beside(progress=stop), held, folder=tmp_path)
    applied = []
    monkeypatch.setattr(PruneChannels, "apply", lambda self, model, kept, context: applied.append(kept) or 0)
    again = measure_sensitivity(model, prune, ctx, held, folder=tmp_path)
    assert steps[0] == (0, len(again)) and len(applied) == len(again) - 3
    assert [each.loss > 0 for each in again] == [True] * 3 + [False] * (len(again) - 3)
    other = measure_sensitivity(model, prune, ctx, ctx.data[:1], folder=tmp_path)  # other samples: nothing is known
    assert len(applied) == len(again) - 3 + len(other)


def test_a_file_cut_off_or_a_folder_that_cannot_be_written(tmp_path):
    model, prune = net(), PruneChannels(multiple=16)
    ctx = context(model)
    first = measure_sensitivity(model, prune, ctx, ctx.data[:1], folder=tmp_path)
    (path,) = tmp_path.glob("sensitivity-*/*.json")
    path.write_text(path.read_text()[:-9])
    assert measure_sensitivity(model, prune, ctx, ctx.data[:1], folder=tmp_path) == first
    assert not any("not kept" in warning for warning in ctx.warnings)
    (tmp_path / "file").write_text("")
    assert measure_sensitivity(model, prune, ctx, ctx.data[:1], folder=tmp_path / "file") == first
    assert any("sensitivities are not kept" in warning for warning in ctx.warnings)


def test_losses_of_outputs_of_all_kinds():
    one = Net()
    x = one.conv(one.input(1, 2, 3, 3), 2, 4)
    model = ir.load(one.model(x))
    data = [feeds(model, seed=i) for i in range(3)]
    reference = Reference(model, data, registry.executor("ort"))
    assert reference.loss(model) == 0
    other = ir.clone(model)
    bias = other.graph[0].inputs[2]
    ir.set_constant(bias, np.full(4, np.nan, np.float32))
    assert reference.loss(other) == math.inf
    ir.set_constant(bias, np.array(ir.constant(model.graph[0].inputs[2])) + np.float32(1))
    y = np.concatenate([run(model, feed)[0] for feed in data])
    assert reference.loss(other) == pytest.approx(y.size / np.square(y - y.mean(0)).sum(), rel=1e-4)


def test_samples_to_fit_and_to_measure_on():
    data = [{"x": np.array([i])} for i in range(9)]
    fit, held = split_feeds(data)
    assert [int(d["x"][0]) for d in held] == [3, 7] and len(fit) == 7
    assert split_feeds(data[:1]) == (data[:1], data[:1])
    fit, held = split_feeds(data[:2])
    assert (len(fit), len(held)) == (1, 1)
    with pytest.raises(LwgraphError, match="there are none"):
        measure_sensitivity(net(), PruneChannels(), Context(), [])


@pytest.mark.parametrize(
    ("widths", "shapes"),
    [
        ("{0}=8", (8, 64, 48)),
        ("re:^{0}$=0.5,{2}=12", (16, 64, 12)),
        ("{1}*=0.25", (32, 16, 48)),
        ("Gemm=40", (32, 64, 40)),
    ],
)  # by an operator: every group that such a layer makes or reads
def test_stated_widths(widths, shapes):
    model = net()
    names = [node.name for node in model.graph if node.op_type == "Conv"]
    assert PruneChannels(widths=widths.format(names[0], names[1], names[3])).run(model, Context()) > 0
    verify(model)
    found = [ir.constant_shape(node.inputs[1])[0] for node in model.graph if node.op_type == "Conv"]
    assert (found[0], found[1], found[3]) == shapes


@pytest.mark.parametrize(
    ("widths", "words"),
    [
        ("Conv_4", "NAME=32"),
        ("Conv_4=x", "NAME=32"),
        ("Conv_4=-1", "NAME=32"),
        ("Conv_4=1.5", "NAME=32"),
        ("=3", "NAME=32"),
    ],
)
def test_widths_that_say_nothing(widths, words):
    with pytest.raises(UsageError, match=words):
        PruneChannels(widths=widths)


@pytest.mark.parametrize(
    ("widths", "words"), [("nothing=3", "matches no group"), ("Conv_4=33", "which has 32 channels")]
)
def test_widths_that_the_model_cannot_have(widths, words):
    with pytest.raises(UsageError, match=words):
        PruneChannels(widths=widths).run(net(), Context())


def test_removal_is_plain():
    assert Removal("a", 1, 2, 3, 0.5).nodes == ()
