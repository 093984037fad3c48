"""The last look: samples of its own, what it makes of degenerate ones, and which plan stands after it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from lwgraph import ir, registry
from lwgraph.calibrate import Reader, open_data
from lwgraph.executor import Feeds, untimed
from lwgraph.measure.evidence import Disagreements, Evidence
from lwgraph.measure.promise import KEPT, OPEN
from lwgraph.optimizer.candidates import Candidates, Incumbent, Made
from lwgraph.optimizer.judge import Judge
from lwgraph.optimizer.last_look import LEAST_JUDGED, LastLook, affordable, part, positions
from lwgraph.optimizer.request import Request
from lwgraph.plan.plan import Plan
from lwgraph.plan.search.front import Candidate
from lwgraph.rewrite import Context

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[n,4] x) => (float[n,3] y)
<float[4,3] w = {1,0,0, 0,1,0, 0,0,1, 1,1,1}, float[3] b = {0,0,0}>
{ y = Gemm(x, w, b) }
"""


def model(w: Sequence[float] | None = None, b: Sequence[float] = (0, 0, 0)) -> ir.Model:
    text = TEXT.replace("{0,0,0}", "{" + ",".join(map(str, b)) + "}")
    if w is not None:
        text = text.replace("{1,0,0, 0,1,0, 0,0,1, 1,1,1}", "{" + ",".join(map(str, w)) + "}")
    return ir.load(onnx.parser.parse_model(text).SerializeToString())


def reader(samples: np.ndarray, of: ir.Model) -> Reader:
    return open_data({"x": samples.astype(np.float32)}, of)


def look(samples: np.ndarray, max_drop: float = 0.02) -> tuple[LastLook, ir.Model]:
    original, executor = model(), registry.executor("ort")
    choose, last = part(reader(samples, original), 0)
    judge = Judge(original, executor, choose, "agreement", max_drop, 0)
    return LastLook(original, executor, judge, last), original


RANDOM = np.random.default_rng(0).normal(size=(600, 4))


def test_as_many_samples_judge_as_a_pass_has_time_for() -> None:
    """Of samples that take 2 ms each, 0.1 s allow 50 at most; drawn at random, and never fewer than judge anything."""
    all_of_them = reader(RANDOM, model())

    def run(feeds: Feeds) -> dict[str, np.ndarray]:
        time.sleep(0.002)
        return {}

    fewer = affordable(all_of_them, run, 0.1, 0)
    assert LEAST_JUDGED <= fewer.count <= 50
    first = [feeds["x"].tobytes() for feeds in all_of_them][: fewer.count]
    assert [feeds["x"].tobytes() for feeds in fewer] != first
    assert affordable(all_of_them, run, 0.001, 0).count == LEAST_JUDGED
    assert affordable(all_of_them, run, 60.0, 0) is all_of_them
    few = reader(RANDOM[:LEAST_JUDGED], model())
    assert affordable(few, run, 0.001, 0) is few


