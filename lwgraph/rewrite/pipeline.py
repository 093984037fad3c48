"""Pipelines: passes in a row, from text or from a recipe, run under instruments."""

from __future__ import annotations

import functools
import gc
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from lwgraph import ir, registry
from lwgraph.alarm import OutOfTime, alarm
from lwgraph.errors import CheckError, LwgraphError, UsageError
from lwgraph.failures import say
from lwgraph.rewrite import recipe
from lwgraph.rewrite.base import Context, Contract, Pass
from lwgraph.rewrite.instrument import Instrument, Step
from lwgraph.rewrite.options import split

SETTLING = ("clean", "fuse")  # pipelines that promise a fixed point
_MOST_ROUNDS = 8
S = TypeVar("S", bound=Any)  # a kind of object that holds a model


@dataclass(frozen=True)
class Pipeline:
    """A sequence of passes. `str(p)` is its spelling on the command line, which `Pipeline.parse` reads back."""

    passes: tuple[Pass, ...] = ()

    def __init__(self, passes: Iterable[Pass] = ()) -> None:
        object.__setattr__(self, "passes", tuple(passes))

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """Parse `a,b{x=1},c`. A name may also be that of a registered pipeline, which stands for its passes.

        Raises:
            UsageError: an unknown name (with a near miss), option or value.
        """
        return cls(p for item in split(text) for p in _expand(item.strip(), ()))

    @classmethod
    def from_recipe(cls, text: str) -> Pipeline:
        """Read a recipe: TOML with one `[[passes]]` table for each pass, its name and its options; see docs/recipes.md.

        A name may also be that of a registered pipeline, as in `parse`.

        Raises:
            UsageError: not TOML, an unknown section, pass, option or value.
        """
        return cls(recipe.read(text, lambda name: _expand(name, ()) if _is_pipeline(name) else None))

    def to_recipe(self) -> str:
        """The recipe of these passes, with the versions of lwgraph and of what it builds on."""
        return recipe.write(self.passes)

    def __str__(self) -> str:
        return ",".join(map(str, self.passes))

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)

    def run(
        self,
        model: S,
        context: Context | None = None,
        instruments: Sequence[Instrument] = (),
        *,
        guarded: bool = False,
    ) -> S:
        """Run every pass on a model of any kind that `lwgraph.load` reads, and return it as the same kind of object.

        An onnx_ir.Model is rewritten in place, and returned; of any other object the model is copied. A path gives an
        onnx_ir.Model, to be written with `lwgraph.save`.

        Args:
            model: a path, bytes, a ModelProto, an onnx_ir.Model or what torch.onnx.export(dynamo=True) returns.
            context: what passes may use besides the model; None: nothing, as without data.
            instruments: what watches, as for `rewrite`.
            guarded: as for `rewrite`.

        Raises:
            ModelError: the model cannot be read.
            CheckError: as for `rewrite`.
        """
        read = model if isinstance(model, ir.Model) else ir.load(model)
        self.rewrite(read, context, instruments, guarded=guarded)
        return ir.as_kind_of(model, read)  # type: ignore[no-any-return]

    def rewrite(
        self,
        model: ir.Model,
        context: Context | None = None,
        instruments: Sequence[Instrument] = (),
        *,
        guarded: bool = False,
    ) -> list[Step]:
        """Run every pass on `model`, in place, and record the recipe in its metadata when anything changed.

        Neighbours that belong to the pipelines `clean` and `fuse` are run again, all of them, until none finds more to
        do; their steps count all rounds. Instruments see the model before and after each pass, in their order, and may
        reject the result. A guarded pass that fails or is rejected is undone, with a warning in the context. With
        `guarded` all of them are undone, and the failure is recorded in the context's failures, or raised where these
        are strict. Where the context has no teacher, the model as it is before the first approximate pass is the
        teacher of this run.

        Raises:
            CheckError: an instrument rejected the result of a pass, or a pass failed; the message names the pass. The
                model is then in an unknown state.
        """
        context = context or Context()
        for instrument in instruments:
            instrument.begin(model, self, context)
        course = _Course(model, instruments, guarded)
        steps: list[Step] = []
        for settles, block in itertools.groupby(enumerate(self.passes), lambda each: each[1].name in _settling()):
            done: list[Step] = []
            numbered = list(block)
            for index, p in numbered:
                if context.teacher is None and p.contract is Contract.APPROXIMATE:
                    context = context.beside(teacher=ir.clone(model))
                done.append(course.step(index, p, context))
            last = done
            for _ in range(_MOST_ROUNDS if settles and len(done) > 1 else 0):
                if not any(step.count for step in last):
                    break
                last = [course.step(index, p, context) for index, p in numbered]
                done = [
                    replace(a, count=a.count + b.count, seconds=a.seconds + b.seconds)
                    for a, b in zip(done, last, strict=True)
                ]
            steps += done
        if any(step.count for step in steps):
            recipe.record(model, [step.spec for step in steps if not step.dropped])
        for instrument in instruments:
            instrument.end(model, context)
        return steps


