"""One fresh process that does what it is asked, one call after another; it may die of one, or hang."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import util
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, TypeVar

from lwgraph.errors import CheckError

T = TypeVar("T")
PATIENCE = 5.0  # seconds that an idle process has to end by itself
REST = 10.0  # seconds that a process waits for the next worker like its own
START = 120.0  # seconds that a process has to start and to import what it is asked to do
_starting = threading.Lock()
_patience: float | None = None  # of a worker's process: seconds that it waits for what it is asked next


class DeathError(Exception):
    """The process ended before it answered; the text says how: "died with signal SIGKILL"."""


class HangError(Exception):
    """The process did not answer in time and was killed; the text says the time: "gave no answer in 60 s"."""


class ClosedError(Exception):
    """The worker was closed, before or during the call."""


class _ThereError(Exception):
    """What a traceback shows of the worker: its own."""


class Worker:
    """A spawned process, which has no state of this one. It starts with the first call, and anew after a death.

    Arrays travel as they are beside the pickled rest (protocol 5), without a copy of their own.

    Args:
        main: whether the process has what the user's script defines; it runs the script once more for that.
        needed: what calls will speak of; the process imports that as it starts.
        reset: makes the process as good as new. With it, the process of a worker that is gone waits for a few seconds,
            and the next worker like this one has it at once, without the second that imports take. None: it ends.
    """

    def __init__(self, *, main: bool = True, needed: Any = None, reset: Callable[[], Any] | None = None) -> None:
        self._main, self._needed, self._reset = main, needed, reset
        self._lock = threading.Lock()
        self._process: BaseProcess | None = None
        self._pipe: Connection[Any, Any] | None = None
        self._closed = False
        self._end: util.Finalize[Any] | None = None

    def call(self, fn: Callable[..., T], /, *args: Any, timeout: float | None = None) -> T:
        """What `fn(*args)` gives there.

        Args:
            fn: importable there by its name; not of the script that runs, which is not imported there.
            timeout: seconds from when the process has started and imported `fn`; None: as long as it takes.

        Raises:
            DeathError, HangError, ClosedError: see there; after the first two the next call has a fresh process.
            Otherwise what `fn` raises.
        """
        message = _pack((fn, args))
        with self._lock:
            pipe, process = self._start()
            try:
                _send(pipe, message)
                _wait(pipe, process, None if timeout is None else START)
                pipe.recv()  # the sign that it begins
                _wait(pipe, process, timeout)
                done, value, trace = _receive(pipe)
            except (EOFError, OSError):
                process.join(PATIENCE)
                code = process.exitcode
                self._stop()
                raise (ClosedError() if self._closed else DeathError(_how(code))) from None
            except BaseException:  # Ctrl-C, too: an answer that comes late must not be taken for that of the next call
                self._stop()
                raise
        if done:
            found: T = value
            return found
        value.__cause__ = _ThereError(trace)
        raise value

    def start(self) -> None:
        """Start the process, which gets ready while this one goes on."""
        with self._lock:
            self._start()

    def close(self) -> None:
        """End the process, at once if it is at work."""
        self._closed = True
        idle = self._lock.acquire(blocking=False)
        process, pipe = self._process, self._pipe
        if idle:
            if process is not None and pipe is not None:
                pipe.close()
                process.join(PATIENCE)
            self._stop()
            self._lock.release()
        elif process is not None:
            process.kill()

    def _start(self) -> tuple[Connection[Any, Any], BaseProcess]:
        if self._closed:
            raise ClosedError
        if self._process is None or self._pipe is None:
            like = None if self._reset is None else _Kind.of(self._needed)
            process, pipe = (like and _woken(like)) or self._spawned()
            self._pipe, self._process = pipe, process
            # Before multiprocessing waits, at the end of this process, for those that it started.
            self._end = util.Finalize(self, _let_go, (process, pipe, self._reset, like), exitpriority=100)
            if self._closed:  # meanwhile
                self._stop()
                raise ClosedError
        return self._pipe, self._process

    def _spawned(self) -> tuple[BaseProcess, Connection[Any, Any]]:
        spawn = multiprocessing.get_context("spawn")
        pipe, theirs = spawn.Pipe()
        needed = b""
        with suppress(Exception):  # what cannot travel is told of where it is to
            needed = pickle.dumps(self._needed)
        process = spawn.Process(target=_serve, args=(theirs, needed), name="lwgraph-worker")
        with _without_main():
            process.start()
        theirs.close()
        return process, pipe

    def _stop(self) -> None:
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        if self._end is not None:
            self._end.cancel()
        if process is not None and pipe is not None:
            _end(process, pipe)


@dataclass(frozen=True)
class _Kind:
    """What a process has of the one that started it; a worker that needs another kind starts its own."""

    parent: int
    folder: str
    path: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    processors: frozenset[int]
    needed: type

    @classmethod
    def of(cls, needed: Any) -> _Kind:
        processors = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()
        environment = tuple(sorted(os.environ.items()))
        return cls(os.getpid(), os.getcwd(), tuple(sys.path), environment, processors, type(needed))


_resting: list[tuple[_Kind, BaseProcess, Connection[Any, Any], util.Finalize[Any]]] = []  # one at most


def _let_go(
    process: BaseProcess, pipe: Connection[Any, Any], reset: Callable[[], Any] | None, kind: _Kind | None
) -> None:
    """What becomes of the process of a worker that is gone."""
    if reset is None or kind is None or util.is_exiting():
        _end(process, pipe)
        return
    with suppress(OSError):  # a process that has died is found out when it is to be woken
        _send(pipe, _pack((_rest, (reset,))))
    end = util.Finalize(None, _end, (process, pipe), exitpriority=100)
    _resting.append((kind, process, pipe, end))
    while len(_resting) > 1:
        _resting.pop(0)[-1]()


def _woken(kind: _Kind) -> tuple[BaseProcess, Connection[Any, Any]] | None:
    """A process of a kind that waited; None where there is none."""
    try:
        found, process, pipe, end = _resting.pop()
    except IndexError:
        return None
    if found == kind:
        with suppress(EOFError, OSError, HangError):
            _send(pipe, _pack((_wake, ())))
            for _ in range(2):  # the answer from when it lay down, and this one
                _wait(pipe, process, PATIENCE)
                pipe.recv()
                _wait(pipe, process, PATIENCE)
                done = _receive(pipe)[0]
            if done:
                end.cancel()
                return process, pipe
    end()
    return None


def _rest(reset: Callable[[], Any]) -> None:
    global _patience
    reset()
    _patience = REST


def _wake() -> None:
    global _patience
    _patience = None


@contextmanager
def _without_main() -> Iterator[None]:
    """Within: a process that is spawned does not import the user's script, which would run there once more."""
    with _starting:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _end(process: BaseProcess, pipe: Connection[Any, Any]) -> None:
    pipe.close()
    if process.is_alive():
        process.kill()
    process.join()


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"died with signal {signal.Signals(-code).name}"
        except ValueError:
            return f"died with signal {-code}"
    return f"ended with exit code {code}"


