"""Runs for several targets find out once what is the same for all of them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lwgraph
from lwgraph import ir, registry
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor, Run
from lwgraph.optimizer import judge, run, setting, several
from lwgraph.optimizer.stages import forms, structure
from lwgraph.rewrite.base import Context, Log
from tests.optimizer.two_convolutions import two_convolutions

SAMPLES = {"x": np.random.default_rng(1).standard_normal((48, 8, 6, 6)).astype(np.float32)}
TARGETS, BUDGET = ["ort-cpu", "macs"], 120.0


class Seen:
    """The settings of the runs for two targets, and how often each of some steps was done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[str] = Counter()
        opened, found = run.open_run, list[setting.Setting]()

        def opening(*given: Any) -> setting.Setting:
            found.append(opened(*given))
            return found[-1]

        def counted(where: Any, name: str) -> None:
            whole: Callable[..., Any] = getattr(where, name)

            def counting(*given: Any, **named: Any) -> Any:
                self.counts[name] += 1
                return whole(*given, **named)

            monkeypatch.setattr(where, name, counting)

        for where, name in ((setting, "gather"), (setting, "accept"), (run, "_clean"), (judge, "open_metric")):
            counted(where, name)
        monkeypatch.setattr(run, "open_run", opening)
        monkeypatch.setattr(several, "expanded", lambda name: TARGETS)
        result = lwgraph.optimize(
            ir.to_proto(two_convolutions(6)), target="any", data=SAMPLES, preset="lossless", budget=BUDGET
        )
        rows = result.report.details["runtimes"]["rows"]
        assert [row["target"] for row in rows if row["model"] == "input"] == TARGETS
        self.first, self.second = found


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Seen(monkeypatch)


def test_what_is_the_same_is_found_out_once(seen: Seen) -> None:
    first, second = seen.first, seen.second
    assert seen.counts == dict.fromkeys(("gather", "accept", "_clean", "open_metric"), 1)
    assert first.original is second.original
    assert first.judge is not None and second.judge is not None and first.last is not None and second.last is not None
    assert first.judge is not second.judge and first.judge.base is second.judge.base
    assert first.last.base is second.last.base and second.last.choosing is second.judge
    assert first.context.memory is second.context.memory
    clean = ir.clone(first.original)
    assert first.statistics_of(clean) is second.statistics_of(clean)


def test_each_target_counts_its_own_looks(seen: Seen) -> None:
    first, second = seen.first, seen.second
    assert first.judge is not None and second.judge is not None
    looks = second.judge.looks
    first.judge.score(first.original)
    assert second.judge.looks == looks
    assert first.last is not None and second.last is not None
    first.last.evidence(first.original)
    assert second.last.known(first.original) is None


def test_the_fastest_comes_first_and_gets_most_of_what_is_left(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen.first.clock.budget is not None and seen.second.clock.budget is not None
    share, last = sorted((seen.first.clock.budget, seen.second.clock.budget))
    left = (1 - several.LAST_SHARE) * BUDGET
    assert share <= several.FIRST_SHARE * left < last <= left  # the first one did not need all of its share

    def timed(runs: Mapping[str, Run], *_: Any, **__: Any) -> Any:
        return SimpleNamespace(timing=lambda name: SimpleNamespace(minimum={"ort-cpu": 2.0, "macs": 1.0}[name]))

    monkeypatch.setattr(several, "paired_latency", timed)
    assert several._fastest_first({"ort-cpu": seen.first, "macs": seen.second}) == ["macs", "ort-cpu"]

    def refuse(*_: Any, **__: Any) -> Any:
        raise LwgraphError("not now")

    monkeypatch.setattr(several, "paired_latency", refuse)
    assert several._fastest_first({"ort-cpu": seen.first, "macs": seen.second}) == TARGETS


def test_losses_of_the_network_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What groups and layers matter, by the statistics and the network that they were measured on."""
    clean, asked = two_convolutions(6), list[str]()

    def offers(_: ir.Model, context: Context, *__: Any) -> list[str]:
        asked.append("offers")
        assert context.executor is plain
        return ["offer"]

    def sensed(model: ir.Model, items: Any, loss: Any, executor: Executor, *_: Any, **__: Any) -> dict[str, float]:
        asked.extend(item.name for item in items)
        assert executor is plain
        return {item.name: 1.0 for item in items}

    monkeypatch.setattr(structure, "find_offers", offers)
    monkeypatch.setattr(forms.site_sensitivity, "measure", sensed)
    monkeypatch.setattr(forms, "Loss", lambda *_: None)
    memory: dict[object, object] = {}
    plain = registry.executor("ort")
    narrow: Any = SimpleNamespace(name="narrow", as_written=lambda: plain, prepare=None)

    def target(*names: str) -> tuple[Any, Any]:
        context = Context(executor=narrow, log=Log(memory=memory))
        work = SimpleNamespace(
            clean=clean,
            context=context,
            float_ms=1.0,
            samples=lambda *_: [],
            executor=context.executor,
            setting=SimpleNamespace(pool=None, data_pass=None),
            integers=SimpleNamespace(hasty=False),
        )
        items = tuple(SimpleNamespace(name=name) for name in names)
        return work, SimpleNamespace(model=clean, context=context, items=items, weighed=dict)

    for names in (("a", "b"), ("b", "c")):
        work, planner = target(*names)
        assert structure._offers(work, None) == ["offer"]
        assert set(names) <= set(forms._weighed(work, planner, 1.0))
    assert asked == ["offers", "a", "b", "c"]


def test_without_a_budget_what_the_others_took_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, begun = run.open_run, list[tuple[setting.Setting, float]]()

    def opening(*given: Any) -> setting.Setting:
        found = opened(*given)
        begun.append((found, found.clock.start))
        return found

    monkeypatch.setattr(run, "open_run", opening)
    monkeypatch.setattr(several, "expanded", lambda name: TARGETS)
    lwgraph.optimize(ir.to_proto(two_convolutions(6)), target="any", data=SAMPLES, preset="lossless")
    (first, _), (second, start) = begun
    assert start < first.clock.start < second.clock.start and second.clock.budget is None