@dataclass
class _Course:
    """Passes that run on one model, one after the other.

    Attributes:
        model: changed in place.
        instruments: see `Pipeline.run`.
        guarded: whether each pass that fails is undone, and left out where there is no time for it.
        snapshot: a copy of the model as it is; None where none was made since it changed.
    """

    model: ir.Model
    instruments: Sequence[Instrument]
    guarded: bool
    snapshot: ir.Model | None = None

    def step(self, index: int, p: Pass, context: Context) -> Step:
        """Run one pass."""
        model = self.model
        if not p.asks and not context.allow(p.name, "the whole model"):
            return Step(index, p, 0, 0.0)
        if self.guarded and context.patience() <= 0:
            return Step(index, p, 0, 0.0, "no time was left for it")
        undone = self.guarded or p.guarded
        if undone and self.snapshot is None:
            self.snapshot = ir.clone(model)
        for instrument in self.instruments:
            instrument.before(p, model, context)
        start = time.perf_counter()
        try:
            count = _run(p, model, context)
            step = Step(index, p, count, time.perf_counter() - start)
            for instrument in self.instruments:
                instrument.after(step, model, context)
            if count:
                self.snapshot = None
            return step
        except Exception as error:
            if not undone and not isinstance(error, LwgraphError):
                raise
            told = error if isinstance(error, LwgraphError) else CheckError(say(error))
            notes = [note for instrument in self.instruments if (note := instrument.failed(p, told, context))]
            if not undone:
                raise type(told)("; ".join([str(told), *notes])) from error
            assert self.snapshot is not None
            ir.replace_contents(model, self.snapshot)
            self.snapshot = None  # the model has its nodes now
            reason = str(told)
            if p.guarded:
                context.warn("; ".join([f"{reason}; the pass was undone", *notes]))
            else:
                context.failures.take(
                    f"pass '{p.name}'", type(told)("; ".join([reason, *notes])).with_traceback(error.__traceback__)
                )
            return Step(index, p, 0, time.perf_counter() - start, reason)


@functools.cache
def _settling() -> frozenset[str]:
    """The names of the passes of which a row is run to a fixed point."""
    names = set(SETTLING) & set(registry.names("pipelines"))
    return frozenset(p.name for name in names for p in Pipeline.parse(name))


def _run(p: Pass, model: ir.Model, context: Context) -> int:
    """A pass's own errors leave as one line that names it.

    The collector of cycles is paused for passes that only rewrite: it would walk all nodes again and again, a fifth of
    the time, to find removed nodes (data is not in cycles, so it is freed at once all the same).
    """
    pause = gc.isenabled() and p.contract is not Contract.APPROXIMATE
    if pause:
        gc.disable()
    seconds, start = context.patience(), time.monotonic()
    try:
        with alarm(seconds):
            return p.run(model, context)
    except OutOfTime:
        if time.monotonic() - start < seconds:
            raise  # it is the time of something around it that is over
        raise CheckError(f"pass '{p.name}' was stopped: it had not ended after {seconds:.3g} s, its time") from None
    except KeyboardInterrupt:
        raise
    except LwgraphError as error:
        text = str(error)
        raise type(error)(text if f"'{p.name}'" in text else f"pass '{p.name}': {text}") from error
    except BaseException as error:  # a pass is a plugin: whatever it raises is the user's to read
        words = " ".join(str(error).split())
        raise CheckError(f"pass '{p.name}' failed: {type(error).__name__}: {words}") from error
    finally:
        if pause:
            gc.enable()


def _is_pipeline(name: str) -> bool:
    return name in registry.names("pipelines") and name not in registry.names("passes")


def _expand(item: str, within: tuple[str, ...]) -> list[Pass]:
    if not _is_pipeline(item):
        return [Pass.parse(item)]
    if item in within:
        raise UsageError(f"pipeline '{item}' contains itself ({' -> '.join([*within, item])})")
    return [p for inner in split(registry.pipeline_text(item)) for p in _expand(inner.strip(), (*within, item))]
