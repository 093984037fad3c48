"""What the targets of one optimization have in common: found out for the first of them, read by those after it."""

from __future__ import annotations

from dataclasses import dataclass, field

from lwgraph import ir
from lwgraph.calibrate import Statistics
from lwgraph.optimizer.cleaned import Cleaned
from lwgraph.optimizer.inputs import Inputs
from lwgraph.optimizer.judge import Judge
from lwgraph.optimizer.last_look import LastLook
from lwgraph.rewrite import Context


@dataclass(eq=False)
class Shared:
    """Each part is None, or empty, before it is known.

    Losses are against the original in the types of its graph, statistics and fits are of it in these types, too, and
    rewrites that keep the outputs do so in every runtime. What is proved and timed is of one target alone.

    Attributes:
        original: the input model.
        dropped: recorded sizes that were wrong, in words.
        gathered: the inputs, before a budget left any out.
        judge, last: of the first target, with the scores and outputs of the original.
        cleaned: the model after the default passes; never changed.
        told: refusals and warnings of these passes, as of a context.
        statistics: by the fingerprint of the model that they are of.
        memory: see `lwgraph.rewrite.base.Log`.
    """

    original: ir.Model | None = None
    dropped: str = ""
    gathered: Inputs | None = None
    judge: Judge | None = None
    last: LastLook | None = None
    cleaned: Cleaned | None = None
    told: Context = field(default_factory=Context)
    statistics: dict[str, Statistics] = field(default_factory=dict)
    memory: dict[object, object] = field(default_factory=dict)

    def statistics_of(self, model: ir.Model, context: Context) -> Statistics:
        """Those of a model on the data; what they collect from now on is told to this context's watcher."""
        key = ir.fingerprint(model)
        if key not in self.statistics:
            self.statistics[key] = context.statistics_of(model)
        self.statistics[key].progress = context.progress
        return self.statistics[key]

    def keep_cleaned(self, cleaned: Cleaned, context: Context) -> None:
        """Remember a cleaned model, which the run itself goes on to change."""
        self.cleaned = cleaned.copy()
        for each in context.skipped:
            self.told.skip(each.pass_name, each.place, each.reason)
        for message in context.warnings:
            self.told.warn(message)

    def tell_cleaned(self, context: Context) -> Cleaned | None:
        """The cleaned model, to go on from, and what its passes told; None where it is not known."""
        if self.cleaned is None:
            return None
        for each in self.told.skipped:
            context.skip(each.pass_name, each.place, each.reason)
        for message in self.told.warnings:
            context.warn(message)
        return self.cleaned.copy()


__all__ = ["Shared"]
