"""A Dask cluster that exists already. Dask starts tasks again whose worker is lost."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from lwgraph.errors import CheckError, UsageError
from lwgraph.tasks.pool import Pool, Shared

T = TypeVar("T")
SECONDS = 10  # to wait for the scheduler
LARGE = "2GB"  # arguments of a task, beyond which Dask warns; Gram matrices have many megabytes


class _Outer(Future[T]):
    """A future of Dask's, with errors of this package."""

    def __init__(self, inner: Future[T]) -> None:
        super().__init__()
        self._inner = inner

    def cancel(self) -> bool:
        return self._inner.cancel() and super().cancel()


class Scattered(Shared):
    """A value in the memory of every worker."""

    def __init__(self, future: Any) -> None:
        self.future = future


class Cluster(Pool):
    """A running Dask cluster whose workers have the same version of lwgraph.

    Args:
        address: of the scheduler, or the path of its scheduler file.
        timeout: seconds that a task may take; None: as many as it takes. A task that takes longer ends its worker,
            which the worker's nanny starts again.

    Raises:
        UsageError: Dask is not installed, nothing answers, there are no workers, or they have another lwgraph.
    """

    def __init__(self, address: str, timeout: float | None = None) -> None:
        self.timeout = timeout
        try:
            import dask
            import distributed
        except ImportError:
            raise UsageError("--dask needs Dask, which is not installed; run: pip install 'lwgraph[dask]'") from None
        dask.config.set({"distributed.admin.large-graph-warning-threshold": LARGE})
        given = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
        try:
            self._client = distributed.Client(**given, timeout=SECONDS, set_as_default=False, name="lwgraph")
        except (OSError, TimeoutError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UsageError(f"--dask '{address}': no Dask scheduler answers there ({reason})") from None
        try:
            self._check(address)
        except BaseException:
            self._client.close()
            raise
        self._lost: type[Exception] = distributed.KilledWorker
        self._executor = self._client.get_executor(pure=False)

    def _check(self, address: str) -> None:
        self.workers = len(self._client.scheduler_info(n_workers=-1)["workers"])
        if not self.workers:
            raise UsageError(f"--dask '{address}': the cluster has no workers; start some: dask worker {address}")
        mine = version("lwgraph")
        try:
            theirs = self._client.run(_version)
        except Exception as error:  # whatever a worker raises
            reason = " ".join(str(error).split())
            raise UsageError(f"--dask '{address}': a worker cannot run lwgraph ({reason}); install it there") from None
        for worker, found in theirs.items():
            if found != mine:
                raise UsageError(f"--dask '{address}': worker {worker} has lwgraph {found}, here is {mine}")

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run `fn` on a worker; on another when that one is lost.

        The future raises what `fn` raises, and CheckError when too many workers were lost on it.
        """
        values = [a.future if isinstance(a, Scattered) else a for a in args]
        inner: Future[T] = self._executor.submit(_timed, self.timeout, fn, *values, **kwargs)
        outer: _Outer[T] = _Outer(inner)
        inner.add_done_callback(functools.partial(self._done, outer))
        return outer

    def _done(self, outer: _Outer[T], inner: Future[T]) -> None:
        if not outer.set_running_or_notify_cancel():
            return
        if inner.cancelled():
            outer.set_exception(CancelledError())
        elif isinstance(error := inner.exception(), self._lost):
            late = "" if self.timeout is None else f", or did not end within {self.timeout:g} s"
            outer.set_exception(
                CheckError(f"Dask workers died on the same task, killed or out of memory{late}; it is given up")
            )
        elif error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(inner.result())

    def share(self, value: Any) -> Shared:
        """Send a value to all workers."""
        return Scattered(self._client.scatter([value], broadcast=True, hash=False)[0])

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster, which goes on."""
        self._executor.shutdown(wait=wait and not cancel_futures)
        self._client.close()


def _timed(timeout: float | None, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """What `fn` gives; this process, a Dask worker, ends where that takes too long, since no thread can be stopped."""
    if timeout is None:
        return fn(*args, **kwargs)
    watch = threading.Timer(timeout, os._exit, (1,))
    watch.daemon = True
    watch.start()
    try:
        return fn(*args, **kwargs)
    finally:
        watch.cancel()


def _version() -> str:
    return version("lwgraph")


__all__ = ["Cluster", "Scattered"]
