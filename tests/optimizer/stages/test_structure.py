"""Which channels and blocks go: offers, the knapsack over them, the choice among structures."""

from dataclasses import replace

import numpy as np
import pytest
from lwgraph.optimizer.bench import Bench, Made
from lwgraph.optimizer.drafts import Drafts, Line
from lwgraph.optimizer.goal import Goal
from lwgraph.optimizer.structuring import Workshop, choose

from lwgraph import ir
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.layers.site import find_sites
from lwgraph.measure.work import count
from lwgraph.optimizer import structuring
from lwgraph.plan.carry_out import Carried, Samples, carry_out
from lwgraph.plan.plan import Plan, Precision, Removed, Width
from lwgraph.plan.precision import spelling
from lwgraph.plan.roles import BLOCKS, GROUPS, Removal
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.structure import NOTHING, Offer, Structure, find_offers, find_structures
from lwgraph.rewrite.base import Context, Log
from tests.passes.prune.networks import Net
from tests.passes.prune.pruning import context


def net(width=48):
    """Three blocks of two convolutions on a trunk."""
    made = Net()
    x = made.conv(made.input("N", 3, 8, 8), 3, width, 3, act="Relu")
    for _ in range(3):
        inner = made.conv(x, width, width, 3, act="Relu")
        x = made.op("Relu", made.op("Add", x, made.conv(inner, width, width, 3)))
    return ir.load(made.model(made.conv(x, width, 4)))


@pytest.fixture(scope="module")
def found():
    model = net()
    ctx = context(model)
    feeds = [{name: value[:2] for name, value in feed.items()} for feed in ctx.data]
    return model, ctx, find_offers(model, ctx, feeds), feeds


def test_every_group_and_block_is_offered_with_losses_measured_at_the_outputs(found):
    model, _, offers, _ = found
    kinds = [offer.role for offer in offers]
    assert kinds.count(BLOCKS) == 3 and kinds.count(GROUPS) == 4  # the trunk is one group
    for offer in offers:
        assert np.all(np.diff(offer.losses) >= 0) and offer.losses[0] > 0
        assert all(size.nodes and len(size.left) == len(size.nodes) for size in offer.sizes)
        assert all(0 <= left < 1 for size in offer.sizes for left in size.left)
    assert len(model.graph) == len(net().graph)


def test_structures_leave_less_and_less_and_what_they_leave_is_counted_as_it_is(found):
    model, ctx, offers, feeds = found
    shapes = layer_shapes(model, feeds[0], ctx.executor)
    times = {site.node.name: float(site.macs()) for site in find_sites(model, shapes)}
    structures = find_structures(model, offers, times)
    assert len(structures) >= 3
    assert [s.share for s in structures] == sorted((s.share for s in structures), reverse=True)
    assert [s.loss for s in structures] == sorted(s.loss for s in structures)
    trunks = Workshop(model, ctx, shapes, feeds[0], 1.0).trunks
    for structure in structures[:3]:
        trunk = trunks.of(structure.plan)
        left = count(trunk.model, trunk.shapes).macs / count(model, shapes).macs
        assert structure.share == pytest.approx(left, abs=1e-6)
        assert trunks.of(structure.plan) is trunk
    assert trunks.of(Plan()).model is model


def test_what_was_made_is_kept_for_the_next_run(found, tmp_path, monkeypatch):
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    model, ctx, offers, feeds = found
    shapes = layer_shapes(model, feeds[0], ctx.executor)
    group = next(o for o in offers if o.role == GROUPS).sizes[-1]
    plan = Plan(groups={group.item: Width(group.kept, group.width)}, precision=Precision((spelling(quick=True),)))

    def make():
        workshop = Workshop(model, ctx.beside(log=Log()), shapes, feeds[0], 1.0)
        made = workshop.make(Candidate((), 1.0, 0.0, plan=replace(plan, error=0.5), stated=True))
        return workshop, made, workshop.trunks.of(plan)

    _, first, trunk = make()
    assert len(list(tmp_path.glob("models-*/*/*.onnx"))) == 2  # the trunk, and what was made on it
    monkeypatch.setattr(structuring, "carry_out", lambda *a, **k: pytest.fail("made again"))
    _, again, same = make()
    assert ir.fingerprint(again.model) == ir.fingerprint(first.model) != ir.fingerprint(trunk.model)
    assert ir.fingerprint(same.model) == ir.fingerprint(trunk.model) and same.shapes == trunk.shapes
    assert again.details == first.details
    monkeypatch.undo()
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    for path in tmp_path.glob("models-*/*/*.onnx"):
        path.write_bytes(path.read_bytes()[:100])  # a run that was killed left this: it is made again
    _, again, _ = make()
    assert ir.fingerprint(again.model) == ir.fingerprint(first.model)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path / "file"))
    workshop, again, _ = make()
    assert ir.fingerprint(again.model) == ir.fingerprint(first.model)
    assert any("models are not kept" in warning for warning in workshop.context.warnings)


