"""The roles `quantizes` and `codes-weights` (see `lwgraph.plan.roles`), played by `quantize` and `share-weights`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lwgraph import ir
from lwgraph.executor import Executor
from lwgraph.passes.quantize.judging.mixed_precision import NodeFacts
from lwgraph.passes.quantize.quantize import ORT, Quantize
from lwgraph.passes.quantize.share_weights import ShareWeights
from lwgraph.plan.roles import Survey
from lwgraph.rewrite.base import Context, Log, Pass

RANGES = ("minmax", "percentile", "mse")
# The plan says what stays in floats, the pass does not choose for itself; and weights are rounded one by one, because
# rounding them by second moments takes a minute and more for each plan of a large network.
EXACTLY = Quantize(keep="none", rounding="nearest")


class PlanQuantizer:
    """`quantize` as plans need it."""

    ranges: Sequence[str] = RANGES

    def judged(self) -> Quantize:
        """The pass with all its own judgement."""
        return Quantize()

    def exactly(self, ranges: str = "", even: bool | None = None) -> Quantize:
        """All in integers that has a kernel; see `Quantizes.exactly`."""
        return _with(EXACTLY, ranges, even)

    def quick(self, ranges: str = "") -> Quantize:
        """The simplest ranges, and channels as they are; see `Quantizes.quick`."""
        return _with(EXACTLY, ranges or RANGES[0], False)

    def blank(self) -> Quantize:
        """`quick` without corrected biases; see `Quantizes.blank`."""
        return replace(self.quick(), bias_correction=False)

    def blank_for(self, executor: Executor) -> Quantize:
        """`blank` with its rules stated; see `QuantizesElsewhere.blank_for`."""
        return replace(self.blank(), target=self.blank().rules(executor).name)

    def dynamic(self) -> Quantize:
        """Grids taken as the model runs; see `QuantizesDynamically.dynamic`."""
        return Quantize(activations="dynamic", keep="none")

    def running(self, static: Pass, nodes: Sequence[str]) -> Pass | None:
        """See `QuantizesDynamically.running`."""
        if not isinstance(static, Quantize) or static.activations == "dynamic":
            return None
        return replace(static, dynamic_nodes=(*static.dynamic_nodes, *nodes))

    def gaining(self, model: ir.Model, context: Context) -> Sequence[str] | None:
        """What is timed of layers alone; see `QuantizesDynamically.gaining`."""
        if not Quantize().rules(context.executor).name.startswith(ORT):
            return None
        tried = context.beside(log=Log())
        if not Quantize(activations="dynamic").gains(ir.clone(model), tried):
            return None
        left = {skip.place for skip in tried.skipped}
        return [node.name for node in model.graph if node.name and node.name in left]

    def survey(self, model: ir.Model, context: Context) -> Survey:
        """What `Quantize.weighed` measured, of weights that are rounded as in plans; see `Quantizes.survey`."""
        found = replace(self.judged(), rounding=EXACTLY.rounding).weighed(model, context)
        if found is None:
            return Survey()
        damage = {n.name: float(n.damage) for n in found.nodes if n.damage is not None and math.isfinite(n.damage)}
        named = {node.name for node in model.graph}
        mixes = (replace(mix, kept=tuple(name for name in mix.kept if name in named)) for mix in found.mixes)
        return Survey(
            damage,
            tuple(n.name for n in found.nodes if n.reason and n.name in named),
            _slower(found.nodes),
            found.even,
            found.method,
            tuple(mixes),
        )


class WeightCoder:
    """Weights as codes, as plans need them: codebooks, whose levels lie where the weights do."""

    bits: Sequence[int] = (8, 6, 5, 4, 3, 2)

    def coded(self, bits: int, spared: Sequence[str] = ()) -> ShareWeights:
        """See `CodesWeights.coded`."""
        return ShareWeights(bits=bits, ignored_scope=tuple(spared))

    def mixed(self, bits: Mapping[str, int], others: int) -> ShareWeights:
        """See `CodesLayers.mixed`."""
        return ShareWeights(bits=others, layer_bits=tuple((name, n) for name, n in bits.items() if n != others))


def _with(p: Quantize, ranges: str, even: bool | None) -> Quantize:
    told: dict[str, Any] = {"calibration_method": ranges or p.calibration_method}
    return replace(p, **told, equalize=p.equalize if even is None else even)


def _slower(nodes: Sequence[NodeFacts]) -> float:
    """What nodes that stay in float take longer in integers, as a share of what all take in integers."""
    times = [(n.integer_ms, n.float_ms, n.reason) for n in nodes if n.integer_ms is not None and n.float_ms is not None]
    lost = sum(max(integer - floats, 0.0) for integer, floats, reason in times if reason)
    return float(lost / max(sum(integer for integer, _, _ in times), 1e-12))


__all__ = ["PlanQuantizer", "WeightCoder"]
