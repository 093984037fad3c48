"""One optimization for several targets: each makes its plan, all are judged and timed on each, and the best stands."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from lwgraph import ir
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor, Run, ToldAsCode, at_sizes_of, faithful, offered
from lwgraph.measure import Latencies, paired_latency
from lwgraph.measure.promise import BROKEN, EXIT, KEPT, OPEN
from lwgraph.optimizer.clock import Progress
from lwgraph.optimizer.request import Request
from lwgraph.optimizer.result import Result
from lwgraph.optimizer.setting import Setting
from lwgraph.optimizer.shared import Shared
from lwgraph.optimizer.target import expanded
from lwgraph.optimizer.timing import PATIENCE, facts_of, time_models
from lwgraph.plan.plan import Plan
from lwgraph.report import ScoreRecord, Stage

Opened = Callable[[Request, Progress, Shared], Setting]
Running = Callable[[Setting], Result]
INPUT, RESULT = "input", "result"
MODEL = "MODEL"  # stands for the file in the code that runs it
ROW_SECONDS = 1.0  # of timing for each row
ANSWER_SECONDS = 3.0  # of timing the answer against the input on its target
RANKED_SECONDS = 0.5  # of timing the input on each target
# Of what is left of the budget, for each target but the last: a plan that was made for one gains about as much on the
# others, so that one long search is worth more than several short ones.
FIRST_SHARE = 0.75
LAST_SHARE = 0.15  # of the budget, for judging and timing what was found on all targets


@dataclass(frozen=True)
class Row:
    """One model on one target.

    Attributes:
        target: runtime and precision.
        model: "input", or the target whose plan made it.
        lost: of the metric against the input in the types of its graph; None where nothing judges.
        unit: of it.
        verdict: on the promise; "" where nothing judges.
        milliseconds: of the fastest run.
        speed: over the input on the first target, as it is told; with its 95 % interval.
        bytes: of the model.
        chosen: whether it is the answer.
    """

    target: str
    model: str
    lost: float | None
    unit: str
    verdict: str
    milliseconds: float
    speed: str
    interval: tuple[float, float]
    bytes: int
    chosen: bool = False


@dataclass(frozen=True, eq=False)
class _Entry:
    """A model on a target, before it is timed."""

    setting: Setting
    model: ir.Model
    run: Run
    record: ScoreRecord | None
    own: bool  # the input, or what was made for this target

    @property
    def allowed(self) -> bool:
        """Whether it may be the answer: it breaks no promise, and was judged where it may have lost something."""
        if self.record is None:
            return self.own and faithful(self.setting.executor)
        return self.record.verdict != BROKEN


def weigh(request: Request, progress: Progress, opened: Opened, run: Running) -> Result:
    """Optimize for every target that the request's stands for; the best pair of a target and a model.

    Under a budget the target that runs the input fastest comes first, and each gets three quarters of what is left, the
    last one all: what is found for one is weighed on all. A target that fails costs its own rows. After Ctrl-C or the
    end of the budget, what is there is weighed.

    Args:
        request: with a target of `SEVERAL`.
        progress: called with (what, done, total).
        opened: opens the run for a single target; what it shares with the others is found there, or put there.
        run: optimizes.

    Raises:
        LwgraphError: no target could be optimized for.
    """
    names, begun, shared = expanded(request.target), time.perf_counter(), Shared()
    budget = request.time
    settings: dict[str, Setting] = {}
    done: dict[str, tuple[Setting, Result]] = {}
    failed: dict[str, LwgraphError] = {}

    def left() -> float | None:
        return None if budget is None else (1 - LAST_SHARE) * budget - (time.perf_counter() - begun)

    for name in names:
        try:
            each = request.budget if budget is None else budget / len(names)
            settings[name] = opened(replace(request, target=name, budget=each), _named(name, progress), shared)
        except LwgraphError as error:
            _failing(request, error)
            failed[name] = error
        except KeyboardInterrupt:
            if not settings:
                raise
            break
        if name in settings and settings[name].told.stopped:
            break
    order = list(settings) if budget is None or len(settings) < 2 else _fastest_first(settings)
    for index, name in enumerate(order):
        rest, setting, share = left(), settings[name], None
        if rest is not None:
            if done and rest <= 0:
                failed[name] = LwgraphError("the budget was spent before")
                continue
            share = round(max(rest if index == len(order) - 1 else FIRST_SHARE * rest, 0.0), 1)
        setting.clock.restart(share)  # what the others took does not count
        try:
            done[name] = setting, run(setting)
        except LwgraphError as error:
            _failing(request, error)
            failed[name] = error
        except KeyboardInterrupt:
            if not done:
                raise
            break
        if name in done and setting.told.stopped:
            break
    if not done:
        raise next(iter(failed.values()))
    in_order = {name: done[name] for name in names if name in done}
    return _weighed(request, in_order, {name: str(error) for name, error in failed.items()}, progress)


def _failing(request: Request, error: LwgraphError) -> None:
    """Raise what costs more than the rows of one target."""
    if request.strict or request.named:
        raise error


def _fastest_first(settings: Mapping[str, Setting]) -> list[str]:
    """The targets by the time that the input takes on each; as they are where it cannot be timed."""
    with suppress(LwgraphError):
        runs = {name: setting.executor.prepare(setting.original) for name, setting in settings.items()}
        setting = next(iter(settings.values()))
        feeds, threads = setting.inputs.probe, setting.request.threads
        times = paired_latency(runs, feeds, threads=threads, seconds=RANKED_SECONDS * len(runs))
        return sorted(runs, key=lambda name: times.timing(name).minimum)
    return list(settings)


def _named(target: str, progress: Progress) -> Progress:
    return lambda what, count, total: progress(f"{target}: {what}", count, total)


def _weighed(
    request: Request, done: Mapping[str, tuple[Setting, Result]], failed: dict[str, str], progress: Progress
) -> Result:
    progress("weighing the runtimes", 0, 0)
    entries: dict[tuple[str, str], _Entry] = {}
    for target, (setting, _) in done.items():
        for made, model in _models(done).items():
            if setting.told.stopped and made not in (INPUT, target):
                continue
            with setting.failures.guard(f"'{made}' on {target}"):
                run = _sized(setting).prepare(model)
                run(setting.inputs.probe[0])
                record, own = (
                    _judged(setting, done[target][1], model, made == INPUT),
                    made == INPUT or model is done[target][1].model,
                )
                entries[target, made] = _Entry(setting, model, run, record, own)
    first = next(iter(entries))
    feeds = entries[first].setting.inputs.probe
    times = paired_latency(
        {str(key): entry.run for key, entry in entries.items()},
        feeds,
        threads=request.threads,
        seconds=ROW_SECONDS * len(entries),
        patience=PATIENCE if request.time is None else 0.0,
    )
    allowed = [key for key, entry in entries.items() if entry.allowed] or [first]
    best = min(allowed, key=lambda key: (*_amount(request, entries[key]), times.timing(str(key)).minimum))
    rows = [_row(key, entry, times, key == best) for key, entry in entries.items()]
    return _answer(done, entries[best], best, rows, failed)


def _sized(setting: Setting) -> Executor:
    """The target as the code that is told runs it: for the sizes of the data, where these are all the same."""
    inputs = setting.inputs
    return at_sizes_of(setting.executor, setting.original, [*inputs.probe, *inputs.fit, *inputs.search])


def _models(done: Mapping[str, tuple[Setting, Result]]) -> dict[str, ir.Model]:
    """The input and the results, by the target that they were made for; of equal ones the first."""
    setting, _ = next(iter(done.values()))
    found, known = {INPUT: setting.original}, {ir.fingerprint(setting.original)}
    for target, (mine, result) in done.items():
        if result.model is mine.original or (print_ := ir.fingerprint(result.model)) in known:
            continue
        known.add(print_)
        found[target] = result.model
    return found


def _judged(setting: Setting, result: Result, model: ir.Model, untouched: bool) -> ScoreRecord | None:
    """What the samples for judging say of a model on a target; None where there are none."""
    judge, last = setting.judge, setting.last
    if model is result.model and result.report.score is not None:
        return result.report.score
    if judge is None or last is None:
        return None
    score, verdict = last.verdict(model, untouched and faithful(setting.executor))
    return judge.record(last.base, score, verdict)


def _amount(request: Request, entry: _Entry) -> tuple[float, ...]:
    """What is to be small before time is, where the objective is not time."""
    if request.objective == "bytes":
        return (float(ir.size(entry.model)),)
    if request.objective == "macs":
        return (float(facts_of(entry.model).macs or 0),)
    return ()


def _row(key: tuple[str, str], entry: _Entry, times: Latencies, chosen: bool) -> Row:
    timing, speed, record = times.timing(str(key)), times.speedup(str(key)), entry.record
    size = entry.setting.bytes if key[1] == INPUT else ir.size(entry.model)
    return Row(
        *key,
        lost=None if record is None else record.drop,
        unit="" if record is None else record.unit,
        verdict="" if record is None else record.verdict,
        milliseconds=1e3 * timing.minimum,
        speed=speed.text,
        interval=speed.interval,
        bytes=size,
        chosen=chosen,
    )


def _stages(entry: _Entry, models: Mapping[str, ir.Model]) -> tuple[Stage, ...]:
    """The input and the answer, timed against each other on the answer's target."""
    setting, request = entry.setting, entry.setting.request
    timed = time_models(
        models,
        _sized(setting),
        setting.inputs.probe,
        request.target,
        request.threads,
        setting.context.progress,
        stated=True,
        on_disk=setting.bytes,
        seconds=ANSWER_SECONDS,
    )
    if entry.record is not None:
        timed.stages[0].score, timed.stages[-1].score = entry.record.before, entry.record.after
    return timed.stages


