"""--distill: a plan carried out, and what it loses brought back by imitating the original on unlabelled inputs.

The passes that do so are plugins, asked for by name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lwgraph import ir, registry
from lwgraph.calibrate.subsample import spread
from lwgraph.errors import UsageError
from lwgraph.layers.apply import Record
from lwgraph.optimizer.request import Request
from lwgraph.plan.carry_out import carry_out
from lwgraph.plan.plan import Plan, Precision
from lwgraph.plan.roles import TRAINS, Trains
from lwgraph.plan.search.front import Candidate, worth
from lwgraph.rewrite.base import Context, Gain

INTEGER_SHARE = 0.25  # of the time goes to training in integers, where a plan has them
PROBED = 3  # plans at most that are trained shortly
PROBE_SHARE = 0.05  # of the training time, for each of them
EXPECTED = 3.0  # training is expected to bring back two thirds of a loss


@dataclass(frozen=True, eq=False)
class Recovered:
    """A plan carried out and trained.

    Attributes:
        model: the result.
        records: what became of each choice of the plan.
        gains: what each step measured on inputs kept apart from those that it learned from.
        seconds: how long all of it took.
    """

    model: ir.Model
    records: list[Record]
    gains: tuple[Gain, ...]
    seconds: float

    def told(self, samples: int) -> list[str]:
        """What a report says of a training on so many inputs."""
        return [f"trained on {samples} unlabelled inputs in {self.seconds:.0f} s", *map(str, self.gains)]


def require() -> None:
    """UsageError, which says how to install it, where the training framework is missing."""
    _trainer().require()


def _trainer() -> Trains:
    return registry.role(TRAINS, Trains)


def recover(teacher: ir.Model, plan: Plan, context: Context, seconds: float, *, data: Any = None) -> Recovered:
    """Carry out a plan and train the result: its forms in floats first, then, where it has them, its integers as such.

    Args:
        teacher: the model that the plan is for, and that is imitated; not changed.
        plan: the choices.
        context: executor, statistics of `teacher`, `data` to fit to; refusals and gains are recorded in it.
        seconds: of training in all, about.
        data: inputs to train on; None: those of the context.

    Raises:
        UsageError: the training framework is missing, or there are no data.
        LwgraphError: whatever a pass of the plan or the training raises.
    """
    require()
    data = context.data if data is None else data
    if not data:
        raise UsageError("--distill needs inputs to learn from; give --data (unlabelled will do)")
    start, before = time.monotonic(), len(context.gains)
    context = context.beside(teacher=teacher)
    integers = bool(plan.precision.passes)
    made = carry_out(teacher, replace(plan, precision=Precision()), context)
    model, records = made.model, made.records
    _trainer().prepare(model, context)
    _train(model, context, data, seconds * (1 - INTEGER_SHARE if integers else 1))
    if integers:
        if context.statistics is not None and context.executor is not None and context.data:
            context = context.beside(statistics=context.statistics_of(model))
        made = carry_out(model, Plan(target=plan.target, precision=plan.precision), context)
        model, records = made.model, records + made.records
        _train(model, context, data, seconds * INTEGER_SHARE)
    return Recovered(model, records, tuple(context.gains[before:]), time.monotonic() - start)


def train(teacher: ir.Model, model: ir.Model, context: Context, seconds: float, *, data: Any = None) -> Recovered:
    """Train a copy of a model in which a plan was carried out before, in the precisions that it has.

    Arguments and errors are those of `recover`.
    """
    require()
    start, model, before = time.monotonic(), ir.clone(model), len(context.gains)
    _train(model, context.beside(teacher=teacher), context.data if data is None else data, seconds)
    return Recovered(model, [], tuple(context.gains[before:]), time.monotonic() - start)


def _train(model: ir.Model, context: Context, data: Any, seconds: float) -> None:
    _trainer().train(model, context.beside(data=data), seconds)


# ------------------------------------------------------------ which plan


def worth_trying(
    ladder: Sequence[Candidate], chosen: Candidate | None, request: Request, base_ms: float, floor: float | None
) -> list[Candidate]:
    """The candidates that training may make the best: at most PROBED.

    Where only speed or size was promised, those of least loss that keep the limits. Otherwise the one that keeps the
    promises untrained, and smaller ones that lose at most EXPECTED times as much; where none does so untrained, those
    that lose least.

    Args:
        ladder: candidates of a front, smallest first, losing less and less.
        chosen: the one that keeps the promises untrained, None where none does.
        request: the promises.
        base_ms: time of the network as it was.
        floor: the least score allowed; None: no promise on the metric.
    """
    within = [c for c in ladder if request.allows(c.predicted_ms, base_ms, c.bytes, c.macs)] or list(ladder)
    if floor is None or chosen is None:
        return within[-PROBED:]
    smaller = [c for c in within if c.amount(str(request.objective)) < chosen.amount(str(request.objective))]
    hopeful = [c for c in smaller if worth(c) <= EXPECTED * worth(chosen)]
    return [*spread(hopeful, PROBED - 1), chosen]


@dataclass(frozen=True, eq=False)
class TrainedPlan:
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
) -> list[TrainedPlan]:
    """Train each plan shortly and look at what it is worth then; a plan that fails is left out."""
    found = []
    for index, plan in enumerate(plans):
        context.progress("trying what training brings back", index, len(plans))
        with context.failures.guard("training: a plan"):
            model = short(plan)
            found.append(TrainedPlan(plan, value(model), milliseconds(model)))
    return found


def best_of(probes: Sequence[TrainedPlan], floor: float | None) -> TrainedPlan | None:
    """The fastest plan that keeps the floor after its short training; where none does, the one that comes nearest.

    Longer training brings back more, so what keeps the promise already will keep it then.
    """
    if not probes:
        return None
    good = [p for p in probes if floor is not None and p.score >= floor]
    return min(good, key=lambda p: p.milliseconds) if good else max(probes, key=lambda p: p.score)


__all__ = [
    "PROBE_SHARE",
    "Recovered",
    "TrainedPlan",
    "best_of",
    "probe",
    "recover",
    "require",
    "train",
    "worth_trying",
]
