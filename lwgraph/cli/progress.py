"""Progress on standard error: what is being done, how far it is, and how long it will take."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Progressed:
    """A context manager that is called with (what, done, total); a new `what` replaces the line before.

    Where standard error is not a terminal, a plain line marks the first start of each kind of work.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._shown = not quiet
        self._live = self._shown and sys.stderr.isatty()
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._live,
        )
        self._what = ""
        self._said: set[str] = set()

    def __enter__(self) -> Progressed:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of `what` are done; total 0 means unknown."""
        if what != self._what:
            self._what = what
            if self._live:
                for task in self._bar.task_ids:
                    self._bar.remove_task(task)
                self._bar.add_task(what, total=total or None)
            elif self._shown and what not in self._said:
                self._said.add(what)
                self._console.print(f"{what} ...", style="dim")
        if self._live:
            self._bar.update(self._bar.task_ids[-1], completed=done, total=total or None)
