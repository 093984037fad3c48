"""A module that a worker needs longer to import than a task may take."""

from __future__ import annotations

import multiprocessing
import time

IMPORT, ALLOWED = 1.0, 0.5  # seconds

if multiprocessing.parent_process() is not None:
    time.sleep(IMPORT)


def quick() -> int:
    return 1


def slow() -> None:
    time.sleep(600)