def test_what_passes_said_is_kept_with_the_model(found, tmp_path, monkeypatch):
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    model, ctx, _, feeds = found

    def carry_out(made, plan, context, **_):
        context.warn("take care")
        context.skip("quantize", "a", "why not")
        context.details["quantization"] = {"loss": 0.5}
        return Carried(ir.clone(made), [])

    monkeypatch.setattr(structuring, "carry_out", carry_out)
    told = []
    for _ in range(2):
        context = Context(executor=ctx.executor, data=ctx.data, details={})
        made = Workshop(model, context, {}, feeds[0], 1.0).make(Candidate((), 1.0, 0.0, plan=Plan(), stated=True))
        told.append((context.warnings, context.skipped, made.details, context.details))
        monkeypatch.setattr(structuring, "carry_out", lambda *a, **k: pytest.fail("made again"))
    assert told[0] == told[1] and told[0][0] == ["take care"] and told[0][2] == {"quantization": {"loss": 0.5}}


def test_nothing_is_offered_where_nothing_takes_time(found):
    model, _, offers, _ = found
    assert find_structures(model, offers, {}) == [] and find_structures(model, [], {"a": 1.0}) == []


def test_what_goes_with_a_block_is_not_cut_before(found):
    model, _, offers, _ = found
    inner = next(o for o in offers if o.role == GROUPS and len(o.sizes[0].nodes) == 2)
    block = next(o for o in offers if o.role == BLOCKS and set(inner.sizes[0].nodes) <= set(o.sizes[0].nodes))
    times = dict.fromkeys(block.sizes[0].nodes, 1.0)
    cheap = [Offer(o.role, o.sizes[-1:], np.array([1e-3])) for o in (inner, block)]
    for structure in find_structures(model, cheap, times | {"rest": 3.0}):
        assert not (structure.plan.groups and structure.plan.blocks)
    assert any(s.plan.blocks for s in find_structures(model, cheap, times | {"rest": 3.0}))


def test_layers_between_two_groups_keep_the_product():
    sizes = [[Removal(name, 1, 2, 0, 0.0, ("shared",), (0.5,))] for name in "ab"]
    offers = [Offer(GROUPS, size, np.array([0.01])) for size in sizes]
    shares = [s.share for s in find_structures(net(), offers, {"shared": 1.0})]
    assert shares == [0.5, 0.25]  # one; both


def structures(*shares):
    return [Structure(Plan(groups={"g": Width(round(100 * s), 100)}), s, 1 - s) for s in shares]


def bench(scores, times, goal=None):
    """A bench on which a plan's model scores and takes what is stated of its width."""
    looks, widths = [], {}

    def make(candidate):
        looks.append(candidate)
        model = net(4)
        widths[model] = candidate.plan.groups["g"].keep if candidate.plan.groups else 100
        return Made(candidate, model)

    judge = type("Judge", (), {"stated": False, "floor": 0.9, "looks": 0, "value": lambda _, m: scores[widths[m]]})()
    return looks, Bench(make, judge, goal or Goal(), lambda m: times[widths[m]], base_ms=100.0, context=Context())


def drafts(on):
    return Drafts(on, Precision(), "here", 100.0, 1000, 100)


