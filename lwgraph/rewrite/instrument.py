"""The base of instruments, which run before and after each pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lwgraph import ir
from lwgraph.errors import LwgraphError
from lwgraph.rewrite.base import Context, Pass


@dataclass(frozen=True)
class Step:
    """One pass that ran: how many rewrites it did, how long it took, and, when it was undone, why."""

    index: int
    spec: Pass
    count: int
    seconds: float
    dropped: str = ""


class Instrument:
    """Sees the model before and after each pass. It must not change the model."""

    def begin(self, model: ir.Model, pipeline: Iterable[Pass], context: Context) -> None:
        """Once, before the first pass."""

    def before(self, p: Pass, model: ir.Model, context: Context) -> None:
        """Called before each pass."""

    def after(self, step: Step, model: ir.Model, context: Context) -> None:
        """Called after each pass; raise CheckError to reject its result."""

    def failed(self, p: Pass, error: LwgraphError, context: Context) -> str:
        """A pass failed or was rejected; what is returned is added to the message."""
        return ""

    def end(self, model: ir.Model, context: Context) -> None:
        """Once, after the last pass."""


__all__ = ["Instrument", "Step"]
