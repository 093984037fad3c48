"""Mixed precision: the minimum cut, sensitivities, and what the whole makes of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.check import verify
from lwgraph.errors import UsageError
from lwgraph.executor import Feeds, Run
from lwgraph.measure.distance import Distance
from lwgraph.measure.node_times import measured_border, node_seconds
from lwgraph.passes.quantize.graph.quantizer import Quantizer, name_nodes
from lwgraph.passes.quantize.judging.mixed_precision import CEILING, ENOUGH, EVEN, SURELY, Mixer
from lwgraph.passes.quantize.judging.sensitivity import ErrorSource, sensitivities, simulated
from lwgraph.passes.quantize.placing.min_cut import Assignment, Part, TensorLink, choose, evaluate, ladder
from lwgraph.passes.quantize.placing.region import TIE, Region
from lwgraph.passes.quantize.placing.target import load_target
from lwgraph.passes.quantize.quantize import Quantize
from lwgraph.rewrite import Context
from lwgraph.runtime.ort import Kernel, OrtExecutor
from tests.passes.quantize.quantize_models import Net, detector, images, residual

INTEGER = ("QLinear", "QGemm", "MatMulInteger", "DynamicQuantize")


class Timed(OrtExecutor):
    """ONNX Runtime whose kernels take the seconds that a test says: by node name, floats and integers apart."""

    def __init__(self, floats: Mapping[str, float], integers: Mapping[str, float]) -> None:
        super().__init__()
        self.floats, self.integers = floats, integers

    def profile(self, model: ir.Model, feeds: Sequence[Feeds]) -> list[Kernel]:
        whole = any(node.op_type == "QuantizeLinear" for node in model.graph)
        times = self.integers if whole else self.floats
        return [Kernel(n.name or "", n.op_type, times[n.name or ""]) for n in model.graph if n.name in times]


def mixer(
    model: ir.Model, data: list[dict[str, Array]], executor: Any, seconds: Mapping[str, float], **options: Any
) -> Mixer:
    name_nodes(model.graph)
    from lwgraph.calibrate.ranges import collect

    quantizer = Quantizer(
        model, load_target("ort-cpu"), lambda names, axes: collect(model, data, executor, names, channels=axes)
    )
    return Mixer(model, quantizer, executor, data, race=lambda runs, feed: {n: seconds[n] for n in runs}, **options)


def random_net(rng: np.random.Generator) -> tuple[list[Part], list[TensorLink]]:
    count = int(rng.integers(2, 7))
    parts = [
        Part(
            f"p{i}",
            float(rng.uniform(0, 3)),
            float(rng.uniform(0, 3)),
            float(rng.uniform(0, 3)),
            bool(rng.random() < 0.3),
        )
        for i in range(count)
    ]
    links = []
    for i in range(-1, count):
        readers = tuple(f"p{j}" for j in range(i + 1, count) if rng.random() < 0.5)
        links.append(
            TensorLink(
                f"t{i}",
                f"g{max(i, 0) // 2}",
                float(rng.uniform(0, 2)),
                f"p{i}" if i >= 0 else None,
                readers,
                bool(rng.random() < 0.3),
                *(float(v) for v in rng.uniform(0, 1, 2)),
            )
        )
    damages = {link.grid: link.damage for link in reversed(links)}
    return parts, [
        TensorLink(a.name, a.grid, damages[a.grid], a.maker, a.readers, a.outside, a.enter, a.leave) for a in links
    ]


def test_the_cut_is_the_cheapest_of_all_choices() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        parts, links = random_net(rng)
        price = float(rng.choice([0.0, 0.1, 1.0, 10.0]))
        every = [
            evaluate(parts, links, frozenset(c))
            for r in range(len(parts) + 1)
            for c in itertools.combinations([p.name for p in parts], r)
        ]
        least = min(c.seconds + price * c.damage for c in every)
        found = choose(parts, links, price)
        assert found.seconds + price * found.damage == pytest.approx(least)


def test_an_island_too_small_for_its_conversions_is_dissolved() -> None:
    parts = [Part("a", 3.0, 1.0), Part("small", 1.0, 0.9), Part("b", 3.0, 1.0)]
    links = [
        TensorLink("x", "x", 0, None, ("small",), False, 0.2, 0.2),
        TensorLink("s", "s", 0, "small", (), True, 0.2, 0.2),
        TensorLink("u", "u", 0, None, ("a",), False, 0.2, 0.2),
        TensorLink("v", "v", 0, "a", ("b",), False, 9, 9),
        TensorLink("w", "w", 0, "b", (), True, 0.2, 0.2),
    ]
    assert choose(parts, links, 0.0).integer == {"a", "b"}


def test_the_ladder_climbs() -> None:
    parts = [Part(f"p{i}", 3.0, 1.0, 10.0**-i) for i in range(5)]
    links = [TensorLink(f"t{i}", f"t{i}", 0.0, f"p{i}", (f"p{i + 1}",), False, 0.1, 0.1) for i in range(4)]
    steps = ladder(parts, links)
    assert len(steps) >= 4 and steps[0].integer == {p.name for p in parts}
    assert all(a.seconds <= b.seconds and a.damage > b.damage for a, b in itertools.pairwise(steps))


def test_damage_is_measured_where_it_is_done() -> None:
    """One tensor of many has a ruinous grid; a bounded number of runs finds it."""
    model, data = residual(), images()
    executor = registry.executor("ort")
    made = mixer(model, data, executor, {})
    sources, keys = Region(made.quantizer, {}).sources()
    assert len(keys) == len(sources) > 10
    bad = next(i for i, s in enumerate(sources) if s.grid is not None and i > 4)
    grid = sources[bad].grid
    assert grid is not None
    coarse = type(grid)(grid.type, np.asarray(grid.scale * 60, np.float32), np.array(0))
    sources[bad] = ErrorSource(sources[bad].name, grid=coarse, local=1e-9)  # the local figure is of no help
    measured: list[int] = []
    found = sensitivities(
        made.quantizer.model, sources, made.distance, executor, 14, lambda done, total: measured.append(done)
    )
    assert max(measured) <= 14
    assert int(np.argmax(found)) in (bad - 1, bad, bad + 1)
    assert max(found) > 10 * float(np.median(found))


def test_simulated_errors_are_those_of_the_integers() -> None:
    model, data = residual(), images()
    executor = registry.executor("ort")
    made = mixer(model, data, executor, {})
    sources, _ = Region(made.quantizer, {}).sources()
    whole = made.quantizer.build()
    copy = simulated(made.quantizer.model, sources)
    verify(copy)
    distance = Distance(executor.prepare(whole.model), data)
    assert distance(executor.prepare(copy)) < 0.5 * distance(executor.prepare(model))


FAST = {"float": 2.0, "whole": 1.0, "mixed": 1.0}
NAMES = ("stem", "inner", "outer", "depthwise", "pointwise", "classifier")


def test_what_is_slower_in_integers_stays_in_float() -> None:
    floats, integers = dict.fromkeys(NAMES, 2e-3), dict.fromkeys(NAMES, 1e-3)
    integers["depthwise"] = 9e-3
    made = mixer(residual(), images(), Timed(floats, integers), {**FAST, "mixed": 0.9}).find(max_loss=1.0)
    assert set(made.kept) & set(NAMES) == {"depthwise"} and "not faster in integers" in made.kept["depthwise"]
    assert made.built is not None and made.speedup == pytest.approx(2 / 0.9)
    facts = {f.name: f for f in made.nodes}
    assert facts["depthwise"].integer_ms == pytest.approx(9) and facts["stem"].reason == ""


@pytest.mark.parametrize("slower, kept", [(0.9 * TIE, set()), (1.2 * TIE, {"depthwise"})])
def test_a_layer_stays_in_float_for_time_only_where_it_is_surely_slower(slower: float, kept: set[str]) -> None:
    floats, integers = dict.fromkeys(NAMES, 2e-3), dict.fromkeys(NAMES, 1e-3)
    floats["depthwise"], integers["depthwise"] = 9e-3, slower * 9e-3
    made = mixer(residual(), images(), Timed(floats, integers), {**FAST, "mixed": 0.9}).find(max_loss=1.0)
    assert set(made.kept) & set(NAMES) == kept


def test_disturbed_times_decide_nothing() -> None:
    """What a profile measures while other work runs is not believed."""

    class Disturbed(Timed):
        def profile(self, model: ir.Model, feeds: Sequence[Feeds]) -> list[Kernel]:
            self.calls += 1
            return [
                replace(k, seconds=k.seconds * (1.0 if self.calls % 3 == 0 else 7.0))
                for k in super().profile(model, feeds)
            ]

        calls = 0

    floats = dict.fromkeys(NAMES, 2e-3)
    model = residual()
    name_nodes(model.graph)
    assert node_seconds(Disturbed(floats, {}), model, images()[0]) == pytest.approx(floats)


def test_a_little_accuracy_is_not_bought_with_time_that_noise_could_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two models of equal worth, the faster is taken; SURELY times better, the other."""
    floats, integers = dict.fromkeys(NAMES, 2e-3), dict.fromkeys(NAMES, 1e-3)

    for better, kept in ((0.9 / SURELY, {"stem"}), (1.1 / SURELY, set())):

        def two(parts: Sequence[Part], links: Sequence[TensorLink], better: float = better) -> list[Assignment]:
            every = frozenset(p.name for p in parts)
            slow = Assignment(every - {"stem"}, 1.0 + 1e-9, better * (1.0 + ENOUGH) - ENOUGH)
            return [Assignment(every, 1.0, 1.0), slow]

        monkeypatch.setattr("lwgraph.passes.quantize.judging.mixed_precision.ladder", two)
        made = mixer(residual(), images(), Timed(floats, integers), {**FAST, "mixed": 0.9}).find()
        assert set(made.kept) & set(NAMES) == kept


