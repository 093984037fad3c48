"""Candidates whose models, scores and times are plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lwgraph.failures import Failures
from lwgraph.measure.evidence import Disagreements
from lwgraph.measure.promise import Verdict, judge
from lwgraph.measure.score import Score
from lwgraph.optimizer.candidates import Candidates, Incumbent, Made
from lwgraph.optimizer.racing import Raced
from lwgraph.optimizer.request import Request
from lwgraph.plan.plan import Plan, Precision
from lwgraph.plan.search.front import Candidate, Front
from lwgraph.report import Check
from lwgraph.rewrite.base import Context

BASE = 100.0
CLEAN: Any = "clean"


class Fake:
    """A maker and a judge: plan i takes 10 (i + 1) ms and scores `scores[i]`; models are their numbers or names.

    Args:
        scores: by number, and by name of stated plans.
        measured: milliseconds where they are others.
        stated: whether the user promised the metric.
    """

    def __init__(
        self,
        scores: Sequence[float],
        measured: Mapping[Any, float] | None = None,
        others: Mapping[str, float] | None = None,
        *,
        stated: bool = False,
    ) -> None:
        self.scores = {**dict(enumerate(scores)), **(others or {})}
        self.measured, self.stated = measured or {}, stated
        self.looks, self.floor, self.base = 0, 0.9, Score(1.0)
        self.context = Context(failures=Failures())
        self.refused: set[Any] = set()  # models that fail their proof

    def make(self, candidate: Candidate) -> Made:
        """Carries out a plan."""
        if candidate.stated:
            assert candidate.plan is not None
            name: Any = candidate.plan.precision.passes[0]
            return Made(candidate, name)
        number: Any = candidate.choice[0]
        return Made(replace(candidate, plan=Plan({}, f"plan {number}")), number)

    def score(self, model: Any) -> Score:
        """Judges."""
        self.looks += 1
        return Score(self.scores[model])

    def raced(self, model: Any) -> Raced:
        """Judges on all samples."""
        return Raced(self.score(model))

    def expected(self, score: Score) -> float:
        """Of numbers there are no margins."""
        return score.value

    def verdict(self, score: Score, confidence: float) -> Verdict:
        """On a loss of 0.1, of as many disagreements among 1,000 as the score says."""
        return judge(Disagreements(round(1000 * (1 - score.value)), 1000), 0.1, confidence=confidence)

    def milliseconds(self, model: Any) -> float:
        """Times."""
        return self.measured[model] if model in self.measured else 10.0 * (model + 1)

    def prove(self, model: Any) -> list[Check]:
        """Checks."""
        return [Check("outputs", "ort", "rounding", model not in self.refused, "")]

    def candidates(
        self,
        request: Request | None = None,
        race: Callable[[Any], list[float]] | None = None,
        *,
        timed: bool = True,
        changes: Callable[[Any], bool] = lambda model: True,
    ) -> Candidates:
        """What looks at them."""
        itself: Any = self
        return Candidates(
            request or Request(),
            itself,
            Incumbent(CLEAN),
            make=self.make,
            prove=self.prove,
            milliseconds=self.milliseconds if timed else None,
            race=race,
            base=Candidate((), BASE, 0.0, bytes=10_000, macs=10_000),
            context=self.context,
            changes=changes,
        )


def front(count: int) -> Front:
    """The faster, the lossier."""
    rows = [Candidate((i,), 10.0 * (i + 1), 0.0, loss=1 / (i + 1), bytes=1000 * (i + 1)) for i in range(count)]
    return Front(BASE, rows)


def quantized(*names: str) -> list[Candidate]:
    """Stated plans without forms."""
    plans = [Plan({}, "t", precision=Precision((name,))) for name in names]
    return [Candidate((9,), 25.0, 0.1, "quantized", plan=plan, stated=True) for plan in plans]
