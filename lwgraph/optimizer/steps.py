"""The steps of a run, in order, for whoever watches: which one it is at, and the best result so far."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lwgraph.optimizer.request import Request
from lwgraph.progress import Progress, silent

READING, JUDGING, CLEANING, CARRYING_OUT = "reading", "judging the input", "cleaning", "carrying out the plan"
WITHOUT_DATA, LAST_LOOK, MEASURING = "looking without data", "last look", "measuring the result"
_BRACKET = re.compile(r"(.*?)\s*\(([^()]*)\)")


def steps_of(request: Request, stages: Sequence[str]) -> tuple[str, ...]:
    """The steps that a request leads to; some of them may turn out to be idle.

    Args:
        request: what was asked for.
        stages: names of the stages that propose plans.
    """
    judged = request.data is not None or request.eval_data is not None or request.own_metric or request.unproven
    found = [READING, *([JUDGING] if judged else []), CLEANING]
    if request.plan is not None:
        found.append(CARRYING_OUT)
    elif request.searches:
        found += [*stages, LAST_LOOK] if judged else [WITHOUT_DATA]
    return (*found, MEASURING)


@dataclass
class Steps:
    """Passes progress on to `show`, with the step in front and the best result so far in brackets behind.

    "4 of 9, forms: fitting forms (best so far 2.9x at 0.4 points)"; a whole sentence goes on as it is.

    Attributes:
        names: of all steps, in order.
        show: called with (what, done, total).
        best: tells the best result so far, "" while there is none.
    """

    names: tuple[str, ...] = ()
    show: Progress = silent
    best: Callable[[], str] = lambda: ""
    _step: str = ""

    def begin(self, name: str) -> None:
        """A step begins; one that is not listed is no step, and goes on within the one before."""
        if name in self.names:
            self._step = f"{self.names.index(name) + 1} of {len(self.names)}, {name}"
            self.show(self._behind(self._step, ""), 0, 0)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Progress within the step."""
        if not self._step or what.endswith("."):
            self.show(what, done, total)
            return
        found = _BRACKET.fullmatch(what)
        kind, figure = (found[1], found[2]) if found else (what, "")
        self.show(self._behind(f"{self._step}: {kind}", figure), done, total)

    def _behind(self, text: str, figure: str) -> str:
        said = "; ".join(filter(None, (figure, self.best())))
        return f"{text} ({said})" if said else text


__all__ = [
    "CARRYING_OUT",
    "CLEANING",
    "JUDGING",
    "LAST_LOOK",
    "MEASURING",
    "READING",
    "WITHOUT_DATA",
    "Steps",
    "steps_of",
]
