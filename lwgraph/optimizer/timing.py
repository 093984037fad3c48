"""Times the models of a run against each other: the input, the cleaned one, the result."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lwgraph import ir
from lwgraph.arrays import Shapes
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.executor import Executor, Feeds
from lwgraph.measure import paired_latency
from lwgraph.measure.work import count
from lwgraph.optimizer.clock import Progress
from lwgraph.optimizer.target import MACS
from lwgraph.report import Facts, Stage

Worse = Callable[[Stage, Stage], str]
NOISE = 0.02  # a latency ratio within this of 1 is not a difference
SECONDS = 5.0  # of timing, at most about
GROWN = 1.01  # times the bytes that a model of less work may have: a node more is no reason to drop it
APART = "the models were timed one after the other, not in turn: --memory has no room for all of them at once"
PATIENCE = 15.0  # more seconds, where other work on the machine leaves a speed unsettled


@dataclass(frozen=True)
class Timed:
    """What was found of the models of a run.

    Attributes:
        stages: one for each model up to the one that is kept, which is the last.
        notes: why later ones are not kept.
    """

    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()

    @property
    def kept(self) -> str:
        """The name of the model that is delivered."""
        return self.stages[-1].name


def time_models(
    models: Mapping[str, ir.Model],
    executor: Executor,
    feeds: Sequence[Feeds],
    target: str,
    threads: int,
    progress: Progress,
    *,
    stated: bool,
    on_disk: int | None = None,
    seconds: float = SECONDS,
    patience: float = 0.0,
) -> Timed:
    """Time models in turn; fall back where a step did not help.

    Args:
        models: by name, in the order in which each came of the one before; the first is the input.
        executor: the target.
        feeds: to time on.
        target: where work counts, and not time, for "macs".
        threads: of the runtime.
        progress: called with (what, done, total).
        stated: what the user stated (passes, a plan) is kept all the same, and a note says what it cost.
        on_disk: bytes of the input's files; None: as they would be written.
        seconds: of timing, at most about.
        patience: more seconds that may be spent while a speed is not settled.
    """
    runs = {name: executor.prepare(model) for name, model in models.items()}
    progress("timing", 0, 0)
    times = paired_latency(
        runs,
        feeds,
        threads=threads,
        seconds=seconds,
        patience=patience,
        progress=lambda d, t: progress("timing", d, t),
    )
    stages, first = {}, next(iter(models))
    del runs
    for name, model in models.items():
        speed, timing = times.speedup(name), times.timing(name)
        spread = (1 / speed.interval[1], 1 / speed.interval[0])
        facts = facts_of(model, layer_shapes(model, feeds[0], executor), on_disk if name == first else None)
        stages[name] = Stage(name, facts, 1e3 * timing.minimum, 1 / speed.ratio, spread, speed=speed.text)

    def slower(new: Stage, old: Stage) -> str:
        return _slower(new, old, times.speedup(new.name).settled)

    worse = _heavier if target == MACS else slower
    timed = _best(stages, lambda new, old: worse(new, old) or _larger(new, old), stated)
    return Timed(timed.stages, (*timed.notes, *([APART] if times.apart else [])))


def compare_untimed(
    models: Mapping[str, ir.Model],
    executor: Executor,
    feeds: Sequence[Feeds],
    target: str,
    predicted: tuple[float, float],
    *,
    stated: bool,
    on_disk: int | None = None,
) -> Timed:
    """The same for a target elsewhere, whose times are predicted.

    Args:
        models, executor, feeds, target, stated, on_disk: see `time_models`; the executor stands for the target.
        predicted: milliseconds of one run before and after; zeros: not known.
    """
    sizes = dict.fromkeys(models) | {next(iter(models)): on_disk}
    stages = {
        name: Stage(name, facts_of(model, layer_shapes(model, feeds[0], executor), sizes[name]))
        for name, model in models.items()
    }
    before, after = predicted

    def worse(new: Stage, old: Stage) -> str:
        slower = "predicted to be slower" if new.name == "result" and after > before else ""
        return slower or _larger(new, old)

    found = _best(stages, worse, stated)
    figures = "" if predicted == (0.0, 0.0) else f": {before:.3f} ms before, {after:.3f} ms after"
    note = f"speed on {target} was not measured here but predicted from prices that were measured there{figures}"
    return Timed(found.stages, (*found.notes, note))


def facts_of(model: ir.Model, shapes: Shapes | None = None, on_disk: int | None = None) -> Facts:
    """The size of a model, and its work on a feed that gives its values `shapes`; None: those that it records.

    `on_disk`: bytes of its files, where it came from such.
    """
    counts = count(model, shapes)
    return Facts(counts.nodes, counts.parameters, ir.size(model) if on_disk is None else on_disk, counts.macs)


def _best(stages: Mapping[str, Stage], worse: Worse, stated: bool) -> Timed:
    names, notes = list(stages), []
    kept = names[-1]
    for before, name in reversed(list(itertools.pairwise(names))):
        if kept != name:
            continue
        reason = worse(stages[name], stages[before])
        if reason and stated:
            notes.append(f"the {name} model is {reason} than the {before} model; it is kept, since it was asked for")
        elif reason:
            notes.append(f"the {name} model is {reason} than the {before} model, which is kept instead")
            kept = before
    return Timed(tuple(stages[name] for name in names[: names.index(kept) + 1]), tuple(notes))


def _slower(new: Stage, old: Stage, settled: bool) -> str:
    """Whether a stage is slower beyond the noise of the measurement; by its ratio where that noise is the machine's."""
    assert new.ratio is not None and old.ratio is not None and new.ratio_spread is not None
    least = new.ratio_spread[0] if settled else new.ratio
    return "slower" if least > old.ratio * (1 + NOISE) else ""


def _heavier(new: Stage, old: Stage) -> str:
    return "heavier" if (new.facts.macs or 0) > (old.facts.macs or 0) else ""


def _larger(new: Stage, old: Stage) -> str:
    most = GROWN if (new.facts.macs or 0) < (old.facts.macs or 0) else 1.0
    return "larger" if new.facts.bytes > most * old.facts.bytes else ""


__all__ = ["NOISE", "PATIENCE", "SECONDS", "Timed", "compare_untimed", "facts_of", "time_models"]
