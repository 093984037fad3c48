"""The choice between pools."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lwgraph.errors import UsageError
from lwgraph.tasks.pool import Pool

MOST_WORKERS = 1024


def check_workers(workers: int, dask: str | None) -> None:
    """UsageError when there is no such pool."""
    if not 1 <= workers <= MOST_WORKERS:
        raise UsageError(f"--workers is {workers}; allowed: 1 to {MOST_WORKERS}")
    if dask is not None and workers != 1:
        raise UsageError(f"--workers {workers} and --dask '{dask}' both say where to work; give one of them")


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
    check_workers(workers, dask)
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


__all__ = ["MOST_WORKERS", "check_workers", "open_pool"]
