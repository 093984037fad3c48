"""Finds the single rewrite that breaks a model: stops after N rewrites, and searches for the smallest N that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lwgraph import ir
from lwgraph.errors import CheckError
from lwgraph.rewrite.base import Context, Pass
from lwgraph.rewrite.instrument import Instrument
from lwgraph.rewrite.pipeline import Pipeline


class BisectLimit(Instrument):
    """Lets the pipeline do `limit` rewrites and no more. A pass that is all of a piece counts as one."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def begin(self, model: ir.Model, pipeline: Iterable[Pass], context: Context) -> None:
        """Set the limit."""
        context.log.limit = context.log.rewrites + self.limit


@dataclass(frozen=True)
class Culprit:
    """The first rewrite after which the model is bad: its number (from 1), pass and place, and how many there were."""

    number: int
    total: int
    pass_name: str
    place: str

    def __str__(self) -> str:
        return f"rewrite {self.number} of {self.total}: pass '{self.pass_name}' at '{self.place}'"


def find_culprit(
    model: ir.Model,
    pipeline: Pipeline,
    good: Callable[[ir.Model], bool],
    new_context: Callable[[], Context] = Context,
) -> Culprit | None:
    """The rewrite that turns a good model into a bad one, or None when the whole pipeline leaves it good.

    `good` judges a rewritten copy of `model`; a pipeline that raises counts as bad. About log2(rewrites) runs. When the
    property is lost and regained on the way, one of the places where it is lost is found.

    Raises:
        CheckError: the model is bad before any rewrite.
    """

    def attempt(limit: int | None) -> tuple[bool, Context]:
        copy, context = ir.clone(model), new_context()
        context.log.limit = limit
        try:
            pipeline.rewrite(copy, context)
        except CheckError:
            return False, context
        return good(copy), context

    fine, context = attempt(None)
    if fine:
        return None
    total = context.log.rewrites
    if not attempt(0)[0]:
        raise CheckError("the model is bad before any rewrite, so no rewrite is to blame")
    low, high = 0, total  # good after `low` rewrites, bad after `high`
    while high - low > 1:
        middle = (low + high) // 2
        if attempt(middle)[0]:
            low = middle
        else:
            high = middle
    _, context = attempt(high)
    pass_name, place = context.log.last or ("", "")
    return Culprit(high, total, pass_name, place)
