"""A pool of processes. One that dies, killed or out of memory, is replaced, and its task is done again."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from lwgraph.errors import CheckError, UsageError
from lwgraph.tasks.pool import Pool, Shared

T = TypeVar("T")
TRIES = 3  # times that a task may be started
KEPT = 4  # shared values that a worker keeps
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class OnDisk(Shared):
    """A value in a file, that a worker reads when it first needs it."""

    def __init__(self, path: str) -> None:
        self.path = path


class _Outer(Future[T]):
    """The future that the caller holds, while its task may move from a broken pool to the next."""

    inner: Future[T] | None = None

    def cancel(self) -> bool:
        if self.inner is not None and not self.inner.cancel():
            return False
        return super().cancel()


class Processes(Pool):
    """`workers` fresh processes (spawned: no state of this one), each with single-threaded linear algebra.

    Several processes with several threads each would compete for the same cores; and with one thread, results do not
    depend on how many workers there are.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._lock = threading.RLock()
        self._folder = tempfile.TemporaryDirectory(prefix="lwgraph-")
        self._before = {name: os.environ.get(name) for name in THREADS}
        os.environ.update(dict.fromkeys(THREADS, "1"))  # read by the libraries when a worker first loads them
        self._closed = False
        self._shares = 0
        self._pool = self._fresh()

    def _fresh(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"), initializer=_start)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run `fn` in a worker.

        The future raises what `fn` raises, and CheckError when every process that tries it dies.
        """
        outer: _Outer[T] = _Outer()
        self._start(outer, functools.partial(_call, fn, args, kwargs), TRIES)
        return outer

    def _start(self, outer: _Outer[Any], work: Callable[[], Any], tries: int) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is shut down")
            try:
                pool, inner = self._pool, self._pool.submit(work)
            except BrokenProcessPool:
                self._pool = pool = self._fresh()
                inner = pool.submit(work)
            outer.inner = inner
        inner.add_done_callback(functools.partial(self._done, outer, work, tries, pool))

    def _done(
        self, outer: _Outer[Any], work: Callable[[], Any], tries: int, pool: ProcessPoolExecutor, inner: Future[Any]
    ) -> None:
        if inner.cancelled() or outer.cancelled():
            if not outer.cancelled():
                Future.cancel(outer)
            outer.set_running_or_notify_cancel()
            return
        error = inner.exception()
        if isinstance(error, BrokenProcessPool) and tries > 1:
            with self._lock:
                if self._closed:
                    outer.set_exception(CancelledError())
                    return
                if self._pool is pool:
                    self._pool = self._fresh()
            self._start(outer, work, tries - 1)
            return
        if not outer.set_running_or_notify_cancel():
            return
        if isinstance(error, BrokenProcessPool):
            outer.set_exception(
                CheckError(
                    f"worker processes died {TRIES} times on the same task, killed or out of memory; "
                    "use fewer --workers (in a script, start the work under `if __name__ == '__main__':`)"
                )
            )
        elif error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(inner.result())

    def share(self, value: Any) -> Shared:
        """Write a value where every worker reads it once."""
        with self._lock:
            self._shares += 1
            path = Path(self._folder.name, f"{self._shares}.pickle")
        try:
            path.write_bytes(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
        except OSError as error:
            raise UsageError(f"--workers: '{path.parent}' cannot be written ({error}); set TMPDIR") from None
        return OnDisk(str(path))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes; those at work are waited for only if `wait`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            pool = self._pool
        processes = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=wait, cancel_futures=cancel_futures)
        if not wait:
            for process in processes:
                process.terminate()
        for name, before in self._before.items():
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before
        self._folder.cleanup()


def _start() -> None:
    """Leave Ctrl-C, which a terminal sends to all processes, to the one that was started by hand."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_values: OrderedDict[str, Any] = OrderedDict()  # the shared values of a worker, the last used at the end


def _call(fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    return fn(*(_value(a.path) if isinstance(a, OnDisk) else a for a in args), **kwargs)


def _value(path: str) -> Any:
    if path not in _values:
        _values[path] = pickle.loads(Path(path).read_bytes())  # written by the process that started this one
        while len(_values) > KEPT:
            _values.popitem(last=False)
    _values.move_to_end(path)
    return _values[path]


__all__ = ["TRIES", "OnDisk", "Processes"]
