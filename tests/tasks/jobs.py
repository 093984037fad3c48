"""What the pools' tests run in workers; importable there by name."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from lwgraph.tasks import worker
from lwgraph.tasks.worker import Worker


def add(a: float, b: float) -> float:
    return a + b


def fail(text: str) -> None:
    raise ValueError(text)


def pid(seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return os.getpid()


def rest_briefly() -> None:
    """Have this process wait for the next worker for a moment only."""
    worker.REST = 0.1


def imported(module: str) -> bool:
    """Whether this process has a module."""
    return module in sys.modules


def die_once(marker: str, number: int) -> int:
    """Kill this process the first time that anyone gets here, as the system does when memory runs out."""
    path = Path(marker)
    if not path.exists():
        path.write_text("died")
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return number * number


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def total(values: np.ndarray, factor: float) -> float:  # type: ignore[type-arg]
    return float(values.sum()) * factor


def interrupted() -> bool:
    """Whether this process lives on after Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)
    return True


def threads() -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


class StrangeError(Exception):
    """An error that cannot be made anew from its arguments."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


def strange() -> None:
    raise StrangeError("two", "words")


def lambdas() -> object:
    return lambda: 1


_inner: list[object] = []


def nested() -> int:
    """Start a worker of this worker, leave it at work, and say which process it is."""
    worker = Worker()
    found = worker.call(pid)
    threading.Thread(target=worker.call, args=(pid, 60.0), daemon=True).start()
    _inner.append(worker)
    return found


def hang_once(marker: str, number: int) -> int:
    """Never end the first time that anyone gets here."""
    path = Path(marker)
    if not path.exists():
        path.write_text("hung")
        time.sleep(600)
    return number * number


def slow_total(values: np.ndarray, factor: float, seconds: float) -> float:  # type: ignore[type-arg]
    time.sleep(seconds)
    return total(values, factor)


def count_and_fail(path: str) -> None:
    """Leave a mark for each time that anyone gets here."""
    with Path(path).open("a") as file:
        file.write("x")
    raise ValueError("1")


class DeadlyLoss:
    """A loss of which each evaluation kills the process, but for those of this one."""

    def __init__(self) -> None:
        self.home = os.getpid()

    def __call__(self, run: object) -> float:
        if os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        return 1.0
