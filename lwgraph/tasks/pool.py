"""What all pools have in common, and the choice between them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from lwgraph.errors import UsageError

MOST_WORKERS = 1024


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


@contextmanager
def open_pool(workers: int = 1, dask: str | None = None, timeout: float | None = None) -> Iterator[Pool | None]:
    """A pool for the time of a `with` block; None for one worker, which is this process.

    Args:
        workers: processes on this machine.
        dask: address of a Dask scheduler, `tcp://host:8786`, or the path of its scheduler file; instead of `workers`.
        timeout: seconds that a task may take; None: as many as it takes.

    Raises:
        UsageError: a value is out of range, Dask is not installed, or no cluster with workers answers.
    """
    if not 1 <= workers <= MOST_WORKERS:
        raise UsageError(f"--workers is {workers}; allowed: 1 to {MOST_WORKERS}")
    if dask is not None and workers != 1:
        raise UsageError(f"--workers {workers} and --dask '{dask}' both say where to work; give one of them")
    if dask is None and workers == 1:
        yield None
        return
    pool: Pool
    if dask is not None:
        from lwgraph.tasks.cluster import Cluster

        pool = Cluster(dask, timeout)
    else:
        from lwgraph.tasks.processes import Processes

        pool = Processes(workers, timeout)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


__all__ = ["MOST_WORKERS", "Pool", "Shared", "open_pool"]