def test_a_mix_that_is_not_faster_when_measured_is_not_kept() -> None:
    floats, integers = dict.fromkeys(NAMES, 2e-3), dict.fromkeys(NAMES, 1e-3)
    integers["depthwise"] = 9e-3
    made = mixer(residual(), images(), Timed(floats, integers), {**FAST, "mixed": 1.1}).find(max_loss=1.0)
    assert made.kept == {} and made.ms == pytest.approx(1000)


def test_a_model_that_gains_nothing_stays_in_float() -> None:
    floats, integers = dict.fromkeys(NAMES, 2e-3), dict.fromkeys(NAMES, 1e-3)
    model = residual()
    slow = {"float": 1.0, "whole": 1.0, "mixed": 1.0}
    made = mixer(model, images(), Timed(floats, integers), slow).find(max_loss=1.0)
    assert made.built is None and made.model is model
    assert set(NAMES) <= set(made.kept) and all("integers save no time" in w for w in made.kept.values())


def fragile() -> ir.Model:
    """One layer's output mixes ranges so that its grid ruins the small one, which the next layer blows up again."""
    n = Net()
    x = n.input("x", ["n", 3, 16, 16])
    a = n.op("Relu", n.conv(x, 3, 16, name="first"))
    b = n.conv(a, 16, 16, k=1, name="mixing")
    n.constants["c2"][:8] *= 2000
    y = n.conv(b, 16, 16, k=1, name="blowing")
    n.constants["c4"][:, :8] /= 2000
    return n.model(n.conv(n.op("Relu", y), 16, 4, name="last"))


