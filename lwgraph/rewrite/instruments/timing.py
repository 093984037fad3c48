"""Times each pass."""

from __future__ import annotations

from lwgraph import ir
from lwgraph.rewrite.base import Context
from lwgraph.rewrite.instrument import Instrument, Step


class PassTimer(Instrument):
    """Collects every step; other instruments' time is not in it."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def after(self, step: Step, model: ir.Model, context: Context) -> None:
        """Keep the step."""
        self.steps.append(step)

    @property
    def seconds(self) -> float:
        """The time of all passes together."""
        return sum(step.seconds for step in self.steps)

    def table(self) -> list[tuple[str, int, float]]:
        """(pass, rewrites, seconds) in the order of running."""
        return [(str(step.spec), step.count, step.seconds) for step in self.steps]
