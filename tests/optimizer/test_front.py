"""The table of plans that a run ends with, and any of them had at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lwgraph import ir, registry
from lwgraph.cache import Models
from lwgraph.errors import CheckError, UsageError
from lwgraph.measure.latency import Speedup
from lwgraph.measure.promise import BROKEN, KEPT, OPEN
from lwgraph.optimizer.candidates import Made
from lwgraph.optimizer.front import MOST, FrontRow, front_rows, keep_front, pick, with_speeds, with_verdicts
from lwgraph.optimizer.request import Request
from lwgraph.plan.plan import Choice, Plan
from lwgraph.plan.search.front import Candidate
from tests.layers.chain import FEEDS, ORT, chain
from tests.optimizer.plain_numbers import Fake, front

REFERENCE = registry.executor("reference")


def table(fake: Fake, request: Request | None = None, race: Any = None) -> tuple[list[FrontRow], list[Any]]:
    """The rows and models after a look at all that the fake knows."""
    candidates = fake.candidates(request, race)
    for candidate in front(len(fake.scores)).candidates:
        candidates.look(candidate, fake.make)
    candidates.settle()
    rows, made = front_rows(candidates)
    rows = with_verdicts(rows, made, candidates, None)
    return rows, [each.model for each in made]


@pytest.fixture(autouse=True)
def sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of models that are numbers."""
    size = ir.size
    monkeypatch.setattr(ir, "size", lambda model: 1000 * (model + 1) if isinstance(model, int) else size(model))


def test_rows_are_numbered_from_the_fastest_on_and_lose_less_and_less() -> None:
    rows, models = table(Fake([0.5, 0.4, 0.95, 0.9, 0.97]))
    assert models == [0, 2, 4] and [row.number for row in rows] == [1, 2, 3]
    assert [row.drop for row in rows] == pytest.approx([0.5, 0.05, 0.03])
    assert [(row.speed, row.said) for row in rows] == [(None, "")] * 3  # what was seen on the way is no speed to tell
    assert [row.bytes for row in rows] == [1000, 3000, 5000]
    assert [row.verdict for row in rows] == [BROKEN, KEPT, KEPT] and [row.chosen for row in rows] == [
        False,
        True,
        False,
    ]
    assert rows[0].why.startswith("with 95 % confidence, at least ")


def test_a_loss_within_the_promise_is_not_enough_to_keep_it() -> None:
    rows, _ = table(Fake([0.905, 0.95]))
    assert [row.verdict for row in rows] == [OPEN, KEPT] and rows[0].chosen and "1,000 samples cannot" in rows[0].why


def test_what_the_last_look_says_of_a_plan_goes_before() -> None:
    fake = Fake([0.95, 0.97])
    candidates = fake.candidates()
    for candidate in front(2).candidates:
        candidates.look(candidate, fake.make)
    said = {0: SimpleNamespace(verdict=OPEN, text="the last look"), 1: None}
    rows, made = front_rows(candidates)
    rows = with_verdicts(rows, made, candidates, SimpleNamespace(known=said.__getitem__))  # type: ignore[arg-type]
    assert [(row.verdict, row.why[:13]) for row in rows] == [(OPEN, "the last look"), (KEPT, "with 95 % con")]


def test_what_fails_a_check_is_not_kept() -> None:
    fake = Fake([0.95, 0.97])
    fake.refused.add(0)
    assert [row.verdict for row in table(fake)[0]] == [BROKEN, KEPT]


def test_a_limit_that_is_broken_is_told() -> None:
    rows, _ = table(Fake([0.5, 0.95, 0.97], stated=True), Request(speedup=4.0, max_drop=0.1))
    assert [row.verdict for row in rows] == [BROKEN, KEPT, BROKEN]
    assert rows[2].why == "--speedup 4 was not reached: the result is 3.33 times as fast"


@pytest.mark.parametrize("good", [0, 7, 13, 20, 29])
def test_of_many_at_most_eight_are_listed_and_the_chosen_one_is_among_them(good: int) -> None:
    scores = [0.5 + (0.4 if i >= good else 0.0) + i / 1000 for i in range(30)]
    rows, models = table(Fake(scores, measured={i: i + 1.0 for i in range(30)}))
    assert len(rows) == MOST and models[0] == 0 and models[-1] == 29 and models == sorted(models)
    assert [model for row, model in zip(rows, models, strict=True) if row.chosen] == [good]


def test_one_that_won_a_race_is_listed_though_another_was_timed_faster() -> None:
    fake = Fake([0.95, 0.94], measured={0: 20.0, 1: 22.0})
    rows, models = table(fake, race=lambda models: [5.0 - model for model in models])
    assert models == [0, 1] and [row.chosen for row in rows] == [False, True]


def test_nothing_was_looked_at() -> None:
    assert table(Fake([])) == ([], [])


# ------------------------------------------------------------ speeds


