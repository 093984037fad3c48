"""--distill: a plan carried out, and what it loses brought back by imitating the original on unlabelled inputs.

The passes that do so are plugins, asked for by name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from lwgraph import ir, registry
from lwgraph.errors import LwgraphError, UsageError
from lwgraph.plan.carry_out import carry_out
from lwgraph.plan.plan import Plan, Precision
from lwgraph.rewrite.base import Context, Gain

CLOSED_FORM = ("align-blocks", "refit-head")  # seconds, before the training
TRAINER = "distill"
INTEGER_SHARE = 0.25  # of the time goes to training in integers, where a plan has them
LEAST_MINUTES = 1e-3


@dataclass(frozen=True, eq=False)
class Recovered:
    """A plan carried out and trained.

    Attributes:
        model: the result.
        gains: what each step measured on inputs kept apart from those that it learned from.
        seconds: how long all of it took.
    """

    model: ir.Model
    gains: tuple[Gain, ...]
    seconds: float


def require() -> None:
    """UsageError, which says how to install it, where the training framework is missing."""
    registry.executor("torch")
    registry.pass_class(TRAINER)


def recover(
    teacher: ir.Model, plan: Plan, context: Context, seconds: float, *, data: Any = None, batch: int = 0
) -> Recovered:
    """Carry out a plan and train the result: its forms in floats first, then, where it has them, its integers as such.

    Args:
        teacher: the model that the plan is for, and that is imitated; not changed.
        plan: the choices.
        context: executor, statistics of `teacher`, `data` to fit to; refusals and gains are recorded in it.
        seconds: of training in all, about.
        data: inputs to train on; None: those of the context.
        batch: samples per step; 0: what the pass takes by itself.

    Raises:
        UsageError: the training framework is missing, or there are no data.
        LwgraphError: whatever a pass of the plan or the training raises.
    """
    require()
    data = context.data if data is None else data
    if not data:
        raise UsageError("--distill needs inputs to learn from; give --data (unlabelled will do)")
    start, model, before = time.monotonic(), ir.clone(teacher), len(context.gains)
    integers = bool(plan.precision.passes)
    with _taught_by(teacher, context):
        carry_out(model, replace(plan, precision=Precision()), context)
        for name in CLOSED_FORM:
            registry.pass_class(name)().run(model, context)
        _train(model, context, data, seconds * (1 - INTEGER_SHARE if integers else 1), batch)
        if integers:
            carry_out(model, Plan(target=plan.target, precision=plan.precision), context)
            _train(model, context, data, seconds * INTEGER_SHARE, batch)
    return Recovered(model, tuple(context.gains[before:]), time.monotonic() - start)


def _train(model: ir.Model, context: Context, data: Any, seconds: float, batch: int) -> None:
    options: dict[str, Any] = {"minutes": max(seconds / 60, LEAST_MINUTES), "augment": "auto"}
    if batch:
        options["batch"] = batch
    fitted, context.data = context.data, data
    try:
        registry.pass_class(TRAINER)(**options).run(model, context)
    finally:
        context.data = fitted


@contextmanager
def _taught_by(teacher: ir.Model, context: Context) -> Iterator[None]:
    before, context.teacher = context.teacher, teacher
    try:
        yield
    finally:
        context.teacher = before


# ------------------------------------------------------------ which plan


@dataclass(frozen=True, eq=False)
class Probe:
    """A plan after a short training.

    Attributes:
        plan: the choices.
        score: of the metric, after it.
        milliseconds: of one run, measured.
    """

    plan: Plan
    score: float
    milliseconds: float


def probe(
    plans: Sequence[Plan],
    short: Callable[[Plan], ir.Model],
    value: Callable[[ir.Model], float],
    milliseconds: Callable[[ir.Model], float],
    context: Context,
) -> list[Probe]:
    """Train each plan shortly and look at what it is worth then; a plan that fails is left out with a warning."""
    found = []
    for index, plan in enumerate(plans):
        context.progress("trying what training brings back", index, len(plans))
        try:
            model = short(plan)
            found.append(Probe(plan, value(model), milliseconds(model)))
        except LwgraphError as error:
            context.warn(f"a plan could not be trained and was left out: {error}")
    return found


def best_of(probes: Sequence[Probe], floor: float | None) -> Probe | None:
    """The fastest plan that keeps the floor after its short training; where none does, the one that comes nearest.

    Longer training brings back more, so what keeps the promise already will keep it then.
    """
    if not probes:
        return None
    good = [p for p in probes if floor is not None and p.score >= floor]
    return min(good, key=lambda p: p.milliseconds) if good else max(probes, key=lambda p: p.score)


__all__ = ["Probe", "Recovered", "best_of", "probe", "recover", "require"]
