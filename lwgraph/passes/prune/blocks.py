"""prune-blocks: removes whole residual blocks and refits their neighbours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, cast

from lwgraph import ir
from lwgraph.calibrate.capture import measured_shapes
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.errors import UsageError, did_you_mean
from lwgraph.executor import Executor, Feeds
from lwgraph.measure.latency import paired_latency
from lwgraph.measure.work import count, node_macs
from lwgraph.passes.clean.constants_to_initializers import ConstantsToInitializers
from lwgraph.passes.prune.assessment import matches
from lwgraph.passes.prune.bypass import bypass, neighbours
from lwgraph.plan.refit.sequential import refit as refit_layers
from lwgraph.plan.roles import Removal
from lwgraph.rewrite.base import Context, Contract, Pass
from lwgraph.views.residual import Residual, find_residuals

FASTER = 0.995  # without a block a model must take less than this share of its time
AGAIN = 3  # remaining blocks that are measured again after each removal
SECONDS = 0.2  # seconds of timing per model


@dataclass(frozen=True, eq=False)
class ReducedModel:
    """A model without some blocks.

    Attributes:
        model: the model, refitted around the removed blocks.
        error: ||Y - Yhat||^2 / ||Y - mean Y||^2 at the outputs, on held-out samples.
        share: of the original's running time.
    """

    model: ir.Model
    error: float
    share: float

    def cost_over(self, now: ReducedModel) -> float:
        """The error that it adds to that of `now`, per share of the running time that it saves beyond `now`."""
        return (self.error - now.error) / max(now.share - self.share, 1e-9)


@dataclass(frozen=True)
class PruneBlocks(Pass):
    """Remove the residual blocks that cost least accuracy per millisecond saved, and refit the layers around them.

    Without the branch f of y = x + f(x), the layer before is refitted to give y, and the layers behind to give what
    they gave, in closed form (the adaptors of Wang and Wu 2023, "Practical Network Acceleration with Tiny Sets",
    arXiv 2202.07861, absorbed at once: least squares instead of their training). Blocks are judged by the error at the
    outputs on held-out samples after that, per millisecond saved as the target measures it.
    """

    name: ClassVar[str] = "prune-blocks"
    contract: ClassVar[Contract] = Contract.APPROXIMATE

    ratio: Annotated[float, "share of the running time to remove"] = 0.15
    most_error: Annotated[float, "largest relative error at the outputs, on held-out samples, that may result"] = 0.1
    blocks: Annotated[str, "instead, the blocks to remove: globs or re:expressions over their sums' names"] = ""
    samples: Annotated[int, "calibration samples with which blocks are judged, at most"] = 64
    only: Annotated[str, "blocks to consider: globs or re:expressions over names of sums and layers, by comma"] = ""
    ignore: Annotated[str, "blocks to leave alone, in the same way"] = ""

    def __post_init__(self) -> None:
        """Check the options."""
        self.check_option("ratio", 0 <= self.ratio < 1, self.ratio, "from 0 to below 1")
        self.check_option("most_error", self.most_error > 0, self.most_error, "above 0")
        self.check_option("samples", self.samples >= 2, self.samples, "2 or more")

    def run(self, model: ir.Model, context: Context) -> int:
        """Remove blocks in place; how many."""
        self._needs(context)
        ConstantsToInitializers().run(model, Context())
        original = ir.clone(model)
        found = {block.name: block for block in self._find(model, context)}
        if self.blocks:
            gone = [name for name, block in found.items() if matches(self.blocks, [name])]
            if not gone:
                raise UsageError(
                    f"option 'blocks' is '{self.blocks}', which matches no residual block; "
                    f"the model has: {', '.join(found) or 'none'}"
                )
            gone = self._remove_all(model, original, gone, context)
        else:
            gone = self._search(model, original, list(found), context)
        if gone:
            refit_layers(original, model, context, scope="all", name=self.name)
        return len(gone)

    def options(self, model: ir.Model, context: Context) -> list[Removal]:
        """See `lwgraph.plan.roles.Removes`; the error is that at the outputs, on held-out samples."""
        executor, data = self._needs(context)
        key = (self, context.statistics, ir.fingerprint(model))
        if key not in context.memory:
            original = ir.clone(model)
            ConstantsToInitializers().run(original, Context())
            shapes = layer_shapes(original, data[0], executor)
            total = count(original, shapes).macs or 0
            found: list[Removal] = []
            blocks = self._find(original, context)
            for done, block in enumerate(blocks):
                context.progress("judging blocks", done, len(blocks))
                copy = ir.clone(original)
                error = self._remove(copy, original, block.name, context, self.samples)
                less = sum(node_macs(node, shapes) or 0 for node in block.branch)
                names = tuple(node.name or str(node.outputs[0].name) for node in block.branch)
                found.append(Removal(block.name, 0, 1, total - less, error, names, (0.0,) * len(names)))
            context.memory[key] = tuple(found)
        return list(cast("tuple[Removal, ...]", context.memory[key]))

    def apply(self, model: ir.Model, kept: Mapping[str, int], context: Context, *, refit: bool = False) -> int:
        """See `lwgraph.plan.roles.Removes`. Without data, neighbours stay as they are; a warning says so."""
        ConstantsToInitializers().run(model, Context())
        original = ir.clone(model)
        known = {block.name for block in find_residuals(model)[0]}
        for name, size in kept.items():
            if name not in known:
                raise UsageError(f"the model has no residual block '{name}'{did_you_mean(name, known)}")
            if size not in (0, 1):
                raise UsageError(f"block '{name}' cannot keep {size}; allowed: 0 (remove) or 1 (keep)")
        gone = self._remove_all(model, original, [name for name, size in kept.items() if not size], context)
        if gone and not (context.data and context.executor):
            context.warn(f"{self.name}: no calibration data; nothing compensates for the blocks that were removed")
        elif gone and refit:
            refit_layers(original, model, context, scope="all", name=self.name)
        return len(gone)

    def judging(self, samples: int) -> PruneBlocks:
        """See `lwgraph.plan.roles.RemovesBlocks`."""
        return replace(self, samples=samples)

    def _needs(self, context: Context) -> tuple[Executor, Sequence[Feeds]]:
        if not context.data:
            raise UsageError(f"pass '{self.name}' needs calibration samples; give --data")
        return context.executor or context.evaluator(), context.data

    def _find(self, model: ir.Model, context: Context) -> list[Residual]:
        """The blocks that may go, one for each sum: the larger branch."""
        blocks, refused = find_residuals(model)
        for each in refused:
            context.skip(self.name, each.place, each.reason)
        if not blocks and not refused:
            context.skip(
                self.name, model.graph.name or "model", "the model has no sum of two branches, and so no residual block"
            )
        found: dict[str, Residual] = {}
        repeated = self._repeated(model, blocks, context)
        for block in blocks:
            names = [block.name, *(name for node in block.branch for name in (node.name or "", node.op_type))]
            reason = ""
            if block.name in found:
                continue
            if block.name in repeated:
                reason = "one of its terms is repeated along an axis"
            elif not any(node_macs(node, {}) != 0 for node in block.branch):
                reason = "its branch multiplies nothing"
            elif self.only and not matches(self.only, names):
                reason = f"not among only={self.only}"
            elif self.ignore and matches(self.ignore, names):
                reason = f"among ignore={self.ignore}"
            if reason:
                context.skip(self.name, block.name, reason)
            else:
                found[block.name] = block
        return list(found.values())

    def _repeated(self, model: ir.Model, blocks: Sequence[Residual], context: Context) -> set[str]:
        """The blocks whose terms have other shapes than their sum; a run tells what shape inference leaves open."""
        executor, data = self._needs(context)
        sums = {block.name: [*block.add.inputs, block.add.outputs[0]] for block in blocks}
        names = [value.name for values in sums.values() for value in values if value is not None and value.name]
        sizes = measured_shapes(model, names, data[0], executor)
        return {
            name
            for name, values in sums.items()
            if len({sizes[value.name or ""] for value in values if value is not None}) > 1
        }

    def _remove(self, model: ir.Model, original: ir.Model, name: str, context: Context, samples: int = 256) -> float:
        """Remove one block in place and refit its neighbours; the held-out error at the outputs (nan without data)."""
        block = next(block for block in find_residuals(model)[0] if block.name == name)
        left = bypass(model, block)
        if not context.data or context.executor is None:
            return math.nan
        quiet = Context(executor=context.executor, data=context.data, seed=context.seed, reference=context.reference)
        report = refit_layers(
            original, model, quiet, scope="all", only=neighbours(model, left), samples=samples, name=self.name
        )
        return report.after if math.isfinite(report.after) else math.inf

    def _search(self, model: ir.Model, original: ir.Model, names: list[str], context: Context) -> list[str]:
        """Remove the best block, again and again, until enough time is saved; the names of those removed."""
        left, now = list(names), ReducedModel(model, 0.0, 1.0)
        gone: list[str] = []
        while left and 1 - now.share < self.ratio:
            trials = self._try(model, original, left[:AGAIN] if gone else left, context)
            for name, trial in trials.items():
                reason = ""
                if trial.share >= FASTER * now.share:
                    reason = f"without it a run takes {trial.share / now.share:.3f} of its time"
                elif trial.error > self.most_error:
                    reason = f"without it the outputs err by {trial.error:.3g}; most_error is {self.most_error:g}"
                if reason:
                    context.skip(self.name, name, reason)
                    left.remove(name)
            good = [name for name in left if name in trials]
            if not good:
                continue
            if not gone:  # after the first removal, only the first few are measured
                left.sort(key=lambda name: trials[name].cost_over(now))
            best = min(good, key=lambda name: trials[name].cost_over(now))
            now = trials[best]
            ir.replace_contents(model, now.model)
            left.remove(best)
            gone.append(best)
            left = self._left(model, left, context)
        return gone

    def _remove_all(self, model: ir.Model, original: ir.Model, names: Sequence[str], context: Context) -> list[str]:
        """Remove blocks in place, one after another; the names of those that were there when their turn came."""
        gone = []
        for name in names:
            if self._left(model, [name], context):
                self._remove(model, original, name, context)
                gone.append(name)
        return gone

    def _left(self, model: ir.Model, names: Sequence[str], context: Context) -> list[str]:
        """Those of the blocks that are still there: others may have been part of a branch that was removed."""
        there = {block.name for block in find_residuals(model)[0]}
        for name in names:
            if name not in there:
                context.skip(self.name, name, "it went, or ceased to be a block, with another that was removed")
        return [name for name in names if name in there]

    def _try(
        self, model: ir.Model, original: ir.Model, names: Sequence[str], context: Context
    ) -> dict[str, ReducedModel]:
        """The model without each of some blocks, refitted around it, timed in turn with the original."""
        executor, data = self._needs(context)
        copies, errors = {}, {}
        for done, name in enumerate(names):
            context.progress("judging blocks", done, len(names))
            copies[name] = ir.clone(model)
            errors[name] = self._remove(copies[name], original, name, context, self.samples)
        runs = {"": executor.prepare(original)} | {name: executor.prepare(copy) for name, copy in copies.items()}
        context.progress("measuring blocks", 0, 0)
        timed = paired_latency(runs, [next(iter(data))], threads=context.threads, seconds=SECONDS * len(runs))
        return {name: ReducedModel(copies[name], errors[name], 1 / timed.speedup(name).ratio) for name in names}
