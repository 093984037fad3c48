"""Which channels and blocks go: offers, the knapsack over them, the choice among structures."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from lwgraph import ir
from lwgraph.alarm import OutOfTime
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.layers.site import find_sites
from lwgraph.measure.score import Score
from lwgraph.measure.work import count
from lwgraph.optimizer.candidates import Candidates, Incumbent, Made
from lwgraph.optimizer.data_pass import Cost, DataPass
from lwgraph.optimizer.making import Making
from lwgraph.optimizer.racing import Raced
from lwgraph.optimizer.request import Request
from lwgraph.optimizer.stages import base
from lwgraph.optimizer.stages.structure import (
    LEAST_IN_HASTE,
    LEAST_PROBED,
    PROBED_IN_HASTE,
    PROBED_ON,
    Ladder,
    Line,
    Structures,
    choose,
    fastest,
    left_in,
    probed_on,
    probing_takes_long,
)
from lwgraph.plan.carry_out import Samples
from lwgraph.plan.plan import Plan, Precision, Width
from lwgraph.plan.roles import BLOCKS, GROUPS, Removal
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.structure import (
    LEAST_SAMPLES,
    NOTHING,
    Offer,
    Structure,
    block_samples,
    find_offers,
    find_structures,
)
from lwgraph.report import Check
from lwgraph.rewrite.base import Context
from tests.optimizer.blocks import net


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
    making = Making(model, ctx, shapes, feeds[0], Samples.in_earnest(1.0))
    for structure in structures[:3]:
        trunk = making.trunk(structure.plan)
        left = count(trunk.model, trunk.shapes).macs / count(model, shapes).macs
        assert structure.share == pytest.approx(left, abs=1e-6)
        assert making.trunk(structure.plan) is trunk
    assert making.trunk(Plan()).model is model


def test_nothing_is_offered_where_nothing_takes_time(found):
    model, _, offers, _ = found
    assert find_structures(model, offers, {}) == [] and find_structures(model, [], {"a": 1.0}) == []


@pytest.mark.parametrize(
    ("milliseconds", "seconds", "samples"),
    [
        (None, math.inf, None),
        (1.0, math.inf, None),  # 555, more than the pass likes
        (1.0, 0.5, 27),
        (1.0, 0.01, LEAST_SAMPLES),
        (100.0, 0.01, 5),  # that many in the most seconds of all
    ],
)
def test_blocks_are_judged_on_what_there_is_time_for(milliseconds, seconds, samples):
    assert block_samples(net(4), milliseconds, seconds) == samples


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


def looking(scores, times, request=None, size=1000):
    """Candidates of which a plan's model scores and takes what is stated of its width; and the looks at them."""
    looks, widths = [], {}

    def make(candidate):
        looks.append(candidate)
        model = net(4)
        widths[model] = candidate.plan.groups["g"].keep if candidate.plan.groups else 100
        return Made(candidate, model)

    judge = SimpleNamespace(
        stated=False,
        floor=0.9,
        looks=0,
        base=Score(1.0),
        score=lambda model: Score(scores[widths[model]]),
        raced=lambda model: Raced(Score(scores[widths[model]])),
        expected=lambda score: score.value,
    )
    candidates = Candidates(
        request or Request(),
        judge,
        Incumbent(None),
        make=make,
        prove=lambda model: [Check("outputs", "ort", "rounding", True, "")],
        milliseconds=lambda model: times[widths[model]],
        base=Candidate((), 100.0, 0.0, bytes=size, macs=100),
        context=Context(),
    )
    return looks, candidates


def ladder_of(candidates):
    return Ladder(candidates, Precision(), "here", 100.0)


@pytest.mark.parametrize(
    ("good", "times", "best"),
    [
        ((80, 60, 40), {80: 80, 60: 60, 40: 40, 20: 20}, 40),
        ((80, 60, 40), {80: 80, 60: 40.5, 40: 40, 20: 20}, 60),  # hardly slower: the gentler one
        ((80, 60, 40), {80: 80, 60: 15, 40: 20, 20: 10}, 60),  # narrower, but slower
        ((80, 60, 40, 20), {80: 80, 60: 60, 40: 40, 20: 20}, 20),
        ((), {80: 80, 60: 60, 40: 40, 20: 20}, 100),
    ],
)
def test_the_fastest_structure_that_keeps_the_promise_is_taken(good, times, best):
    scores = {100: 1.0, **{width: 0.95 if width in good else 0.5 for width in (80, 60, 40, 20)}}
    looks, candidates = looking(scores, {100: 100.0, **times})
    ladder = structures(0.8, 0.6, 0.4, 0.2)
    chosen = choose(ladder, ladder_of(candidates))
    assert (chosen.plan.groups["g"].keep if chosen.plan.groups else 100) == best
    assert len(looks) <= 3


def test_what_was_found_counts_where_the_time_is_over(monkeypatch):
    looks, candidates = looking({100: 1.0, 60: 0.95, 20: 0.95}, {100: 100.0, 60: 60.0, 20: 20.0})
    ladder, look = ladder_of(candidates), Ladder.look

    def late(self, structure):
        if looks:
            raise OutOfTime
        return look(self, structure)

    monkeypatch.setattr(Ladder, "look", late)
    assert choose(structures(0.8, 0.6, 0.4, 0.2), ladder).share == 0.6 and len(looks) == 1