def test_the_accuracy_asked_for_is_bought_where_it_is_cheapest() -> None:
    names = ("first", "mixing", "blowing", "last")
    executor = Timed(dict.fromkeys(names, 2e-3), dict.fromkeys(names, 1e-3))
    made = mixer(fragile(), images(), executor, FAST).find(max_loss=0.01)
    assert made.integer_loss is not None and made.integer_loss > 0.1  # all in integers is ruined
    assert made.loss is not None and made.loss <= 0.01 and made.built is not None
    assert {"mixing", "blowing"} & set(made.kept) and set(made.kept) <= {"mixing", "blowing"}
    assert all("relative error" in w or "neighbours" in w for w in made.kept.values())


def test_without_a_limit_ruin_is_avoided_and_little_damage_is_not_paid_for() -> None:
    names = ("first", "mixing", "blowing", "last")
    executor = Timed(dict.fromkeys(names, 2e-3), dict.fromkeys(names, 1e-3))
    made = mixer(fragile(), images(), executor, FAST).find()
    assert made.loss is not None and made.loss < 0.02 and made.kept
    easy = mixer(residual(), images(), Timed(dict.fromkeys(NAMES, 2e-3), dict.fromkeys(NAMES, 1e-3)), FAST).find()
    assert not easy.kept


