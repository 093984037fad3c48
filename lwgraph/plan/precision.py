"""Integers in a plan: the pass that puts a network into them, asked for by name, and which layers stay in floats."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from lwgraph import ir, registry
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor, Feeds
from lwgraph.layers.site import Site
from lwgraph.layers.substitute import Build, small_model
from lwgraph.rewrite.base import Context, Pass

FLOAT, INT8 = "float", "int8"
PASS = "quantize"
# The plan says what stays in floats, the pass does not choose for itself; and weights are rounded one by one, because
# rounding them by second moments takes a minute and more for each plan of a large network.
EXACTLY: dict[str, Any] = {"keep": "none", "rounding": "nearest"}
QUICK: dict[str, Any] = {**EXACTLY, "calibration_method": "minmax", "equalize": False}
BLANK: dict[str, Any] = {**QUICK, "bias_correction": False}


def available() -> bool:
    """Whether a pass that quantizes is installed."""
    return PASS in registry.names("passes")


def make_pass(**options: Any) -> Pass:
    """The quantizing pass. Options that the installed pass lacks are left out."""
    made = registry.pass_class(PASS)
    known = {f.name for f in dataclasses.fields(made)}
    return made(**{key: value for key, value in options.items() if key in known})


def spelling(*, quick: bool = False) -> str:
    """The pass as a plan names it. `quick`: the simplest ranges only, for comparing plans."""
    return str(make_pass(**(QUICK if quick else EXACTLY)))


def small_integer_model(
    site: Site,
    build: Build,
    shape: Sequence[int],
    calibration: Feeds,
    opset: int,
    executor: Executor,
    floats: Sequence[int] = (),
) -> ir.Model | None:
    """As `small_model`, in integers and for inputs of `shape`; None where the target has no integer kernel for it.

    The ranges come from `calibration`, which may be much smaller than `shape`: time does not depend on them. The nodes
    numbered in `floats` stay as they are.
    """
    model = small_model(site, build, [None if axis > 1 and site.kernel else d for axis, d in enumerate(shape)], opset)
    for index, node in enumerate(model.graph):
        node.name = f"n{index}"
    kept = tuple(f"n{index}" for index in floats)
    try:
        if not make_pass(**BLANK, nodes_to_exclude=kept).run(model, Context(executor, data=[calibration])):
            return None
    except LwgraphError:
        return None
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    model.graph.inputs[0].shape = ir.Shape(shape)
    return model


__all__ = ["FLOAT", "INT8", "PASS", "available", "make_pass", "small_integer_model", "spelling"]
