"""Shows progress on standard error: the step of the run, what is counted in it, and the time that will take."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task
from rich.text import Text

from lwgraph.cli.common import is_silent

MANY = 1000  # from which a count says less than a share
_SAID = re.compile(
    r"(?:(?P<step>(?:\S+: )?\d+ of \d+, [^:(]+?)(?:: |(?=\s*\(|$)))?(?P<what>.*?)(?:\s*\((?P<now>[^()]*)\))?"
)
# What is counted while this is done: it then stands for itself where there is little room.
_COUNTED = {
    "fitting forms": "layers",
    "judging blocks": "blocks",
    "looking at weights": "layers",
    "measuring layers": "layers",
    "measuring sensitivities": "layers",
    "pruning weights": "layers",
    "ranking channels": "groups",
    "running plans": "plans",
    "timing plans": "plans",
    "weighing forms": "layers",
}


@dataclass(frozen=True)
class Said:
    """One line of progress, taken apart: "4 of 9, forms: fitting forms (best so far 2.9x at 0.4 points)".

    Attributes:
        step: "4 of 9, forms"; "" of a command that has no steps.
        what: what is being done in it; "" where only the step is told.
        now: figures of the moment; "" for none.
    """

    step: str
    what: str
    now: str

    @classmethod
    def parse(cls, text: str) -> Said:
        """From what a progress callback is given."""
        found = _SAID.fullmatch(text)
        assert found is not None
        return cls(found["step"] or "", found["what"], found["now"] or "")

    @property
    def kind(self) -> tuple[str, str]:
        """What has a remaining time of its own; figures of the moment change within it."""
        return self.step, self.what

    def line(self, done: float, total: float | None, left: float | None, width: int) -> str:
        """The line for a terminal of so many columns; where there is little room, what is counted says it all.

        Args:
            done: how much of `what` is done.
            total: of how much; None: not known.
            left: seconds that it will take; None: not known.
            width: columns.
        """
        of = "" if not total else f"{100 * done / total:.0f} %" if total >= MANY else f"{done:.0f} of {total:.0f}"
        noun = _COUNTED.get(self.what, "") if of else ""
        counted = f"{of} {noun}".strip()
        behind = [*([_left(left)] if left else []), *([self.now] if self.now else [])]
        for parts in (
            [" ".join(filter(None, (self.what, counted))), *behind],
            [counted if noun else " ".join(filter(None, (self.what, counted))), *behind],
            [counted if noun else self.what, *behind[:1]],
        ):
            told = ", ".join(filter(None, parts))
            text = ": ".join(filter(None, (self.step, told)))
            if len(text) <= width:
                return text
        return text


class Progressed:
    """A context manager that is called with (what, done, total).

    On a terminal one line says all, and changes. Elsewhere there is one line for each step of a run, when it begins,
    with the best result so far; or for each kind of work, where a command has no steps. A whole sentence, which ends in
    a full stop, is written as it is, once, and stays. With --quiet or --json nothing is shown.
    """

    def __init__(self, quiet: bool | None = None) -> None:
        self._shown = not (is_silent() if quiet is None else quiet)
        self._live = self._shown and sys.stderr.isatty()
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar = Progress(
            SpinnerColumn(), _Line(self._console), console=self._console, transient=True, disable=not self._live
        )
        self._kind = ("", "")
        self._told: set[str] = set()

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
        """Show that `done` of `total` parts of `what` are done; total 0 means unknown."""
        if not self._shown:
            return
        if what.endswith("."):
            self._once(what, what)
            return
        said = Said.parse(what)
        if not self._live:
            self._once(said.step or said.what, ", ".join(filter(None, (said.step or said.what, said.now))) + " ...")
            return
        if said.kind != self._kind:
            self._kind = said.kind
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(what, total=total or None)
        self._bar.update(self._bar.task_ids[-1], description=what, completed=done, total=total or None)

    def _once(self, key: str, line: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self._bar.console.print(line, markup=False, soft_wrap=True)


class _Line(ProgressColumn):
    """The line of a task, as wide as the terminal allows."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def render(self, task: Task) -> Text:
        """The text of one line."""
        said = Said.parse(task.description)
        left = task.time_remaining if task.completed else None
        line = said.line(task.completed, task.total, left, self._console.width - 3)
        return Text(line, no_wrap=True, overflow="ellipsis")


def _left(seconds: float) -> str:
    """ "about 40 s left", in steps that a clock of one's own would not contradict."""
    if seconds < 10:
        return "a few seconds left"
    if seconds < 90:
        return f"about {10 * math.ceil(seconds / 10)} s left"
    return f"about {math.ceil(seconds / 60)} min left"