def test_without_a_promise_on_the_metric_the_gentlest_within_the_limits_is_taken():
    ladder = structures(0.8, 0.6, 0.4)
    for limit, taken in ((50.0, ladder[2]), (200.0, NOTHING), (1.0, ladder[-1])):
        looks, candidates = looking({}, {}, Request(max_macs=limit))
        assert choose(ladder, ladder_of(candidates)) is taken and not looks


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
    size = ir.size(net(4))
    _, candidates = looking({100: 1.0}, {100: 50.0}, Request(max_bytes=size), 2 * size)
    drafted = ladder_of(candidates)
    assert not drafted.meets(NOTHING) and not drafted.meets(ladder[0])
    drafted.look(NOTHING)
    assert drafted.meets(NOTHING) and choose(ladder, drafted) is NOTHING


@pytest.mark.parametrize(
    ("takes", "keeps", "chosen"),
    [
        ((9, 4, 3), (True, True, True), 2),
        ((9, 3, 4), (True, True, True), 1),
        ((9, 3, 4), (True, False, True), 2),
        ((9, 3, 4), (True, False, False), 0),
    ],
)
def test_structures_are_looked_for_in_the_fastest_precision_that_keeps_the_promise(takes, keeps, chosen):
    ladders = [
        SimpleNamespace(look=lambda _, kept=kept: kept, taken=lambda _, ms=ms: ms)
        for ms, kept in zip(takes, keeps, strict=True)
    ]
    assert fastest(ladders) is ladders[chosen]


@pytest.mark.parametrize(("score", "share"), [(0.95, 0.3), (0.5, 1.0)])
def test_layers_in_integers_are_priced_where_the_whole_was_not_timed(monkeypatch, score, share):
    """As a whole it takes 0.3 of the time, as its layers are priced a half; what loses too much helps nothing."""
    priced = []

    def prices(*asked):
        priced.append(asked)
        return {"a": 40.0, "b": math.inf}

    monkeypatch.setattr("lwgraph.optimizer.stages.structure.layer_times", prices)
    _, candidates = looking({100: score}, {100: 30.0})
    context = Context()
    work = SimpleNamespace(candidates=candidates, oracle=SimpleNamespace(target="here"), context=context)
    work.clean = work.shapes = None
    integers, times = Precision(("quantize",)), {"a": 80.0, "b": 40.0}
    assert left_in(integers, times, work) == pytest.approx(80 / 120) and len(priced) == 1
    Ladder(candidates, integers, "here", 100.0).look(NOTHING)
    assert left_in(integers, times, work) == pytest.approx(share) and len(priced) == 1


@pytest.mark.parametrize(
    ("there", "hasty", "seconds", "taken"),
    [
        (9, False, None, 9),
        (40, False, None, PROBED_ON),
        (40, True, None, PROBED_IN_HASTE),
        (40, False, 1.0, PROBED_ON),  # a pass is as long as 1,000 runs
        (40, False, 0.02, 5),  # four groups that are free
        (40, False, 1e-3, LEAST_PROBED),
        (40, True, 1e-3, LEAST_IN_HASTE),
    ],
)
def test_a_few_samples_tell_groups_apart(there, hasty, seconds, taken):
    unit = None if seconds is None else DataPass(0.0, 1, seconds)
    work = SimpleNamespace(
        samples=lambda ms: list(range(there)),
        float_ms=1.0,
        groups=4,
        setting=SimpleNamespace(data_pass=unit),
    )
    assert len(probed_on(work, hasty)) == taken


@pytest.mark.parametrize(("left", "long"), [(1.0, True), (10.0, False), (math.inf, False)])
def test_probing_takes_long_where_it_takes_a_good_part_of_the_time(left, long):
    work = SimpleNamespace(
        samples=lambda ms: list(range(PROBED_ON)),
        float_ms=10.0,
        groups=10,
        setting=SimpleNamespace(data_pass=None),
        clock=SimpleNamespace(left=left),
    )
    assert probing_takes_long(work) is long


def test_in_haste_groups_that_save_little_are_left_alone(found):
    model, context, offers, feeds = found
    groups = [offer for offer in offers if offer.role == GROUPS]
    slow = dict.fromkeys(groups[1].sizes[-1].nodes, 100.0)
    times = {node.name: 1e-3 for node in model.graph} | slow
    some = [offer.item for offer in find_offers(model, context, feeds, times=times) if offer.role == GROUPS]
    assert groups[1].item in some and len(some) < len(groups)


def test_where_time_is_short_groups_are_probed_in_haste(monkeypatch):
    monkeypatch.setattr(Structures, "cost", lambda self, work, unit: Cost(3.0, 10.0))
    setting = SimpleNamespace(data_pass=DataPass(0.0, 1, 10.0))
    for left, short in ((39.0, True), (41.0, False), (math.inf, False)):
        assert base.short(Structures(), SimpleNamespace(setting=setting, clock=SimpleNamespace(left=left))) is short
    setting.data_pass = None
    assert not base.short(Structures(), SimpleNamespace(setting=setting, clock=SimpleNamespace(left=1.0)))