def test_nothing_is_made_ready_before_the_last_look_is_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session may hold a copy of all weights, for as long as the search takes."""
    original, executor = model(), registry.executor("ort")
    choose, last = part(reader(RANDOM, original), 0)
    judge, prepared = Judge(original, executor, choose, "agreement", 0.02, 0), list[ir.Model]()
    prepare = type(executor).prepare

    def counted(self: Any, model: ir.Model, outputs: Sequence[str] | None = None) -> Any:
        prepared.append(model)
        return prepare(self, model, outputs)

    monkeypatch.setattr(type(executor), "prepare", counted)
    had = LastLook(original, executor, judge, last)
    assert not prepared
    had.verdict(original, False)
    assert prepared


def test_a_third_is_for_choosing_and_the_rest_is_never_seen_before() -> None:
    choose, last = part(reader(RANDOM, model()), 0)
    assert choose is not None and last is not None and (choose.count, last.count) == (200, 400)
    seen = {feeds["x"].tobytes() for feeds in choose}
    assert not seen & {feeds["x"].tobytes() for feeds in last}
    two = reader(RANDOM[:2], model())
    assert part(two, 0) == (two, None) and part(None, 0) == (None, None)


def test_the_verdict_is_of_the_last_samples() -> None:
    found, _ = look(RANDOM)
    score, verdict = found.verdict(model(b=[1e-4, 0, 0]), same=False)
    assert score.count == verdict.samples == 400
    assert verdict.verdict == KEPT and 0 < verdict.bound < 0.02


def test_what_is_the_same_by_contract_needs_no_samples() -> None:
    found, original = look(RANDOM[:6])
    assert found.verdict(original, same=True)[1].verdict == KEPT
    assert found.verdict(original, same=False)[1].verdict == OPEN


def test_samples_of_one_class_judge_nothing() -> None:
    one = np.abs(RANDOM) * [0.01, 0.01, 0.01, 1.0] + [9, 0, 0, 0]
    found, _ = look(one)
    _, verdict = found.verdict(model(b=[1e-4, 0, 0]), same=False)
    assert verdict.verdict == OPEN and "one class" in verdict.text
    constant, _ = look(np.ones((30, 4)))
    assert "the same for all" in constant.verdict(model(b=[1e-4, 0, 0]), same=False)[1].text


def test_outputs_that_no_longer_depend_on_the_input_do_not_follow() -> None:
    found, original = look(RANDOM)
    assert found.follows(original) and found.follows(model(b=[0.3, 0, 0]))
    assert not found.follows(model(w=[0.0] * 12, b=[5, 0, 0]))
    assert not found.follows(model(w=np.random.default_rng(1).normal(size=12).round(3)))


def right(run, samples=None):
    """One value for each sample; with `count`, below, the share of them."""
    y = run({"x": RANDOM.astype(np.float32)})["y"]
    values = (y.argmax(1) == (RANDOM[:, :3] + RANDOM[:, 3:]).argmax(1)).astype(float)
    return values if samples is None and not hasattr(right, "count") else float(values[samples].mean())


def looks(spec: Any, parted: bool) -> LastLook:
    """At a function's samples; parted: of those, the last look has its own."""
    original, executor = model(), registry.executor("ort")
    judge = Judge(original, executor, None, spec, 0.02, 0, part=positions(0, last=False) if parted else None)
    return LastLook(original, executor, judge, None)


def test_without_samples_of_its_own_the_looks_are_corrected_for() -> None:
    found = looks(right, parted=False)
    once = found.verdict(model(b=[1e-4, 0, 0]), same=False)[1]
    found.choosing.looks = 20
    often = found.verdict(model(b=[1e-4, 0, 0]), same=False)[1]
    assert once.verdict == KEPT and once.samples == 600 and often.bound > once.bound


@pytest.mark.parametrize("counted", [False, True])
def test_a_function_keeps_two_thirds_of_its_samples_for_the_last_look(
    counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if counted:
        monkeypatch.setattr(right, "count", 600, raising=False)
    found, candidate = looks(right, parted=True), model(b=[0.2, 0, 0])
    found.choosing.looks = 500  # which counts for nothing, since none of them saw these samples
    assert found.own and found.choosing.base.count == 200 and found.samples == 400
    verdict = found.verdict(candidate, same=False)[1]
    assert verdict.samples == 400 and verdict.lower < verdict.estimate < verdict.bound
    all_of_them = looks(right, parted=False)
    both = found.choosing.score(candidate).value / 3 + 2 * found._found(candidate)[0].value / 3
    assert both == pytest.approx(all_of_them._found(candidate)[0].value, abs=1e-9)


# ------------------------------------------------------------ which plan stands


class Looks:
    """Stands for the last look: counts of disagreement among 1,000 by the model's number."""

    def __init__(self, counts: dict[int, int], samples: int = 1000) -> None:
        self.counts, self.samples, self.confidence, self.own = counts, samples, 0.95, True
        self.misses, self.tested = lambda model: False, 1
        self.looked: list[int] = []

    def evidence(self, number: int) -> Evidence:
        self.looked.append(number)
        return Disagreements(self.counts[number], self.samples)


def candidates(losses: list[float]) -> Candidates:
    """Plan i takes 10 (i + 1) ms; the fastest that keeps a loss of 0.01 is the incumbent."""
    judge = SimpleNamespace(floor=0.99, base=SimpleNamespace(value=1.0), max_drop=0.01, stated=True, looks=0)
    found = Candidates(
        Request(max_drop=0.01),
        judge,  # type: ignore[arg-type]
        Incumbent("clean"),  # type: ignore[arg-type]
        make=None,  # type: ignore[arg-type]
        prove=lambda model: [SimpleNamespace(ok=True)],  # type: ignore[list-item]
        milliseconds=None,
        base=Candidate((), 1000.0, 0.0, "cleaned", plan=Plan(), stated=True),
        context=Context(),
    )
    for i, loss in enumerate(losses):
        ms = 10.0 * (i + 1)
        known = Candidate((i,), ms, 0.0, plan=Plan({}, "t"), judged=1 - loss, accepted=loss <= 0.01, measured_ms=ms)
        found.put(Made(known, i))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("counts", "stands"),
    [
        ({0: 3, 1: 2, 2: 0}, 0),  # all are kept: the fastest
        ({0: 9, 1: 2, 2: 0}, 1),  # it is not resolved for the fastest
        ({0: 0, 1: 30, 2: 0}, 2),  # the walk ends at the first that is not kept
        ({0: 9, 1: 9, 2: 9}, 2),  # nothing is resolved: the one whose bound is best
    ],
)
def test_the_last_that_is_kept_before_the_first_that_is_not_stands(counts: dict[int, int], stands: int) -> None:
    found = candidates([0.009, 0.005, 0.0])
    assert found.incumbent.model == 0
    found.look_last(Looks(counts))  # type: ignore[arg-type]
    assert found.incumbent.model == stands