def _pack(value: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    buffers: list[pickle.PickleBuffer] = []
    return pickle.dumps(value, 5, buffer_callback=buffers.append), buffers


def _wait(pipe: Connection[Any, Any], process: BaseProcess, timeout: float | None) -> None:
    if not wait([pipe, process.sentinel], timeout):
        raise HangError(f"gave no answer in {timeout:g} s")


def _send(pipe: Connection[Any, Any], message: tuple[bytes, list[pickle.PickleBuffer]]) -> None:
    data, buffers = message
    pipe.send((data, len(buffers)))
    for buffer in buffers:
        pipe.send_bytes(buffer.raw())


def _receive(pipe: Connection[Any, Any]) -> Any:
    data, count = pipe.recv()
    return pickle.loads(data, buffers=[bytearray(pipe.recv_bytes()) for _ in range(count)])  # writable arrays


def _serve(pipe: Connection[Any, Any], needed: bytes) -> None:
    # Ctrl-C, which a terminal sends to all processes, is for the one that was started by hand.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, daemon=True).start()
    with suppress(Exception):
        pickle.loads(needed)
    while pipe.poll(_patience):
        try:
            _send(pipe, _answer(pipe))
        except (EOFError, OSError):  # the one who asks is gone
            return


def _follow() -> None:
    """End with the process that started this one, also in the middle of a task that never ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _answer(pipe: Connection[Any, Any]) -> tuple[bytes, list[pickle.PickleBuffer]]:
    data, count = pipe.recv()
    buffers = [bytearray(pipe.recv_bytes()) for _ in range(count)]
    try:
        try:
            fn, args = pickle.loads(data, buffers=buffers)
        finally:
            pipe.send(None)  # from here on it is the task that takes its time
        return _pack((True, fn(*args), ""))
    except Exception as error:  # whatever a task raises is for the one who asked
        trace = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an error of a class that does not travel
            error = CheckError(f"{type(error).__name__}: {' '.join(str(error).split())}")
        return _pack((False, error, trace))


__all__ = ["ClosedError", "DeathError", "HangError", "Worker"]
