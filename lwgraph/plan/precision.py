"""Integers in a plan: the pass that puts a network into them, asked for by name, and which layers stay in floats."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from lwgraph import ir, registry
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor, Feeds
from lwgraph.plan.site import Site, find_sites
from lwgraph.plan.substitute import FROM_KEY, Build, small_model
from lwgraph.rewrite.base import Context, Pass

FLOAT, INT8 = "float", "int8"
PASS = "quantize"
QUICK: dict[str, Any] = {"calibration_method": "minmax", "equalize": False}
BLANK: dict[str, Any] = {**QUICK, "bias_correction": False}


def available() -> bool:
    """Whether a pass that quantizes is installed."""
    return PASS in registry.names("passes")


def make_pass(keep_float: Collection[str] = (), **options: Any) -> Pass:
    """The quantizing pass that leaves the named nodes alone. Options that the installed pass lacks are left out."""
    made = registry.pass_class(PASS)
    known = {f.name for f in dataclasses.fields(made)}
    wanted = {**options, "nodes_to_exclude": tuple(sorted(keep_float))}
    return made(**{key: value for key, value in wanted.items() if key in known})


def nodes_of(model: ir.Model, sites: Collection[str]) -> list[str]:
    """Names of the nodes that compute `sites`: the layer, or everything its form put there. Unnamed nodes get names."""
    wanted = set(sites)
    layers = {id(node) for site in find_sites(model) if site.name in wanted for node in site.nodes}
    found = []
    for node in model.graph:
        if id(node) in layers or node.metadata_props.get(FROM_KEY) in wanted:
            if not node.name:
                node.name = ir.fresh_name(model.graph, node.op_type.lower())
            found.append(node.name)
    return found


def quantize(
    model: ir.Model, data: Sequence[Feeds], context: Context, float_sites: Collection[str] = (), *, quick: bool = False
) -> int:
    """Put `model` into integers, in place, all but `float_sites`; how many nodes compute in integers then.

    Args:
        model: the model, its forms in place.
        data: calibration feeds.
        context: the executor and the seed; refusals are recorded there.
        float_sites: names of the sites whose nodes stay in floats.
        quick: the simplest ranges only, for comparing plans; otherwise the pass's own defaults.
    """
    spec = make_pass(nodes_of(model, float_sites), **(QUICK if quick else {}))
    inner = dataclasses.replace(context, data=list(data), limit=None)
    if quick:
        inner = Context(context.executor, context.reference, data=list(data), seed=context.seed)
    return spec.run(model, inner)


def small_integer_model(
    site: Site, build: Build, shape: Sequence[int], calibration: Feeds, opset: int, executor: Executor
) -> ir.Model | None:
    """As `small_model`, in integers and for inputs of `shape`; None where the target has no integer kernel for it.

    The ranges come from `calibration`, which may be much smaller than `shape`: time does not depend on them.
    """
    model = small_model(site, build, [None if axis > 1 and site.kernel else d for axis, d in enumerate(shape)], opset)
    try:
        if not make_pass(**BLANK).run(model, Context(executor, data=[calibration])):
            return None
    except LwgraphError:
        return None
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    model.graph.inputs[0].shape = ir.Shape(shape)
    return model


__all__ = ["FLOAT", "INT8", "PASS", "available", "make_pass", "nodes_of", "quantize", "small_integer_model"]
