"""A pool of processes. One that dies, killed or out of memory, is replaced, and its task is done again."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from lwgraph.errors import CheckError, UsageError
from lwgraph.tasks.pool import Pool, Shared
from lwgraph.tasks.worker import ClosedError, DeathError, HangError, Worker
from lwgraph.temporary import TemporaryFolder

T = TypeVar("T")
TRIES, HANGS = 3, 2  # how often a task may be started that kills its process, or that does not end in time
KEPT = 4  # shared values that a worker keeps
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class OnDisk(Shared):
    """A value in a file, that a worker reads when it first needs it."""

    def __init__(self, path: str) -> None:
        self.path = path


class Processes(Pool):
    """`workers` fresh processes (spawned: no state of this one), each with single-threaded linear algebra.

    Several processes with several threads each would compete for the same cores; and with one thread, results do not
    depend on how many workers there are. Each process has a thread here that waits for its answers.

    Args:
        workers: how many.
        timeout: seconds that a task may take; None: as many as it takes.
    """

    def __init__(self, workers: int, timeout: float | None = None) -> None:
        self.workers, self.timeout = workers, timeout
        self._folder = TemporaryFolder()
        self._before = {name: os.environ.get(name) for name in THREADS}
        os.environ.update(dict.fromkeys(THREADS, "1"))  # read by the libraries when a worker first loads them
        self._closed = False
        self._shares = 0
        self._workers = [Worker() for _ in range(workers)]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, "lwgraph")

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run `fn` in a worker.

        The future raises what `fn` raises, and CheckError when every process that tries it dies, or hangs.
        """
        if self._closed:
            raise RuntimeError("the pool is shut down")
        return self._threads.submit(self._run, fn, args, kwargs)

    def _run(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        worker = self._idle.get()  # there is one for each thread
        died = hung = 0
        try:
            while True:
                try:
                    found: T = worker.call(_call, fn, args, kwargs, timeout=self.timeout)
                    return found
                except DeathError:
                    died += 1
                except HangError:
                    hung += 1
                except ClosedError:
                    raise CancelledError from None
                if died == TRIES:
                    raise CheckError(
                        f"worker processes died {TRIES} times on the same task, killed or out of memory; "
                        "use fewer --workers (in a script, start the work under `if __name__ == '__main__':`)"
                    )
                if hung == HANGS:
                    raise CheckError(f"a task did not end within {self.timeout:g} s, {HANGS} times; it is given up")
        finally:
            self._idle.put(worker)

    def share(self, value: Any) -> Shared:
        """Write a value where every worker reads it once."""
        self._shares += 1
        path = Path(self._folder.path, f"{self._shares}.pickle")
        try:
            path.write_bytes(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
        except OSError as error:
            raise UsageError(f"--workers: '{path.parent}' cannot be written ({error}); set TMPDIR") from None
        return OnDisk(str(path))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes; those at work are waited for only if `wait`."""
        if self._closed:
            return
        if wait:
            self._threads.shutdown(cancel_futures=cancel_futures)
        self._closed = True
        for worker in self._workers:
            worker.close()
        self._threads.shutdown(cancel_futures=cancel_futures)
        for name, before in self._before.items():
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before
        self._folder.remove()


_values: OrderedDict[str, Any] = OrderedDict()  # of a worker: shared values, the last used at the end


def _call(fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    return fn(*(_value(a.path) if isinstance(a, OnDisk) else a for a in args), **kwargs)


def _value(path: str) -> Any:
    if path not in _values:
        _values[path] = pickle.loads(Path(path).read_bytes())  # written by the process that started this one
        while len(_values) > KEPT:
            _values.popitem(last=False)
    _values.move_to_end(path)
    return _values[path]


__all__ = ["HANGS", "TRIES", "OnDisk", "Processes"]