def test_mixes_are_weighed_by_what_was_measured_of_nodes_and_none_is_built_or_timed() -> None:
    names = ("first", "mixing", "blowing", "last")
    search = mixer(fragile(), images(), Timed(dict.fromkeys(names, 2e-3), dict.fromkeys(names, 1e-3)), {})
    search.race = lambda runs, feed: pytest.fail("a network was timed")
    built, build = list[Any](), search.quantizer.build
    search.quantizer.build = lambda refused={}: built.append(refused) or build(refused)  # type: ignore[method-assign]
    nodes, mixes = search.weigh()
    assert len(built) == 1  # all in integers
    shares = [mix.share for mix in mixes]
    assert shares[0] == 1.0 and not mixes[0].kept and shares == sorted(shares, reverse=True) and len(mixes) > 1
    assert set(mixes[1].kept) == {"mixing", "blowing"} and mixes[1].share < 0.1
    times = [mix.time for mix in mixes]
    assert times == sorted(times) and times[0] == pytest.approx(0.5, rel=0.1) and times[-1] <= EVEN
    assert {n.name for n in nodes if n.reason} == {"mixing", "blowing"} and all(n.damage is not None for n in nodes)


def test_no_mix_is_worth_a_look_where_integers_save_nothing() -> None:
    names = ("first", "mixing", "blowing", "last")
    search = mixer(fragile(), images(), Timed(dict.fromkeys(names, 1e-3), dict.fromkeys(names, 3e-3)), {})
    nodes, mixes = search.weigh()
    assert not mixes and not any(n.reason for n in nodes) and all(n.damage is not None for n in nodes)


@pytest.mark.parametrize(("mixed", "kept"), [(1.9, True), (2.1, False)])
def test_a_large_error_is_not_traded_for_time_if_another_mix_is_faster_than_floats(
    monkeypatch: pytest.MonkeyPatch, mixed: float, kept: bool
) -> None:
    """Integers are so fast that without a ceiling the ruined model would be taken."""
    names = ("first", "mixing", "blowing", "last")
    executor = Timed(dict.fromkeys(names, 2e-3), dict.fromkeys(names, 1e-4))
    monkeypatch.setattr("lwgraph.passes.quantize.judging.mixed_precision.RATE", 60.0)
    search = mixer(fragile(), images(), executor, {})
    search.race = lambda runs, feed: {"float": 2.0, "whole": 1.0, "mixed": mixed if "whole" in runs else 1.0}
    made = search.find()
    assert made.loss is not None and (made.loss < CEILING) == kept and bool(made.kept) == kept


def test_ruin_is_not_taken_either_when_the_race_finds_it_faster_than_was_thought() -> None:
    names = ("first", "mixing", "blowing", "last")
    executor = Timed(dict.fromkeys(names, 2e-3), dict.fromkeys(names, 1e-3))
    made = mixer(fragile(), images(), executor, {"float": 2.0, "mixed": 1.9, "whole": 0.5}).find()
    assert made.integer_loss is not None and made.integer_loss > 10 * CEILING
    assert made.loss is not None and made.loss < CEILING and made.kept


