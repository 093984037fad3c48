"""Shows progress on standard error: the current work, how much of it is done, and the time it will take."""

from __future__ import annotations

import re
import sys
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

MANY = 1000  # steps from which the share says more


class Progressed:
    """A context manager that is called with (what, done, total); a new kind of work replaces the line before.

    What stands in brackets at the end of `what` is a figure of the moment ("searching plans (12 run)"): it changes
    within the same kind of work, whose bar and remaining time go on. Where standard error is not a terminal, a plain
    line marks the first start of each kind of work, and nothing else is written. A whole sentence, which ends in a full
    stop, is no work: it is written as it is, once, and stays.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._shown = not quiet
        self._live = self._shown and sys.stderr.isatty()
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            _Count(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._live,
        )
        self._kind = ""
        self._said: set[str] = set()

    def __enter__(self) -> Progressed:
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:  # without a terminal Rich before 14.3 ends a bar with an empty line, even one that never began
            self._bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of `what` are done; total 0 means unknown."""
        if what.endswith("."):
            if self._shown and what not in self._said:
                self._said.add(what)
                self._bar.console.print(what, markup=False, soft_wrap=True)
            return
        kind = re.sub(r"\s*\([^()]*\)$", "", what) or what
        if kind != self._kind:
            self._kind = kind
            if self._live:
                for task in self._bar.task_ids:
                    self._bar.remove_task(task)
                self._bar.add_task(what, total=total or None)
            elif self._shown and kind not in self._said:
                self._said.add(kind)
                self._console.print(f"{kind} ...", style="dim", markup=False)
        if self._live:
            self._bar.update(self._bar.task_ids[-1], description=what, completed=done, total=total or None)


class _Count(ProgressColumn):
    """`3/8` of work that is counted in steps; of work measured in many parts, the share: `37 %`."""

    def render(self, task: Task) -> Text:
        """The text of one line."""
        if task.total is None:
            return Text("")
        if task.total >= MANY:
            return Text(f"{100 * task.completed / task.total:.0f} %")
        return Text(f"{task.completed:.0f}/{task.total:.0f}")
