"""What failed on the way, which costs its own contribution and no more: one line each, and what reproduces it."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lwgraph import ir
from lwgraph.alarm import OutOfTime
from lwgraph.cache import cache_folder
from lwgraph.errors import CheckError, LwgraphError

FOLDER = "failures"
MOST_BYTES = 1 << 28  # of a model that is written beside a failure


@dataclass(frozen=True)
class Failure:
    """One step that ended with an error.

    Attributes:
        step: the stage, and what of it: "forms", "forms: a plan".
        reason: the error in one line.
        reproducer: the folder with the model, the options and the traceback; "" where it could not be written.
    """

    step: str
    reason: str
    reproducer: str = ""

    def __str__(self) -> str:
        where = f"; to reproduce: {self.reproducer}" if self.reproducer else ""
        return f"{self.step}: {self.reason}{where}"


@dataclass
class Failures:
    """The failures of one run.

    Attributes:
        asked: the options of the run, as plain data.
        model: the model that the run is of, which is written beside a failure; None: none is.
        strict: whether each failure is raised as the error that it is.
    """

    asked: dict[str, object] = field(default_factory=dict)
    model: ir.Model | None = None
    strict: bool = False
    rows: list[Failure] = field(default_factory=list)

    @contextmanager
    def guard(self, step: str) -> Iterator[None]:
        """Within: an error of any kind is recorded, and ends only what is within; raised where the run is strict."""
        try:
            yield
        except (KeyboardInterrupt, OutOfTime):
            raise
        except BaseException as error:  # a plug-in may try to end the process
            self.take(step, error)

    def take(self, step: str, error: BaseException) -> None:
        """Record an error, once; raise it where the run is strict."""
        if self.strict:
            if not isinstance(error, Exception):  # an exit code of a plug-in says nothing of the run
                raise CheckError(f"{step}: {say(error)}") from error
            raise error
        reason = say(error)
        if not any(row.step == step and row.reason == reason for row in self.rows):
            self.rows.append(Failure(step, reason, self._write(step, error)))

    def _write(self, step: str, error: BaseException) -> str:
        """The folder that reproduces it; "" where nothing can be written: a failure to tell costs only the telling."""
        told = "".join(traceback.format_exception(error))
        name = hashlib.sha256(f"{step}\n{told}".encode()).hexdigest()[:12]
        folder = cache_folder() / FOLDER / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "traceback.txt").write_text(f"{step}\n\n{told}", "utf8")
            (folder / "options.json").write_text(json.dumps(self.asked, indent=2, default=str), "utf8")
            if self.model is not None and ir.size(self.model) <= MOST_BYTES:
                ir.save(self.model, folder / "model.onnx", overwrite=True)
        except Exception:
            return ""
        return str(folder)


def say(error: BaseException) -> str:
    """An error in one line: the library's own as they are, others with their kind."""
    words = " ".join(str(error).split())
    if isinstance(error, LwgraphError):
        return words
    if isinstance(error, MemoryError):
        return f"out of memory{': ' + words if words else ''}; give more with --memory, or fewer --data"
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


__all__ = ["Failure", "Failures", "say"]