def test_of_plans_that_lose_the_same_the_fastest_stands_and_broken_ones_are_not_looked_at() -> None:
    found = candidates([0.5, 0.0, 0.0, 0.0])
    found.look_last(Looks({1: 0}, samples=20))  # type: ignore[arg-type]
    assert found.incumbent.model == 1


@pytest.mark.parametrize(
    ("samples", "counts", "stands"),
    [
        (60, [0, 0, 0], 0),  # 60 samples show nothing: of equal bounds, the fastest
        (60, [2, 1, 1], 1),  # the best bound, and not the least estimate
        (400, [2, 1, 0], 2),  # enough to try the plan that loses least, which turns out not to be kept
    ],
)
def test_where_nothing_can_be_resolved_the_best_bound_stands(samples: int, counts: list[int], stands: int) -> None:
    found = candidates([0.009, 0.005, 0.002])
    scores = [
        Disagreements(count, 200, expected=share) for count, share in zip(counts, (9e-3, 5e-3, 2e-3), strict=True)
    ]
    found.judge.evidence = lambda score: scores[score]  # type: ignore[method-assign]
    for made in list(found.all()):
        found._made[made.candidate.key] = replace(made, score=made.model)  # type: ignore[arg-type]
    last = Looks({0: 9, 1: 9, 2: 9}, samples)
    found.look_last(last)  # type: ignore[arg-type]
    assert found.incumbent.model == stands and last.looked == ([] if samples == 60 else [2])
    assert found.told.startswith("60 samples cannot show that any plan keeps") == (samples == 60)


def test_a_candidate_that_does_not_follow_the_input_never_stands() -> None:
    found = candidates([])
    found.follows = lambda model: model != 0  # type: ignore[assignment,comparison-overlap]
    for i in range(2):
        known = Candidate((i,), 10.0 + i, 0.0, plan=Plan({}, "t"), judged=1.0, accepted=True, measured_ms=10.0 + i)
        found.put(Made(known, i))  # type: ignore[arg-type]
    assert found.incumbent.model == 1


def test_the_confidence_is_checked() -> None:
    assert Request(confidence=0.99).confidence == 0.99
    for wrong in (0.5, 1.0):
        with pytest.raises(Exception, match="--confidence is"):
            Request(confidence=wrong)


def test_a_function_may_take_samples() -> None:
    class Median:
        """A number of a whole set."""

        count = 60

        def __call__(self, run, samples=None):
            y = run({"x": RANDOM[:60].astype(np.float32)})["y"]
            at = np.arange(60) if samples is None else samples
            return float(np.median(y[at, 0]))

    found = looks(Median(), parted=True)
    _, verdict = found.verdict(model(w=[0.9, *[0.0] * 11]), same=False)
    assert verdict.method.startswith("bootstrap") and verdict.lower < verdict.estimate < verdict.bound


@pytest.mark.parametrize(
    ("ratios", "verdict"), [((0.3, 0.4), "kept"), ((0.45, 0.6), "not resolved"), ((0.6, 0.7), "broken")]
)
def test_a_speed_that_was_asked_for_has_the_same_three_verdicts(ratios: tuple[float, float], verdict: str) -> None:
    found, why = Request(speedup=2).judge_limits(ratios, 10.0, 1000, 1000)
    assert found == verdict and bool(why) == (verdict != "kept")
    assert Request(max_bytes=900).judge_limits(ratios, 10.0, 1000, 1000)[0] == "broken"


