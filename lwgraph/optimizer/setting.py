"""What all steps of a run share: the model, what was asked for, what runs and judges it, what is told on the way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.calibrate.generate import generate
from lwgraph.check import accept
from lwgraph.errors import LwgraphError, UsageError
from lwgraph.executor import Executor, Feeds, untimed, watched
from lwgraph.failures import Failures
from lwgraph.measure.promise import judges_nothing
from lwgraph.optimizer import report_rows
from lwgraph.optimizer.clock import Clock, OutOfTime
from lwgraph.optimizer.data_pass import DataPass, sample_seconds
from lwgraph.optimizer.first_run import FirstRuns
from lwgraph.optimizer.inputs import Inputs, gather
from lwgraph.optimizer.judge import Judge
from lwgraph.optimizer.label_these import check_labelling
from lwgraph.optimizer.last_look import LOOK_RUNS, LastLook, affordable, drawn, part, positions
from lwgraph.optimizer.memory import Garbage, allowance, room_of_sessions, weights
from lwgraph.optimizer.prove import Proof, demand, runs_soundly
from lwgraph.optimizer.request import Request
from lwgraph.optimizer.sessions import Sessions
from lwgraph.optimizer.shared import Shared
from lwgraph.optimizer.steps import JUDGING, READING, Steps
from lwgraph.optimizer.target import STAND_IN, TARGETS
from lwgraph.report import Check, StageRun
from lwgraph.rewrite import Context
from lwgraph.rewrite.base import Log
from lwgraph.tasks import Pool

T = TypeVar("T")
NOT_JUDGED = "no approximation was tried, as judging the input comes first"
GARBAGE = 256 << 20  # bytes by which the process may grow before what only cycles hold is freed
VARIED = 6  # generated inputs on which a result must not be constant
JUDGED_SHARE = 1 / 16  # of the budget that one run over all samples for judging may take
LAST_SHARE, LEAST_LAST = 1 / 8, 20  # of the budget that the last look may take, and items that it has in any case


@dataclass
class Told:
    """What a run tells on the way, for its report.

    Attributes:
        notes: lines for the user.
        stages: what each stage did.
        seconds: by step.
        stopped: whether Ctrl-C was pressed.
        steps: tells whoever watches.
    """

    notes: list[str] = field(default_factory=list)
    stages: list[StageRun] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    stopped: bool = False
    steps: Steps = field(default_factory=Steps)

    def note(self, text: str) -> None:
        """A line, once."""
        if text not in self.notes:
            self.notes.append(text)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Within: the time counts for a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start

    @contextmanager
    def in_time(self, clock: Clock, otherwise: str) -> Iterator[None]:
        """Within: work ends with the budget, and the user is told what was not done."""
        try:
            with clock.limit(), watched(clock.check):
                yield
        except OutOfTime:
            self.note(f"the budget of {clock.budget:g} s was spent: {otherwise}")

    @contextmanager
    def stoppable(self, left: str) -> Iterator[None]:
        """Within: the first Ctrl-C of the run ends what is within, the second one the run."""
        try:
            yield
        except KeyboardInterrupt:
            if self.stopped:
                raise
            self.stopped = True
            self.steps("Stopping: the best result so far is delivered. A second Ctrl-C leaves at once.", 0, 0)
            self.note(f"stopped by the user: {left}")


@dataclass(frozen=True, eq=False)
class Setting:
    """One run, opened: everything that its steps share; see `open_run`.

    Attributes:
        request: what was asked for.
        original: the input model; no step changes it.
        source: its file; None where it came from memory.
        context: executors, data with statistics of the original, progress, failures.
        inputs: what to fit, compare and judge on.
        judge: compares candidates; None where there is nothing to judge with: no data, no metric that brings its own.
        last: judges the result; None where `judge` is.
        clock: the time of the run.
        pool: works side by side; None: this process does everything.
        told: what goes into the report.
        data_pass: the unit of predicted and spent time; None where nothing is fitted or judged.
        shared: with the runs for other targets; None where this is the only one.
    """

    request: Request
    original: ir.Model
    source: Path | None
    context: Context
    inputs: Inputs
    judge: Judge | None
    last: LastLook | None
    clock: Clock
    pool: Pool | None
    told: Told
    data_pass: DataPass | None = None
    shared: Shared | None = None

    @property
    def bytes(self) -> int:
        """Of the input: of its files, where it came from one."""
        if self.source is None:
            return ir.size(self.original)
        return sum(path.stat().st_size for path in (self.source, *self.original.meta.get("external_data", ())))

    @property
    def executor(self) -> Executor:
        """The target, or what stands for it here."""
        assert self.context.executor is not None
        return self.context.executor

    @property
    def failures(self) -> Failures:
        """What failed on the way."""
        return self.context.failures

    def finished(self, work: Callable[[], T], left: str) -> T:
        """What work gives that every result needs: the first Ctrl-C begins it anew, with nothing to follow.

        Where the work was named, it ends the run.
        """
        with nullcontext() if self.request.named else self.told.stoppable(left):
            return work()
        return work()

    def proved(self, model: ir.Model, exact: bool) -> list[Check]:
        """What is checked of a model, and a note where the second executor could not be asked.

        Args:
            model: the model.
            exact: whether all that was done keeps the outputs, to rounding.
        """
        self.context.progress("verifying", 0, 0)
        assert self.context.reference is not None
        feeds, real = self.inputs.probe, bool(self.inputs.fit)
        checks, note = Proof(self.original, self.executor, self.context.reference, feeds, real).checks(model, exact)
        if note:
            self.told.note(note)
        return checks

    @property
    def judges_nothing(self) -> str:
        """Why the samples could judge no approximation; "" where they can, or need not.

        A speed or a size that is asked for without a promise on the loss is sought all the same; and of generated
        inputs the user knows what they are.
        """
        judge, last = self.judge, self.last
        if judge is None or last is None or self.inputs.unproven or (self.request.limited and not judge.stated):
            return ""
        return judges_nothing(last.reason, 0.0, last.judged).text if last.reason else ""

    def statistics_of(self, model: ir.Model) -> Statistics:
        """Of a model's layer inputs on the data; those of another target's run where there was one."""
        return (
            self.context.statistics_of(model) if self.shared is None else self.shared.statistics_of(model, self.context)
        )

    def sound(self, model: ir.Model, exact: bool) -> tuple[Check, ...]:
        """As `proved`; CheckError when a check fails."""
        checks = self.proved(model, exact)
        demand(checks)
        return tuple(checks)


def open_run(
    source: ir.Source, request: Request, steps: Steps, pool: Pool | None, shared: Shared | None = None
) -> Setting:
    """Read the model and the data, run the model once, and judge it.

    Args:
        source: the model.
        request: what was asked for.
        steps: is told how far the run is.
        pool: works side by side; None: this process does everything.
        shared: with runs of the same request for other targets: what is there already is not done again (data may be
            read but once), what is not is put there; None: there are no such runs.

    Raises:
        ModelError, DataError, UsageError: the model, the data or the metric is unusable.
    """
    clock, told = Clock(request.time), Told(steps=steps)
    progress = clock.watching(steps)
    with told.timed("reading"):
        steps.begin(READING)
        target = registry.executor(TARGETS.get(request.target, STAND_IN), threads=request.threads)
        memory = allowance(None if request.memory is None else float(request.memory))
        sessions = Sessions()
        executor = FirstRuns(target, lambda: clock.left, Garbage(min(memory // 8, GARBAGE)).check, sessions)
        known = shared or Shared()
        if known.original is None:
            original = ir.load(source)  # while the executor's worker starts
            known.original, known.dropped = original, accept(original)
        original = known.original
        sessions.room = room_of_sessions(memory, weights(original))
        known.gathered = known.gathered or gather(original, request, executor)
        notes = [*known.gathered.notes, *([known.dropped] if known.dropped else [])]
        inputs = replace(known.gathered, notes=notes)
        inputs.holes = runs_soundly(original, executor, inputs.probe)
        if inputs.holes and request.metric is None:
            inputs.judge = None
    context = Context(
        executor=executor,
        reference=registry.executor("reference"),
        data=inputs.fit or None,
        probe=inputs.probe,
        seed=request.seed,
        threads=request.threads,
        progress=progress,
        details={},
        memory_bytes=memory,
        failures=Failures(report_rows.plain(request), original, request.strict),
        log=Log(memory=known.memory),
    )
    if inputs.fit:
        context = context.beside(statistics=known.statistics_of(original, context))
    path = Path(source) if isinstance(source, (str, os.PathLike)) else None
    judge = last = data_pass = None
    with told.in_time(clock, NOT_JUDGED), nullcontext() if request.named else told.stoppable(NOT_JUDGED):
        given = inputs.judge
        if clock.budget is not None and given is not None and not request.own_metric and known.judge is None:
            run = untimed(executor).prepare(original)
            inputs.judge = affordable(given, run, JUDGED_SHARE * clock.budget, request.seed)
            del run  # a session may hold a copy of all weights
        if known.judge is None or known.last is None or (inputs.judge is None and not request.own_metric):
            judge, last = _open_judges(original, executor, request, inputs, clock, steps)
            known.judge, known.last = known.judge or judge, known.last or last
        else:
            judge = known.judge.elsewhere(executor)
            last = known.last.elsewhere(executor, judge)
        _reserve(judge, last, request, clock)
        if judge is not None and last is not None and last.reader is not None and given is not None:
            used = judge.base.count + last.samples
            if used < given.count:
                told.note(
                    f"{used:,} of {given.count:,} samples for judging were used: all of them would take too much of "
                    f"the budget of {clock.budget:g} s"
                )
        if request.label_these is not None and judge is not None and last is not None:
            check_labelling(request.label_these, judge, last.reader, original, untimed(executor))
        if judge is not None and inputs.fit:
            data_pass = _data_pass(original, executor, inputs, judge, last)
    return Setting(request, original, path, context, inputs, judge, last, clock, pool, told, data_pass, shared)


def _reserve(judge: Judge | None, last: LastLook | None, request: Request, clock: Clock) -> None:
    """Keep what the last look will take, by what judging the original took."""
    if judge is None or last is None or clock.budget is None:
        return
    if last.reader is not None and judge.reader is not None:
        clock.reserve += LOOK_RUNS * judge.seconds / judge.reader.items * last.reader.items
    if judge.metric.left_out:  # twice as many samples, with the original and the result
        clock.reserve += 4 * judge.seconds


def _data_pass(original: ir.Model, executor: Executor, inputs: Inputs, judge: Judge, last: LastLook | None) -> DataPass:
    kept = 0 if last is None or last.reader is None else last.reader.count
    looked = judge.base.count / (judge.base.count + kept) if kept and judge.base.count else 1.0
    sample = sample_seconds(original, inputs.fit, executor)
    return DataPass(sample, len(inputs.fit) + len(inputs.search), judge.seconds, looked)


def _open_judges(
    original: ir.Model, executor: Executor, request: Request, inputs: Inputs, clock: Clock, steps: Steps
) -> tuple[Judge | None, LastLook | None]:
    """The judges."""
    if inputs.judge is None and not request.own_metric:
        if request.metric is not None:
            raise UsageError(f"--metric '{request.metric}' needs samples; give --data or --eval-data")
        if request.max_drop is not None:
            raise UsageError(
                "--max-drop needs something to measure the drop on; give --data, or --metric module:function"
            )
        return None, None
    steps.begin(JUDGING)
    factor = request.asked.drop_factor
    choosing, reader = part(inputs.judge, request.seed)
    judge = Judge(
        original,
        executor,
        choosing,
        request.metric,
        request.max_drop,
        request.seed,
        factor,
        request.output_kind,
        positions(request.seed, last=False),
    )
    steps(f"{judge.told}.", 0, 0)
    if request.own_metric or choosing is None or reader is None:
        reader = None
    elif clock.budget is not None:
        # By now it is known what a pass takes beside whatever else the machine does.
        item = LOOK_RUNS * judge.seconds / choosing.items
        reader = drawn(reader, max(LEAST_LAST, int(LAST_SHARE * clock.budget / item)), request.seed)
    generated: Sequence[Feeds] = ()
    with suppress(LwgraphError):  # inputs of some models cannot be found; samples alone must do then
        generated = generate(original, VARIED, request.seed + 1, shapes=request.input_shapes, executor=executor)
    return judge, LastLook(original, executor, judge, reader, request.confidence, request.seed, generated)


__all__ = ["Setting", "Told", "open_run"]
