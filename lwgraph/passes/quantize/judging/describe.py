"""Describes the work of `quantize` for the report: `details["quantization"]`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lwgraph import ir
from lwgraph.executor import Executor, Feeds
from lwgraph.passes.quantize.judging.damage import LAYERS, Damage, LayerFacts, measure
from lwgraph.passes.quantize.judging.mixed_precision import Mixed


def describe(
    original: ir.Model, mixed: Mixed, feeds: Sequence[Feeds], executor: Executor, seed: int = 0
) -> dict[str, Any]:
    """Every tensor and layer of a quantized model against the float one, with what the search measured, as plain data.

    The keys are those of `damage.Damage` and "loss", "integer_loss" (relative squared errors of the outputs: of the
    result, and with everything in integers), "float_ms" and "ms".
    """
    built = mixed.built
    if built is not None and built.source is not None:
        pairs = {name: (built.integers[name], grid) for name, grid in built.grids.items() if name in built.integers}
        found = measure(built.source, mixed.model, feeds, executor, pairs, seed=seed)
    elif mixed.loops:
        found = measure(original, mixed.model, feeds, executor, {}, seed=seed)
    else:
        found = Damage(
            0,
            {},
            [LayerFacts(n.name or "", n.op_type, "float") for n in original.graph if ir.operator(n) in LAYERS],
            [],
        )
    for layer in found.layers:
        if layer.name in mixed.loops:
            layer.precision = "integer"
    facts = {node.name: node for node in mixed.nodes}
    for layer in found.layers:
        layer.reason = mixed.kept.get(layer.name, "") if layer.precision == "float" else ""
        known = facts.get(layer.name)
        if known is None:
            continue
        layer.float_ms, layer.integer_ms = known.float_ms, known.integer_ms
        if known.damage is not None and known.damage > 0:
            layer.output = -10 * math.log10(known.damage)
    return {
        **found.to_dict(),
        "loss": mixed.loss,
        "integer_loss": mixed.integer_loss,
        "float_ms": mixed.float_ms,
        "ms": mixed.ms,
    }


__all__ = ["describe"]
