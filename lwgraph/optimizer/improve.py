"""Lets the stages improve the cleaned model; however they end, the incumbent is what stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lwgraph import ir
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.measure.work import count
from lwgraph.optimizer.annotations import same_graph
from lwgraph.optimizer.candidates import Candidates, Incumbent, Made
from lwgraph.optimizer.clock import OutOfTime
from lwgraph.optimizer.front import FrontRow, front_rows, keep_front, with_speeds, with_verdicts
from lwgraph.optimizer.judge import Judge
from lwgraph.optimizer.making import Making
from lwgraph.optimizer.outcome import OVER, Outcome, worth_keeping
from lwgraph.optimizer.setting import Setting
from lwgraph.optimizer.stages import STAGES, Stage, Work
from lwgraph.optimizer.stages.base import LOOK_SECONDS, layer_times
from lwgraph.optimizer.steps import LAST_LOOK
from lwgraph.optimizer.target import open_oracle
from lwgraph.optimizer.timing import SECONDS
from lwgraph.plan.carry_out import Samples
from lwgraph.plan.plan import Plan
from lwgraph.plan.price.oracle import Oracle
from lwgraph.plan.search.front import Candidate
from lwgraph.report import StageRun

# What a run without a budget takes, about: passes over the data and seconds, and how many seconds at least. Of that,
# the last look at the result, timing and proving it take some passes and seconds after the search.
PASSES, SECONDS_BESIDE, LEAST_SECONDS = 12.0, 20.0, 60.0
LAST_PASSES, LAST_SECONDS = 1.0, 5.0
ENDED = (
    f"the search ended by itself, as a run takes {PASSES:g} passes of the network over the data and {SECONDS_BESIDE:g} "
    "s, or a minute: with --budget 10m, or none, it goes on and may find a better result"
)
FOLLOWED = {"structure": "forms"}  # stages, and those that go on from what they choose
LEAST_TAKEN = 0.5  # of what a stage is predicted to take, what it takes at least, about
WHOLE = 0.98  # of the time that is left to the search, what counts as all of it
FRONT_SECONDS = 3.0  # of timing the plans that can be picked, at most about
TIMED_SHARE = 0.1  # of the budget that is kept for timing, at most
TIMING_RUNS = 30  # of a model that the final timing takes at least, about


@dataclass(frozen=True, eq=False)
class Searched:
    """What the stages found.

    Attributes:
        work: what the stages ended with.
        front: the table of plans that can be picked.
    """

    work: Work
    front: tuple[FrontRow, ...] = ()


def improve(setting: Setting, incumbent: Incumbent, judge: Judge) -> tuple[Incumbent, Searched | None]:
    """Let each stage propose.

    Args:
        setting: the run.
        incumbent: the cleaned model.
        judge: of the metric.

    Returns:
        what stands in the end, and what was searched; None where nothing was.
    """
    work, clock, told = None, setting.clock, setting.told
    with (
        told.stoppable("this is the best result so far; a second run continues from here"),
        told.in_time(clock, "more time may find a better result; a second run continues from here"),
        setting.failures.guard("preparation"),
    ):
        if why := setting.judges_nothing:
            told.note(f"no approximation was tried: {why}")
            return incumbent, None
        work = _work(setting, incumbent, judge)
        told.steps.best = work.candidates.best_so_far
        timing = min(SECONDS, TIMING_RUNS * work.float_ms / 1e3) + 1.0
        # Of the plans that can be picked, and of the result.
        clock.reserve += min(2 * timing, TIMED_SHARE * (clock.budget or 0.0))
        with clock.limit():
            work = _searched(setting, work, judge)
    if judge.race.told():
        told.note(judge.race.told())
    if work is None:
        return incumbent, None
    if work.candidates.told:
        told.note(work.candidates.told)
    rows: list[FrontRow] = []
    if not setting.inputs.unproven:  # what can be picked later speaks of real inputs
        with told.stoppable("the table of plans was not made"), setting.failures.guard("front"):
            rows, made = front_rows(work.candidates)
            rows = with_verdicts(_timed(setting, work, rows, made), made, work.candidates, setting.last)
            if warning := keep_front(setting.original, rows, made, work.making.models.folder):
                setting.context.warn(warning)
    return work.candidates.incumbent, Searched(work, tuple(rows))


def _searched(setting: Setting, work: Work, judge: Judge) -> Work:
    """The work with what all stages found; or with what they found in an earlier run of the same."""
    candidates, before, memory = work.candidates, setting.clock.spent, None
    with setting.failures.guard("what an earlier run found"):
        memory = Outcome.of(setting, work.making, judge)
        setting.context.progress("looking at what an earlier run found", 0, 0)
        if memory.recall(candidates, work.making, setting):
            known, spent = len(candidates.all()), setting.clock.spent - before
            unit = setting.data_pass
            passes = None if unit is None else spent / unit.seconds
            setting.told.stages.append(StageRun("remembered", spent, known, "done", passes))
            setting.told.note("an earlier run of the same had found this plan; it was judged and proved anew")
            return work
    for stage in STAGES:
        until = search_until(setting) if stage.searches else math.inf
        with setting.clock.searching(until):
            work = _run_stage(setting, stage, work)
    if any(each.outcome == OVER for each in setting.told.stages) and setting.clock.budget is None:
        setting.told.note(ENDED)
    setting.told.steps.begin(LAST_LOOK)
    with setting.failures.guard("race"):
        candidates.settle()
    with setting.failures.guard("last look"):
        if setting.last is not None:
            candidates.look_last(setting.last)
    told, failed = setting.told, setting.failures.rows
    if memory and worth_keeping(setting.request, [each.outcome for each in told.stages], failed, told.stopped):
        memory.keep(candidates, setting)
        if memory.rows.warning:
            setting.context.warn(memory.rows.warning)
    return work


def search_until(setting: Setting) -> float:
    """Seconds of the run after which no more is searched; inf where a budget says how long a run takes, and where the
    search is to be exhaustive."""
    unit = setting.data_pass
    if setting.request.budget is not None or unit is None:
        return math.inf
    whole = max(PASSES * unit.seconds + SECONDS_BESIDE, LEAST_SECONDS)
    return whole - LAST_PASSES * unit.seconds - LAST_SECONDS


def _timed(setting: Setting, work: Work, rows: list[FrontRow], made: Sequence[Made]) -> list[FrontRow]:
    """The rows with their speeds, where the target is here and there is time."""
    clock, seconds = setting.clock, min(SECONDS, TIMING_RUNS * work.float_ms / 1e3)
    left = math.inf if clock.budget is None else clock.budget - clock.spent - seconds - 1.0  # which the result takes
    if not work.oracle.measures or left <= 0:
        return rows
    probe, threads = setting.inputs.probe, setting.request.threads
    with setting.told.stoppable("the plans that can be picked were not timed"), setting.failures.guard("front: speeds"):
        return with_speeds(
            rows, made, setting.original, setting.executor, probe, threads=threads, seconds=min(FRONT_SECONDS, left)
        )
    return rows


def _run_stage(setting: Setting, stage: Stage, work: Work) -> Work:
    """One stage; what fails in it, or its share of the time, ends only it."""
    clock, known, outcome = setting.clock, len(work.candidates.all()), "failed"
    before, unit, predicted = clock.spent, setting.data_pass, None
    share = share_of(stage, work)
    try:
        with setting.failures.guard(stage.name), clock.limit(share):
            reason = stage.idle(work)
            if not reason:
                setting.told.steps.begin(stage.name)
            if not reason and unit is not None:
                with setting.failures.guard(f"{stage.name}: its predicted time"):
                    predicted = min(unit.total(stage.cost(work, unit)), share / unit.seconds)
            short = not reason and hopeless(stage, work)
            work = work if reason or short else stage.run(work)
            over = short or clock.spent - before > share  # it made do with what it had found
            outcome = f"nothing to do: {reason}" if reason else OVER if over else "done"
    except OutOfTime:
        outcome = OVER
        if clock.budget is not None and clock.left <= 0:
            raise
    except KeyboardInterrupt:
        outcome = "stopped by the user"
        raise
    finally:
        looked, spent = len(work.candidates.all()) - known, clock.spent - before
        passes = None if unit is None else spent / unit.seconds
        setting.told.stages.append(StageRun(stage.name, spent, looked, outcome, passes, predicted))
    return work


def share_of(stage: Stage, work: Work) -> float:
    """Seconds that a stage may take; nearly all that are left where the stage that goes on from it could not end in the
    rest, which would be lost for both."""
    clock = work.setting.clock
    share = stage.share * clock.left
    after = next((each for each in STAGES if each.name == FOLLOWED.get(stage.name)), None)
    if after is None or work.setting.request.distill:
        return share
    return share if clock.left - share >= _least(after, work) else max(share, WHOLE * clock.left)


def hopeless(stage: Stage, work: Work) -> bool:
    """Whether already running networks would take a stage longer than there is time: it is not begun then."""
    return stage.name in FOLLOWED.values() and work.setting.clock.left < _least(stage, work, runs_only=True)


def _least(stage: Stage, work: Work, *, runs_only: bool = False) -> float:
    """Seconds that a stage takes at least, about; 0 where that is not asked, as there is no budget, or not known."""
    setting, unit = work.setting, work.setting.data_pass
    if unit is not None and math.isfinite(setting.clock.left):
        with setting.failures.guard(f"{stage.name}: its predicted time"):
            cost = stage.cost(work, unit)
            return LEAST_TAKEN * unit.seconds * (cost.passes if runs_only else unit.total(cost))
    return 0.0


def _work(setting: Setting, incumbent: Incumbent, judge: Judge) -> Work:
    clean, request, probe = incumbent.model, setting.request, setting.inputs.probe
    shapes = layer_shapes(clean, probe[0], setting.executor)
    context = setting.context.beside(statistics=setting.statistics_of(clean))
    oracle = open_oracle(request.target, request.threads, setting.executor)
    here = oracle if oracle.measures else Oracle(setting.executor)
    float_ms = here.whole({"clean": clean}, probe)[0]
    clock = setting.clock
    samples = Samples.in_earnest(float_ms, min(clock.left, search_until(setting) - clock.spent))
    making = Making(clean, context, shapes, probe[0], samples)

    def milliseconds(model: ir.Model) -> float:
        return oracle.against(clean, float_ms, model, probe, LOOK_SECONDS)

    def race(models: Sequence[ir.Model]) -> list[float]:
        named = {str(index): model for index, model in enumerate(models)}
        return oracle.whole(named, probe, LOOK_SECONDS * len(models))

    # On a target elsewhere, the layers alone are priced.
    priced = float_ms if oracle.measures else sum(layer_times(clean, oracle, shapes, setting.failures).values())
    macs, size = count(clean, shapes).macs or 0, ir.size(clean)
    candidates = Candidates(
        request,
        judge,
        replace(incumbent, score=judge.base),
        make=making.stated,
        prove=lambda model: setting.sound(model, False),
        milliseconds=milliseconds if oracle.measures else None,
        race=race if oracle.measures else None,
        base=Candidate((), priced, 0.0, "cleaned", plan=Plan(), bytes=size, macs=macs, stated=True),
        context=context,
        seconds=lambda: setting.clock.spent,
        follows=setting.last.follows if setting.last is not None else lambda model: True,
        changes=lambda model: len(model.graph) != len(clean.graph) or not same_graph(clean, model),
    )
    trunk = making.trunk(Plan())
    return Work(setting, clean, shapes, context, oracle, here, float_ms, candidates, making, trunk)


__all__ = ["Searched", "hopeless", "improve", "share_of"]
