"""An executor that runs what is new to it in a worker process first, which may die or hang in its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lwgraph import ir
from lwgraph.executor import Array, Executor, Feeds, FixesSizes, Run, as_written, offered, ready_sooner, untimed
from lwgraph.optimizer.memory import weights
from lwgraph.optimizer.sessions import Sessions
from lwgraph.tasks.isolated import Isolated

SECONDS = 60.0  # that a worker may take to load a model, and to run it once


@dataclass(eq=False)
class FirstRuns:
    """Runs models as another executor does; the first run of one with new operators is in a worker process, too.

    Operators are known, with their versions and the types of what they read, once a model that has them ran. So a
    runtime that dies with a signal, or hangs, costs a ModelError. What the executor offers besides is handed on.

    Args:
        executor: picklable; it runs the models.
        left: seconds that the worker may take at most, where SECONDS are more; for the first model it may take any.
        before: called before a model is loaded.
        sessions: what the executor holds of large models.
    """

    executor: Executor
    left: Callable[[], float] = lambda: SECONDS
    before: Callable[[], None] = lambda: None
    sessions: Sessions = field(default_factory=Sessions)
    name: str = field(init=False)
    _known: set[object] = field(default_factory=set, repr=False)
    _isolated: Isolated | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.name = self.executor.name
        if self._isolated is None:
            self._isolated = Isolated(self.executor)
            self._isolated.start()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.executor, name)

    def untimed(self) -> FirstRuns:
        """See `lwgraph.executor.untimed`; what is known to one is known to the other."""
        return dataclasses.replace(self, executor=untimed(self.executor))

    def at_sizes(self, sizes: Mapping[str, Sequence[int]]) -> FirstRuns:
        """See `lwgraph.executor.FixesSizes`; an executor that gains nothing from them stays as it is."""
        able = offered(self.executor, FixesSizes)
        return self if able is None else dataclasses.replace(self, executor=able.at_sizes(sizes))

    def ready_sooner(self) -> FirstRuns:
        """See `lwgraph.executor.ready_sooner`; what is known to one is known to the other."""
        return dataclasses.replace(self, executor=ready_sooner(self.executor))

    def as_written(self) -> FirstRuns:
        """See `lwgraph.executor.as_written`; what is known to one is known to the other."""
        return dataclasses.replace(self, executor=as_written(self.executor))

    def prepare(self, model: ir.Model, outputs: Sequence[str] | None = None) -> Run:
        """See `Executor.prepare`.

        Raises:
            ModelError: also (then and when called) that the runtime died, or gave no answer in time.
        """
        self.before()
        isolated = self._isolated
        assert isolated is not None
        isolated.forget()  # models that were loaded there, and never run
        new = _operators(model) - self._known
        if not new:
            return self.sessions.prepare(self.executor, model, outputs)
        if self._known:  # the user's own model may take long
            isolated.timeout = min(SECONDS, max(1.0, self.left()))
        self.sessions.make_room(weights(model))  # the worker needs it as well
        first: Run | None = isolated.prepare(model, outputs)
        kept, run = ir.clone(model), None

        def guarded(feeds: Feeds) -> dict[str, Array]:
            nonlocal first, run
            if first is not None:
                first(feeds)
                first = None
                isolated.forget()  # only one of the two processes holds the weights at a time
                self._known.update(new)
            if run is None:
                run = self.sessions.prepare(self.executor, kept, outputs)
            return run(feeds)

        return guarded


def _operators(model: ir.Model) -> set[object]:
    return {
        (node.domain, node.op_type, ir.opset(node), tuple(value.dtype if value else None for value in node.inputs))
        for scope in ir.scopes(model)
        for node in scope
        if ir.operator(node) != "Shape"  # which is asked of any model, and computes nothing
    }


__all__ = ["FirstRuns"]
