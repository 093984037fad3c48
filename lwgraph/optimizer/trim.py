"""Passes that were asked for, run so that the file does not get larger than it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from lwgraph import ir
from lwgraph.contract import Contract
from lwgraph.optimizer.annotations import drop_annotations, make_lean
from lwgraph.rewrite import Context, Pipeline
from lwgraph.rewrite.instrument import Instrument, Step

Ran = tuple[ir.Model, list[Step]]


class Growth(Instrument):
    """By how many bytes each pass, in all its rounds, made the model larger, without what it says about itself.

    Args:
        original: the model before all of them.
    """

    def __init__(self, original: ir.Model) -> None:
        self._original, self._before = original, ir.size(original)
        self.bytes: Counter[str] = Counter()  # by the pass's spelling

    def after(self, step: Step, model: ir.Model, context: Context) -> None:
        """Take the size."""
        if step.count:
            bare = ir.clone(model)
            drop_annotations(bare, self._original)
            size = ir.size(bare)
            self.bytes[str(step.spec)] += size - self._before
            self._before = size


def run_trimmed(
    pipeline: Pipeline, original: ir.Model, limit: int, context: Context, run: Callable[[Pipeline, Growth], Ran]
) -> tuple[Pipeline, Ran]:
    """Run passes; where the model gets larger than it was, again without those that made it so and keep the outputs.

    Such passes copy what is shared or compute what was stored in short, for others that come after them; where the
    file grew all the same, these found nothing. What approximate passes add was asked for, and is told.

    Args:
        pipeline: the passes.
        original: the input.
        limit: bytes of its files.
        context: is told what was left out, and who made the model larger.
        run: runs passes on a copy of the input.

    Returns:
        the passes that stand, and what they did.
    """
    approximate = any(p.contract is Contract.APPROXIMATE for p in pipeline)
    while True:
        growth = Growth(original)
        model, steps = run(pipeline, growth)
        make_lean(model, original, limit)
        grown = [(more, p) for p, more in growth.bytes.items() if more > 0]
        if ir.size(model) <= limit or not grown:
            return pipeline, (model, steps)
        more, worst = max(grown, key=lambda each: each[0])
        if approximate:
            context.warn(f"{worst} made the file {more:,} bytes larger; it is kept, since it was asked for")
            return pipeline, (model, steps)
        context.warn(f"{worst} was left out: it made the file {more:,} bytes larger, and nothing made up for that")
        pipeline = Pipeline(p for p in pipeline if str(p) != worst)


__all__ = ["Growth", "run_trimmed"]
