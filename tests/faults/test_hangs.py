"""Plug-ins that never end, or that raise what no handler of errors catches, cost their own contribution."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
from onnx import TensorProto, helper

import lwgraph.alarm
from lwgraph import ir
from lwgraph.alarm import OutOfTime, alarm
from lwgraph.contract import Contract
from lwgraph.errors import CheckError
from lwgraph.failures import Failures
from lwgraph.optimizer import clock as clock_module
from lwgraph.optimizer import optimize
from lwgraph.optimizer import run as run_module
from lwgraph.optimizer.clock import Clock
from lwgraph.rewrite import Context, Pass, Pipeline
from tests.faults.models import model

SOON = 0.05


class Weird(BaseException):
    """No error, to those who catch errors."""


def spin() -> None:
    while True:
        pass


def sleep() -> None:
    time.sleep(60)


def swallow() -> None:
    """Takes whatever is raised for nothing, twice."""
    for _ in range(2):
        with contextlib.suppress(BaseException):
            spin()
    spin()


class Kept:
    """What a weak reference is to."""


def drop() -> None:
    """The first time it is raised in a weak reference's callback, where Python writes that it is ignored."""
    kept = Kept()
    watched = weakref.ref(kept, lambda gone: spin())
    del kept
    assert watched() is None
    spin()


def ended(work: Callable[[], None]) -> bool:
    start = time.monotonic()
    with pytest.raises(OutOfTime), alarm(SOON):
        work()
    return time.monotonic() - start < 20


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lwgraph.alarm, "AGAIN", SOON)
    monkeypatch.setattr(clock_module, "GRACE", SOON)
    monkeypatch.setattr(run_module, "LEAST_PATIENCE", SOON)


@pytest.mark.parametrize("work", [spin, sleep, swallow])
def test_work_is_ended_wherever_it_is(work: Callable[[], None]) -> None:
    assert ended(work)


@pytest.mark.parametrize("work", [spin, swallow])
def test_in_another_thread(work: Callable[[], None]) -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(ended(work)))
    thread.start()
    thread.join()
    assert found == [True]


@pytest.mark.parametrize("threaded", [False, True])
def test_what_python_drops_is_raised_a_moment_later_and_nothing_is_written(
    threaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lwgraph.alarm, "AGAIN", 60.0)
    hook, found = sys.unraisablehook, list[bool]()
    if threaded:
        thread = threading.Thread(target=lambda: found.append(ended(drop)))
        thread.start()
        thread.join()
    else:
        found.append(ended(drop))
    assert found == [True] and sys.unraisablehook is hook


def test_what_else_python_drops_goes_where_it_went(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: seen.append(what.exc_type))
    with alarm(60), alarm(60):
        kept = Kept()
        watched = weakref.ref(kept, lambda gone: 1 / 0)
        del kept
        assert watched() is None
    assert seen == [ZeroDivisionError]


def test_nothing_rings_afterwards_and_the_outer_of_two_still_does() -> None:
    with pytest.raises(OutOfTime), alarm(4 * SOON):
        with alarm(60):
            pass
        with pytest.raises(OutOfTime), alarm(SOON):
            spin()
        spin()
    with alarm(SOON):
        pass
    time.sleep(3 * SOON)


def test_work_that_does_not_ask_for_the_time_is_ended_a_grace_after_its_limit() -> None:
    with pytest.raises(OutOfTime), Clock(10.0).limit(SOON):
        spin()
    with Clock().limit():
        time.sleep(2 * SOON)


@dataclass(frozen=True)
class Endless(Pass):
    """Changes the model, and never ends."""

    name: ClassVar[str] = "endless"
    contract: ClassVar[Contract] = Contract.EXACT

    def run(self, model: ir.Model, context: Context) -> int:
        model.graph.name = "changed"
        spin()
        return 1


@dataclass(frozen=True)
class Raising(Pass):
    """Raises what it was given."""

    name: ClassVar[str] = "raising"
    contract: ClassVar[Contract] = Contract.EXACT
    error: ClassVar[type[BaseException]] = Weird

    def run(self, model: ir.Model, context: Context) -> int:
        raise self.error("no")


def small() -> ir.Model:
    nodes = [helper.make_node("Identity", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    info = [("x", TensorProto.FLOAT, (2, 4))], [("y", TensorProto.FLOAT, (2, 4))]
    return model(nodes, {}, inputs=info[0], outputs=info[1])


def test_a_pass_that_never_ends_is_undone_where_it_is_guarded() -> None:
    failures, found = Failures(), small()
    context = Context(patience=lambda: SOON, failures=failures)
    steps = Pipeline([Endless(), *Pipeline.parse("identities")]).rewrite(found, context, guarded=True)
    assert [row.reason for row in failures.rows] == [
        "pass 'endless' was stopped: it had not ended after 0.05 s, its time"
    ]
    assert found.graph.name == "stranger" and steps[0].dropped and steps[1].count == 1


def test_a_pass_that_was_asked_for_ends_the_run_in_one_line() -> None:
    with pytest.raises(CheckError, match=r"^pass 'endless' was stopped: it had not ended after .* s, its time$"):
        optimize(small(), pipeline=Pipeline([Endless()]), budget=SOON)


def test_the_time_of_what_is_around_a_pass_is_not_its_own() -> None:
    with pytest.raises(OutOfTime), alarm(SOON):
        Pipeline([Endless()]).rewrite(small(), Context(patience=lambda: 60.0))


@pytest.mark.parametrize("error", [Weird, SystemExit, GeneratorExit])
def test_what_a_pass_raises_is_an_error_of_the_pass(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Raising, "error", error)
    with pytest.raises(CheckError, match=f"^pass 'raising' failed: {error.__name__}: no$"):
        Pipeline([Raising()]).rewrite(small())
    failures = Failures()
    Pipeline([Raising()]).rewrite(small(), Context(failures=failures), guarded=True)
    assert [row.reason for row in failures.rows] == [f"pass 'raising' failed: {error.__name__}: no"]


@pytest.mark.parametrize("error", [Weird, SystemExit, GeneratorExit])
def test_what_a_step_raises_costs_the_step(error: type[BaseException]) -> None:
    failures = Failures()
    with failures.guard("a step"):
        raise error("no")
    assert [(row.step, row.reason) for row in failures.rows] == [("a step", f"{error.__name__}: no")]
    with pytest.raises(CheckError, match="a step: "), Failures(strict=True).guard("a step"):
        raise error("no")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OutOfTime])
def test_what_the_user_or_the_clock_ends_is_no_failure(error: type[BaseException]) -> None:
    failures = Failures()
    with pytest.raises(error), failures.guard("a step"):
        raise error
    assert not failures.rows