def test_a_model_that_was_looked_at_is_not_run_again_for_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    last, original = look(RANDOM)
    candidate = ir.clone(original)
    assert last.base and last.reason == ""
    prepared: list[ir.Model] = []
    executor = last._executor
    prepare = type(executor).prepare
    monkeypatch.setattr(
        type(executor), "prepare", lambda self, model, *more: prepared.append(model) or prepare(self, model, *more)
    )
    found = last.evidence(candidate)
    _, verdict = last.verdict(candidate, False)
    assert prepared == [candidate] and verdict.estimate == found.estimate
    last.evidence(ir.clone(original))
    assert len(prepared) == 2


# ------------------------------------------------------------ samples that judge nothing, and results that are constant


def judged(samples: np.ndarray, metric: str | None, max_drop: float | None, text: str, **data: np.ndarray) -> LastLook:
    """The last look at a model in text form whose input is x."""
    original = ir.load(onnx.parser.parse_model(text).SerializeToString())
    opened, executor = open_data({"x": samples.astype(np.float32)} | data, original), registry.executor("ort")
    choose, last = part(opened, 0)
    return LastLook(original, executor, Judge(original, executor, choose, metric, max_drop, 0), last)


PASSED = '<ir_version: 10, opset_import: ["" : 18]> g (float[n,W] x) => (float[n,W] y) { y = Identity(x) }'
ROWS = PASSED.replace("Identity", "Abs")


@pytest.mark.parametrize(
    ("samples", "metric", "max_drop", "reason"),
    [
        (np.ones((30, 20)), None, None, "the same for all"),  # a constant network
        (1 + 1e-9 * RANDOM[:60, :2].repeat(10, 1), None, None, "the same for all"),  # but for rounding
        (1 + 1e-3 * np.abs(RANDOM[:60, :2].repeat(10, 1)), "cosine", 0.01, "always gives the same answer"),  # one point
        (np.abs(np.eye(4)[[0] * 99 + [1]] + 0.01), "agreement", 0.02, "of one class"),  # another class once
        (np.abs(RANDOM), "agreement", 0.02, ""),
        (np.abs(RANDOM[:, :4].repeat(5, 1)), "cosine", 0.01, ""),
        (np.abs(RANDOM[:8, :4].repeat(5, 1)), "cosine", 0.01, ""),
        (np.abs(RANDOM[:7, :4].repeat(5, 1)), "cosine", 0.01, "at least 8 are needed"),
    ],
)
def test_samples_on_which_a_constant_would_pass_judge_nothing(
    samples: np.ndarray, metric: str | None, max_drop: float | None, reason: str
) -> None:
    found = judged(samples, metric, max_drop, ROWS.replace("W", str(samples.shape[1])))
    assert reason in found.reason and bool(found.reason) == bool(reason)


def test_a_detector_that_finds_nothing_judges_nothing() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]> g (float[n,6,5] x) => (float[n,6,4] boxes, float[n,6] scores)
        <int64[2] s = {4, 1}> { b, t = Split<axis=2>(x, s) boxes = Relu(b)
          last = Constant<value_ints=[2]>() scores = Squeeze(t, last) }"""
    rows = np.tile([0.0, 0.0, 5.0, 5.0, 0.1], (20, 6, 1))
    rows[..., 0] = 100 * np.random.default_rng(0).random((20, 6))
    rows[..., 2] += rows[..., 0]
    assert "always finds the same, or nothing," in judged(rows, "detections", 0.01, text).reason
    rows[:, 0, 4] = 0.9
    assert judged(rows, "detections", 0.01, text).reason == ""


def test_a_constant_that_few_samples_do_not_show_is_found_on_generated_inputs() -> None:
    original, executor = model(), registry.executor("ort")
    samples = np.tile(RANDOM[:1], (6, 1)) + 1e-2 * RANDOM[:6]
    choose, last = part(reader(samples, original), 0)
    judge = Judge(original, executor, choose, "agreement", 0.02, 0)
    generated = [{"x": RANDOM[i : i + 1].astype(np.float32)} for i in range(6)]
    found = LastLook(original, executor, judge, last, generated=generated)
    # It follows the samples, by a slope that is nothing to what the original does.
    small = model(w=(0.05 * np.array([1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1])).tolist(), b=[2, 0, 0])
    assert LastLook(original, executor, judge, last).follows(small)
    assert not found.follows(small) and found.follows(original)


def test_each_output_must_follow() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]> g (float[n,4] x) => (float[n,4] logits, float[n,4] box)
        { logits = Abs(x) box = Neg(x) }"""
    found = judged(RANDOM, "agreement", 0.02, text)
    still = text.replace("box = Neg(x)", "d = Sub(x, x) box = Exp(d)")
    assert not found.follows(ir.load(onnx.parser.parse_model(still).SerializeToString()))
    assert found.follows(ir.load(onnx.parser.parse_model(text).SerializeToString()))


