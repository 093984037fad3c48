"""A pool on an existing Dask cluster. Dask restarts tasks whose worker is lost."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

from lwgraph.errors import CheckError, UsageError
from lwgraph.tasks.pool import Pool, Shared

T = TypeVar("T")
SECONDS = 10  # seconds to wait for the scheduler
LARGE = "2GB"  # arguments of a task, beyond which Dask warns; Gram matrices have many megabytes


class _Outer(Future[T]):
    """What the caller holds, for one future of Dask's or several after another, with errors of this package."""

    inner: Future[T] | None = None

    def cancel(self) -> bool:
        done = super().cancel()
        if done and self.inner is not None:
            self.inner.cancel()
        return done


@dataclass(frozen=True)
class _Task:
    """A call."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Scattered(Shared):
    """A value in the memory of every worker, and here."""

    def __init__(self, value: Any, future: Any) -> None:
        self.value, self.future = value, future


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
        self.timeout, self._closed = timeout, False
        self._lossy = False  # whether workers were lost on a task: shared values may be gone with them
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
        self._sender = ThreadPoolExecutor(1, "lwgraph-dask")
        self._pending: WeakSet[Future[Any]] = WeakSet()
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
        task = _Task(fn, args, kwargs)
        outer: _Outer[T] = _Outer()
        self._pending.add(outer)
        self._start(outer, task)
        return outer

    def _start(self, outer: _Outer[T], task: _Task) -> None:
        values = [(a.value if self._lossy else a.future) if isinstance(a, Scattered) else a for a in task.args]
        inner: Future[T] = self._executor.submit(_timed, self.timeout, task.fn, *values, **task.kwargs)
        outer.inner = inner
        inner.add_done_callback(functools.partial(self._done, outer, task))

    def _start_again(self, outer: _Outer[T], task: _Task) -> None:
        try:
            self._start(outer, task)
        except Exception as error:  # whatever a cluster that is gone leads to
            outer.set_exception(CheckError(f"the Dask cluster is lost ({' '.join(str(error).split())})"))

    def _done(self, outer: _Outer[T], task: _Task, inner: Future[T]) -> None:
        lost = inner.cancelled() and not outer.cancelled() and not self._closed
        if lost and any(isinstance(a, Scattered) for a in task.args):
            # Dask cancels tasks whose shared values were lost with all workers that had them: they go along with the
            # task then. This may be the thread of Dask's event loop, which cannot wait until that is sent.
            self._lossy = True
            values = tuple(a.value if isinstance(a, Scattered) else a for a in task.args)
            self._sender.submit(self._start_again, outer, replace(task, args=values))
            return
        if not outer.set_running_or_notify_cancel():
            return
        self._lossy = self._lossy or (not inner.cancelled() and isinstance(inner.exception(), self._lost))
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
        return Scattered(value, self._client.scatter([value], broadcast=True, hash=False)[0])

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster, which goes on."""
        if wait and not cancel_futures:
            futures.wait(list(self._pending))
        self._closed = True
        # Dask itself would wait for futures whose tasks it has lost, which never end.
        self._executor.shutdown(wait=False)
        self._sender.shutdown(wait=False, cancel_futures=True)
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
