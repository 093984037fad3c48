"""The interface of pools, and the choice among them."""

from __future__ import annotations

from abc import abstractmethod
from concurrent.futures import Executor, Future, wait
from typing import Any, TypeVar

from lwgraph.executor import before_run

T = TypeVar("T")
WATCH = 0.5  # seconds between two looks at whether to wait on


class Shared:
    """Stands for a value that many tasks use, which is sent to each worker once; made by `Pool.share`.

    Give it to `submit` as a positional argument of its own: the function gets the value.
    """


class Pool(Executor):
    """An executor whose tasks survive the death of a worker, and one that hangs, and may share values.

    A task may therefore run more than once; it must give the same result each time and change nothing outside. One that
    kills or hangs all workers that try it raises a CheckError, of one line.
    """

    workers: int

    @abstractmethod
    def share(self, value: Any) -> Shared:
        """Send a value (picklable, perhaps large) to the workers, once."""


def finished(future: Future[T]) -> T:
    """What a task gives, waiting for it; what `lwgraph.executor.watched` checks may end that."""
    while not wait([future], WATCH).done:
        before_run()
    return future.result()


__all__ = ["Pool", "Shared", "finished"]