def test_what_is_told_beside_the_metric() -> None:
    found = judged(RANDOM[:, :4].repeat(5, 1), "cosine", 0.01, PASSED.replace("Identity", "Neg").replace("W", "20"))
    same = ir.load(onnx.parser.parse_model(PASSED.replace("Identity", "Neg").replace("W", "20")).SerializeToString())
    assert found.beside(same) == {"correlation": pytest.approx(1), "neighbours": 1.0}
    other = ir.load(onnx.parser.parse_model(ROWS.replace("W", "20")).SerializeToString())
    assert found.beside(other)["neighbours"] < 0.9


def test_what_is_known_to_be_broken_is_not_delivered() -> None:
    found = candidates([0.009])
    assert found.incumbent.model == 0
    looks = Looks({0: 200})
    looks.misses = lambda model: True
    found.look_last(looks)  # type: ignore[arg-type]
    assert found.incumbent.model == "clean" and found.moments[-1].origin == "cleaned"


@pytest.mark.parametrize(("broken", "stands", "tested"), [({0}, 1, 2), ({0, 1}, 3, 3), ({0, 1, 3}, "clean", 3)])
def test_a_slower_plan_takes_the_place_of_one_that_loses_too_much(
    broken: set[int], stands: int | str, tested: int
) -> None:
    """On few samples none seems to lose anything; number 2 lost more there than number 0, so it is not looked at."""
    found = candidates([0.005, 0.0, 0.009, 0.005])
    assert found.incumbent.model == 0
    looks = Looks(dict.fromkeys(range(4), 200))
    looks.misses = lambda model: model in broken  # type: ignore[comparison-overlap]
    found._surest = lambda standing: [found._made[standing.key]]  # type: ignore[method-assign, list-item]
    found._hopeless = lambda made, last: True  # type: ignore[method-assign]
    found.look_last(looks)  # type: ignore[arg-type]
    assert found.incumbent.model == stands and looks.tested == tested
    assert found.told.endswith("a slower one took its place") == (stands != "clean")


def test_each_plan_that_the_last_look_chose_among_is_paid_for() -> None:
    found, candidate = looks(right, parted=True), model(b=[0.2, 0, 0])
    once = found.verdict(candidate, same=False)[1]
    found.tested = 3
    assert found.verdict(candidate, same=False)[1].bound > once.bound  # type: ignore[operator]


def test_what_misses_the_promise_for_sure_or_by_its_estimate() -> None:
    found, original = look(RANDOM)
    assert found.misses(model(b=[5, 0, 0])) and not found.misses(original)
    few, slight = look(RANDOM[:40]), model(b=[0.1, 0, 0])
    verdict = few[0].verdict(slight, same=False)[1]
    assert verdict.verdict == OPEN and verdict.estimate > 0.01 and few[0].misses(slight)


def test_the_original_is_run_once_on_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what candidates are compared with, for its own score, and for whether the samples judge anything."""
    original, executor = model(), registry.executor("ort")
    rows: list[int] = []
    session = type(untimed(executor).prepare(original))
    call = session.__call__
    monkeypatch.setattr(session, "__call__", lambda self, feeds: rows.append(len(feeds["x"])) or call(self, feeds))
    choose, last = part(reader(RANDOM, original), 0)
    assert choose is not None and last is not None
    judge = Judge(original, executor, choose, "agreement", 0.02, 0)
    assert sum(rows) == choose.count + 16  # those by which the kind of the outputs is found
    rows.clear()
    assert LastLook(original, executor, judge, last).reason == ""
    assert sum(rows) == last.count
