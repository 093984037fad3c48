"""An executor whose models run in a process of their own: one that kills it, or hangs, costs no more than its run."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lwgraph import heap, ir
from lwgraph.errors import ModelError
from lwgraph.executor import Array, Executor, Feeds, Run, untimed
from lwgraph.tasks.worker import DeathError, HangError, Worker
from lwgraph.temporary import TemporaryFolder


class Isolated:
    """Runs models as another executor does, in a worker process that starts with the first and is replaced if it dies.

    Outputs are those of the executor, bit for bit. Feeds and outputs are copied between the processes, so that times
    are not those of the executor.

    Args:
        executor: picklable, and not defined in the user's script; it runs the models there.
        timeout: seconds that loading a model may take, and a run; None: any time.
    """

    def __init__(self, executor: Executor, timeout: float | None = None) -> None:
        self.name = executor.name
        self.executor, self.timeout = executor, timeout
        self._worker, self._dropped = Worker(main=False, needed=executor, reset=_forget_all), list[int]()

    def untimed(self) -> Isolated:
        """See `lwgraph.executor.untimed`; in the same process."""
        twin = Isolated(untimed(self.executor), self.timeout)
        twin._worker, twin._dropped = self._worker, self._dropped
        return twin

    def start(self) -> None:
        """Start the process now: it gets ready while this one does other things."""
        self._worker.start()

    def prepare(self, model: ir.Model, outputs: Sequence[str] | None = None) -> Run:
        """See `Executor.prepare`.

        Raises:
            ModelError: also (then and when called) that the process died, or gave no answer in time.
        """
        return _Run(self, model, outputs)

    def ask(self, what: str, fn: Any, *args: Any) -> Any:
        """Call a function in the process; `what` says at what it was when that went wrong."""
        try:
            return self._worker.call(fn, *args, timeout=self.timeout)
        except (DeathError, HangError) as how:
            raise ModelError(
                f"executor '{self.name}': the runtime {how} while {what}; leave this model out, or try another executor"
            ) from None

    def forget(self) -> None:
        """Free what the process holds of models that nobody runs any more; the next that is loaded does so, too."""
        if self._dropped:
            with suppress(ModelError):  # a process that is gone holds nothing
                self.ask("freeing a model", _forget, self.dropped())

    def dropped(self) -> list[int]:
        """The numbers of models that nobody runs any more, since this was asked last."""
        found = self._dropped[:]
        del self._dropped[: len(found)]
        return found


_numbers = itertools.count()


class _Run:
    """One model, in a file from which each new process loads it."""

    def __init__(self, isolated: Isolated, model: ir.Model, outputs: Sequence[str] | None) -> None:
        self.isolated, self.outputs, self.number = isolated, outputs, next(_numbers)
        self.model = f"model '{model.graph.name or ''}'"
        self._folder = TemporaryFolder()
        weakref.finalize(self, isolated._dropped.append, self.number)
        self.path = str(self._folder.path / "model.onnx")
        ir.lend(model, Path(self.path))  # weights are mapped, not copied, there
        self._load()

    def _load(self) -> None:
        isolated = self.isolated
        names = None if self.outputs is None else list(self.outputs)
        given = (isolated.executor, self.number, self.path, names, isolated.dropped())
        isolated.ask(f"loading {self.model}", _load, *given)

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        asked = (f"running {self.model}", _run, self.number, dict(feeds))
        try:
            found: dict[str, Array] = self.isolated.ask(*asked)
        except _LostError:
            self._load()
            found = self.isolated.ask(*asked)
        return found


class _LostError(Exception):
    """This process never had the model: the one that had it died."""


loaded_runs: dict[int, Run] = {}  # of a worker


def _forget(numbers: list[int]) -> None:
    held = len(loaded_runs)
    for each in numbers:
        loaded_runs.pop(each, None)
    if len(loaded_runs) < held:
        heap.collect()


def _forget_all() -> None:
    _forget(list(loaded_runs))


def _load(executor: Executor, number: int, path: str, outputs: list[str] | None, dropped: list[int]) -> None:
    _forget(dropped)
    loaded_runs[number] = executor.prepare(ir.borrow(Path(path)), outputs)
    heap.collect()


def _run(number: int, feeds: Feeds) -> dict[str, Array]:
    if number not in loaded_runs:
        raise _LostError
    return loaded_runs[number](feeds)


__all__ = ["Isolated"]
