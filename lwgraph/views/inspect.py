"""What is in a model and what it costs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from lwgraph import ir, registry
from lwgraph.arrays import Shapes
from lwgraph.calibrate import generate
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.errors import LwgraphError
from lwgraph.layers.site import Site, find_sites
from lwgraph.measure.work import count
from lwgraph.text import type_text


def sizes(model: ir.Model) -> tuple[Shapes, str]:
    """The sizes of the layers' values in a run on a generated sample; none, and why, for a model that cannot run."""
    try:
        executor = registry.executor("ort")
        return layer_shapes(model, generate(model, 1, executor=executor)[0], executor), ""
    except LwgraphError as error:
        return {}, str(error)


def facts(model: ir.Model, shapes: Shapes | None = None) -> dict[str, Any]:
    """Inputs and outputs, operators, size, and each dense layer with its work, as plain data for JSON.

    Args:
        model: not changed.
        shapes: sizes by value name where the file leaves them open, as `sizes` measures them.
    """
    counts = count(model, shapes)
    operators = Counter(node.op_type for scope in ir.scopes(model) for node in scope)
    return {
        "ir_version": model.ir_version,
        "opsets": dict(model.opset_imports),
        "producer": model.producer_name or "",
        "inputs": {str(v.name): type_text(v) for v in model.graph.inputs},
        "outputs": {str(v.name): type_text(v) for v in model.graph.outputs},
        "nodes": counts.nodes,
        "parameters": counts.parameters,
        "bytes": ir.size(model),
        "macs": counts.macs,
        "operators": dict(operators.most_common()),
        "layers": [_layer(site) for site in find_sites(model, shapes)],
        "metadata": dict(model.metadata_props),
    }


def _layer(site: Site) -> dict[str, Any]:
    return {
        "name": site.name,
        "operator": site.node.op_type,
        "shape": list(site.shape),
        "group": site.group,
        "macs": site.macs(),
        "parameters": int(site.weight.size),
    }


__all__ = ["facts", "sizes"]