def timed(monkeypatch: pytest.MonkeyPatch, seconds: float, taken: float = 1.0) -> tuple[list[FrontRow], list[str]]:
    """Three plans with made-up times: the second settled, the third not; the first is no longer in memory."""
    speeds = {"2": Speedup("2", 2.5, (2.4, 2.6), 2.5, 2.4, 2.6, 0.0), "3": Speedup("3", 2, (1, 3), 2, 1, 3, 0, 8.1)}
    ran: list[str] = []

    def paired(runs: Any, *args: Any, **kwargs: Any) -> Any:
        ran.extend(runs)
        return SimpleNamespace(speedup=speeds.__getitem__)

    monkeypatch.setattr("lwgraph.optimizer.front.paired_latency", paired)
    made = [Made(Candidate((n,), 1.0, 0.0, measured_ms=taken), chain() if n > 1 else None) for n in (1, 2, 3)]
    rows = [FrontRow(n, 0.1, None, 1, False) for n in (1, 2, 3)]
    return with_speeds(rows, made, chain(), ORT, [FEEDS], threads=1, seconds=seconds), ran


def test_speeds_are_those_of_all_models_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, ran = timed(monkeypatch, 1.0)
    assert ran == ["0", "2", "3"]
    assert [row.speed for row in rows] == [None, 2.5, None] and [row.interval for row in rows][1] == (2.4, 2.6)
    why = "not settled (other work on this machine: load 8.1)"
    assert [row.said for row in rows] == ["", "2.50x", why]


def test_models_that_are_too_slow_for_the_time_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timed(monkeypatch, 1.0, taken=20.0)[1] == [] and timed(monkeypatch, 1.3, taken=20.0)[1]


# ------------------------------------------------------------ picking


def lower(model: ir.Model, by: float) -> ir.Model:
    """A copy with another bias."""
    copy = ir.clone(model)
    bias = copy.graph.initializers["b"]
    ir.set_constant(bias, ir.constant(bias) - by)
    return copy


Keep = Callable[..., Models]


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keep:
    """Remembers a front of so many plans of the chain, and the models of these."""
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))

    def kept(count: int) -> Models:
        models = Models(("chain",), [])
        rows, made = [], []
        for number in range(1, count + 1):
            plan = Plan({"a": Choice(f"low-rank{{rank={number}}}")})
            model = lower(chain(), number)
            models.put(plan.says(), model, {})
            rows.append(FrontRow(number, 0.01 * number, 2.0, ir.size(model), number == 1, OPEN))
            made.append(Made(Candidate((number,), 1.0, 0.0, plan=plan), model))
        assert keep_front(chain(), rows, made, models.folder) == ""
        return models

    return kept


def test_the_model_of_a_plan_is_had_as_it_was_made(keep: Keep) -> None:
    keep(3)
    for number in (2, 3, 1):
        row, model = pick(chain(), number, ORT, REFERENCE, [FEEDS])
        assert row.number == number and row.drop == 0.01 * number and row.chosen == (number == 1)
        assert row.verdict == OPEN
        assert ir.fingerprint(model) == ir.fingerprint(lower(chain(), number))


@pytest.mark.parametrize("number", [-1, 0, 3])
def test_a_number_that_is_not_there(keep: Keep, number: int) -> None:
    keep(3)
    keep(2)  # a later run has fewer
    with pytest.raises(UsageError, match=f"there is no plan {number}; allowed: 1 to 2"):
        pick(chain(), number, ORT, REFERENCE, [FEEDS])


def test_a_model_that_no_run_was_of(keep: Keep) -> None:
    keep(1)
    with pytest.raises(UsageError, match="no front of this model is in the cache; run lwgraph optimize"):
        pick(chain(shared=True), 1, ORT, REFERENCE, [FEEDS])


@pytest.mark.parametrize("large", [False, True])
def test_a_model_that_is_not_in_the_cache(keep: Keep, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:
        monkeypatch.setattr("lwgraph.cache.MOST_BYTES", 100)
    models = keep(1)
    for path in models.folder.glob("*.onnx"):
        assert not large
        path.unlink()
    with pytest.raises(UsageError, match="the model of plan 1 is no longer in the cache") as raised:
        pick(chain(), 1, ORT, REFERENCE, [FEEDS])
    assert "\n" not in str(raised.value)


def test_a_model_that_does_not_hold_what_is_checked(keep: Keep) -> None:
    models = keep(1)
    (path,) = models.folder.glob("*.onnx")
    other = chain()
    other.graph.outputs[0].name = "z"
    ir.save(other, path, overwrite=True)
    with pytest.raises(CheckError, match="plan 1 failed a check"):
        pick(chain(), 1, ORT, REFERENCE, [FEEDS])


def test_where_nothing_can_be_kept_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path / "file"))
    assert "the front is not kept" in keep_front(chain(), [], [], tmp_path)