def _answer(
    done: Mapping[str, tuple[Setting, Result]],
    entry: _Entry,
    best: tuple[str, str],
    rows: list[Row],
    failed: dict[str, str],
) -> Result:
    """The result whose model is the answer, with the table and with what is known of it on the target of the answer."""
    target, made = best
    setting, own = done[target]
    result = own if made == INPUT else done[made][1]
    report = result.report
    if made == INPUT:
        report.sites.clear()
        result = replace(result, model=setting.original, plan=Plan(), untouched=setting.source)
    if result is not own:
        report.target, report.score = target, entry.record
        report.stages[:] = _stages(entry, {INPUT: setting.original} | ({} if made == INPUT else {RESULT: entry.model}))
        stated = setting.judge is not None and setting.judge.stated
        verdict = OPEN if stated and entry.record is not None and entry.record.verdict == OPEN else KEPT
        status = own.status if setting.request.limited else EXIT[verdict]
        result = replace(result, kept=status == 0, status=status)
        report.outcome = own.report.outcome if status else "done"
        if not setting.request.limited:
            report.verdict = entry.record.verdict or KEPT if entry.record is not None else KEPT
    told: dict[str, Any] = {"rows": [asdict(row) for row in rows], "target": target, "model": made, "failed": failed}
    able = offered(_sized(setting), ToldAsCode)
    told["code"] = "" if able is None else able.code(MODEL)
    report.details["runtimes"] = told
    report.notes += [f"not optimized for {name}: {why}" for name, why in failed.items()]
    if made == INPUT:
        report.notes.append(f"leave the file as it is, and run it in {target}: nothing else that was found is better")
    report.failures = list(dict.fromkeys(str(row) for mine, _ in done.values() for row in mine.failures.rows))
    return result


__all__ = ["INPUT", "MODEL", "Row", "weigh"]