@pytest.mark.parametrize(
    ("good", "times", "best"),
    [
        ((80, 60, 40), {80: 80, 60: 60, 40: 40, 20: 20}, 40),
        ((80, 60, 40, 20), {80: 80, 60: 60, 40: 20.5, 20: 20}, 40),  # hardly slower: the gentler one
        ((80, 60, 40, 20), {80: 80, 60: 60, 40: 15, 20: 20}, 40),  # narrower, but slower
        ((80, 60, 40, 20), {80: 80, 60: 60, 40: 40, 20: 20}, 20),
        ((), {80: 80, 60: 60, 40: 40, 20: 20}, 100),
    ],
)
def test_the_fastest_structure_that_keeps_the_promise_is_taken(good, times, best):
    scores = {100: 1.0, **{width: 0.95 if width in good else 0.5 for width in (80, 60, 40, 20)}}
    looks, on = bench(scores, {100: 100.0, **times})
    ladder = structures(0.8, 0.6, 0.4, 0.2)
    chosen = choose(ladder, drafts(on))
    assert (chosen.plan.groups["g"].keep if chosen.plan.groups else 100) == best
    assert len(looks) <= 3


def test_without_a_promise_on_the_metric_the_gentlest_within_the_limits_is_taken():
    ladder = structures(0.8, 0.6, 0.4)
    for limit, taken in ((50.0, ladder[2]), (200.0, NOTHING), (1.0, ladder[-1])):
        looks, on = bench({}, {}, Goal(max_macs=limit))
        assert choose(ladder, drafts(on)) is taken and not looks


def test_what_was_looked_at_tells_what_others_take():
    line = Line(10.0, 90.0)
    assert line.at(1.0) == pytest.approx(100.0) and line.at(0.0) == pytest.approx(10.0)
    line.learn(1.0, 40.0)
    assert line.at(1.0) == pytest.approx(40.0, rel=1e-9)
    for share in (0.6, 0.3):
        line.learn(share, 20.0 + 20.0 * share)
    assert line.at(0.2) == pytest.approx(24.0, rel=0.06)
    line.learn(0.5, 0.0)  # a clock that stood still says nothing
    assert line.at(0.2) == pytest.approx(24.0, rel=0.06)


def test_a_network_that_was_made_smaller_by_integers_need_not_be_cut_to_be_small():
    ladder = structures(0.8, 0.5)
    _, on = bench({100: 1.0}, {100: 50.0}, Goal(max_bytes=ir.size(net(4))))
    drafted = Drafts(on, Precision(), "here", 100.0, 2 * ir.size(net(4)), 100)
    assert not drafted.meets(NOTHING) and not drafted.meets(ladder[0])
    drafted.look(NOTHING)
    assert drafted.meets(NOTHING) and choose(ladder, drafted) is NOTHING


def test_a_delivered_plan_is_the_same_from_the_network_and_from_its_trunk(found):
    model, ctx, offers, feeds = found
    shapes = layer_shapes(model, feeds[0], ctx.executor)
    group = next(o for o in offers if o.role == GROUPS).sizes[-1]
    block = next(o for o in offers if o.role == BLOCKS).item
    plan = Plan(groups={group.item: Width(group.kept, group.width)}, blocks={block: Removed()})
    whole = carry_out(model, plan, ctx, shapes=shapes, samples=Samples.in_earnest())
    workshop = Workshop(model, ctx, shapes, feeds[0], 1.0)
    made = workshop.make(Candidate((), 1.0, 0.0, plan=plan, stated=True))
    assert len(whole.records) == 2
    assert ir.fingerprint(whole.model) == ir.fingerprint(made.model) != ir.fingerprint(model)


def test_the_report_hears_of_the_plan_that_was_made_and_of_no_other(found):
    model, ctx, _, feeds = found
    ctx = ctx.beside(details={"kept": 1})
    shapes = layer_shapes(model, feeds[0], ctx.executor)
    workshop = Workshop(model, ctx, shapes, feeds[0], 1.0)
    plan = Plan(precision=Precision(('quantize{calibration_method=minmax,keep="none"}',)))
    made = workshop.make(Candidate((), 1.0, 0.0, plan=plan, stated=True))
    assert "quantization" in made.details and ctx.details == {"kept": 1}
