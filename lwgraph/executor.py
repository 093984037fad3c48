"""The executor protocol: what runs a model. Implementations live in `runtime/` and in third-party plugins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from lwgraph import ir
from lwgraph.arrays import Array

Feeds = Mapping[str, Array]
Run = Callable[[Feeds], dict[str, Array]]


@runtime_checkable
class Executor(Protocol):
    """Runs models. Options (threads, precision) belong to the instance."""

    name: str

    def prepare(self, model: ir.Model, outputs: Sequence[str] | None = None) -> Run:
        """Make `model` ready to run.

        Args:
            model: the model; it is not changed.
            outputs: names of main-graph values to return; any intermediate may be named. None: the graph's outputs.

        Returns:
            a function from {input name: array} to {value name: array}, in the order of `outputs`.

        Raises:
            ModelError: the runtime cannot load the model, or a value in `outputs` does not exist.
            DataError: (when called) a feed is missing, unknown, or has the wrong dtype or shape.
        """
        ...


def untimed(executor: Executor) -> Executor:
    """The executor for runs that nobody times: statistics, ranges, outputs to compare.

    An executor may have a method `untimed()` that gives such a twin: the same results, faster, by whatever means would
    falsify a timing, such as all cores of the machine.
    """
    twin: Callable[[], Executor] | None = getattr(executor, "untimed", None)
    return executor if twin is None else twin()


__all__ = ["Array", "Executor", "Feeds", "Run", "untimed"]