def test_probabilities_are_judged_by_their_logits_but_a_judge_of_ones_own_sees_them() -> None:
    n = Net()
    x = n.op("Flatten", n.op("GlobalAveragePool", n.conv(n.input("x", ["n", 3, 16, 16]), 3, 16, name="first")))
    model = n.model(n.op("Softmax", n.gemm(x, 16, 10, name="last"), axis=-1, name="end"))
    seconds = {"float": 2.0, "mixed": 1.0, "whole": 1.0}
    search = mixer(model, images(), OrtExecutor(), seconds)
    assert all(abs(outputs["end_out"].mean()) < 1e-6 for outputs in search.distance.outputs)
    made = search.find()
    whole = search.quantizer.build({}).model
    outputs = Distance(OrtExecutor().prepare(model), images())
    assert made.integer_loss == search.loss(whole) == pytest.approx(outputs(OrtExecutor().prepare(whole)))
    assert search.unit != 1.0
    seen: list[Array] = []

    def judge(run: Run) -> float:
        seen.append(run(images()[0])["end_out"])
        return 0.0

    mixer(model, images(), OrtExecutor(), seconds, judge=judge).find(max_loss=1.0)
    assert seen and all(found.sum() == pytest.approx(1.0, abs=0.02) for found in seen)


def test_a_judge_of_ones_own() -> None:
    """What the loss is, the caller says: here how often the largest output is another one."""
    model, data = detector(), images()
    executor = OrtExecutor()
    run = executor.prepare(model)
    wanted = [next(iter(run(f).values())).argmax() for f in data]

    def judge(candidate: Run) -> float:
        return float(
            np.mean([next(iter(candidate(f).values())).argmax() != w for f, w in zip(data, wanted, strict=True)])
        )

    made = Quantize(calibration_method="minmax", equalize=False).within(
        model, Context(executor=executor, data=list(data)), max_loss=0.9, judge=judge
    )
    assert made.model is not None and (made.loss is None or 0 <= made.loss <= 0.9)
    assert ir.fingerprint(model) == ir.fingerprint(detector())


def test_an_accuracy_that_nothing_keeps_leaves_the_float_model() -> None:
    floats, integers = dict.fromkeys(NAMES, 2e-3), dict.fromkeys(NAMES, 1e-3)
    made = mixer(residual(), images(), Timed(floats, integers), FAST).find(max_loss=1e-12)
    assert made.built is None and all("keeps max_loss" in w for w in made.kept.values())


def test_profiles_name_the_nodes() -> None:
    model, data = residual(), images()
    executor = registry.executor("ort")
    made = mixer(model, data, executor, {})
    whole = made.quantizer.build()
    for m in (model, whole.model):
        seconds = node_seconds(executor, m, data[0])
        assert seconds is not None and set(NAMES) <= set(seconds) and all(v > 0 for v in seconds.values())
    border = measured_border(executor)
    assert border.enter(1e6) > border.enter(0) >= 0 and border.leave(1e6) > border.leave(0) >= 0


def test_max_loss_must_be_positive() -> None:
    with pytest.raises(UsageError, match="max_loss"):
        Quantize(max_loss=0.0)


def test_the_worst_tensors_get_ranges_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors whose range by another method does less damage alone are given it, if the whole is closer by CLEARLY."""
    names = dict.fromkeys(NAMES, 2e-3), dict.fromkeys(NAMES, 1e-3)
    chosen = []
    for factor in (1e-6, 1e6):
        monkeypatch.setattr("lwgraph.passes.quantize.judging.mixed_precision.CLEARLY", factor)
        made = mixer(residual(), images(), Timed(*names), FAST, methods=(("moving-average", 100.0), ("mse", 100.0)))
        assert made.find(max_loss=1e-5).integer_loss is not None
        chosen.append(dict(made.quantizer.chosen))
    assert chosen[0] and set(chosen[0].values()) <= {("moving-average", 100.0), ("mse", 100.0)}
    assert not chosen[1]


def test_ranges_that_do_not_help_the_whole_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "lwgraph.passes.quantize.judging.mixed_precision.better_ranges", lambda *_: {"x": (("percentile", 60.0), 0.0)}
    )
    made = mixer(fragile(), images(), Timed(dict.fromkeys(NAMES, 2e-3), dict.fromkeys(NAMES, 1e-3)), FAST)
    made.find()
    assert not made.quantizer.chosen
