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
    result, and with everything in integers), "float_ms", "ms", and "failed": why a part is missing, or "".
    """
    built, failed = mixed.built, ""
    source = original if built is None or built.source is None else built.source
    pairs = {} if built is None else {n: (built.integers[n], g) for n, g in built.grids.items() if n in built.integers}
    layers = [LayerFacts(n.name or "", n.op_type, "float") for n in source.graph if ir.operator(n) in LAYERS]
    found = Damage(0, {}, layers, [])
    if built is not None or mixed.running:
        try:
            found = measure(source, mixed.model, feeds, executor, pairs, seed=seed)
        except Exception as error:  # what is told of a result must not take it away, whatever goes wrong
            failed = f"The damage was not measured: {type(error).__name__}: {error}"
    integers = {*mixed.running, *(built.compute if built is not None and failed else ())}
    for layer in found.layers:
        if layer.name in integers:
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
        "failed": failed,
    }


__all__ = ["describe"]
