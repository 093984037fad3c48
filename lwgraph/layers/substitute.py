"""Puts a fitted form in the place of its layer; proves first, on a small model, that its nodes compute the fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lwgraph import ir
from lwgraph.contract import Contract
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor
from lwgraph.layers.emit import Emitter
from lwgraph.layers.form import Fitted
from lwgraph.layers.site import Site
from lwgraph.measure.compare import compare
from lwgraph.rewrite.provenance import mark

Build = Callable[[Emitter, ir.Value], ir.Value]


def dense(fitted: Fitted) -> Build:
    """Builds the layer that `fitted` claims to equal: mostly, one dense layer with the kernel `fitted.kernel`."""
    return lambda op, x: fitted.form.dense(op, x, fitted)


def original(site: Site) -> Build:
    """Builds the layer as it is."""
    return lambda op, x: op.stage(x, site.stored, "original", bias=site.bias, group=site.group)


def formed(fitted: Fitted) -> Build:
    """Builds the form."""
    return lambda op, x: fitted.form.emit(op, x, fitted)


def small_model(site: Site, build: Build, shape: Sequence[int | None], opset: int) -> ir.Model:
    """A model of input "x" with `shape` (None: dynamic) and output "y", which is what `build` makes of x."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.from_numpy(site.dtype)), shape=ir.Shape(shape))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": opset}, name="small")
    op = Emitter(site, graph)
    y = build(op, x)
    y = op.Identity(x) if y is x else y
    graph.extend(op.nodes)
    y.name = "y"
    y.type = ir.TensorType(ir.DataType.from_numpy(site.dtype))
    graph.outputs.append(y)
    return ir.Model(graph, ir_version=10)


def small_input(site: Site, seed: int = 0, *, batch: int = 2) -> np.ndarray[tuple[int, ...], np.dtype[np.floating]]:
    """Random input of the layer, just large enough that every tap, stride phase and edge matters."""
    random = np.random.default_rng(seed)
    reach = [(k - 1) * d + 1 for k, d in zip(site.kernel, site.dilations, strict=True)]
    known = site.input_shape[2:] if site.input_shape is not None and site.kernel else (None,) * len(reach)
    spatial = []
    for r, s, size in zip(reach, site.strides, known, strict=True):
        wanted = r + 2 * s + 1 if site.kind == "conv" else 5
        spatial.append(wanted if size is None else min(size, wanted + (size - wanted) % s))
    shape = (batch, site.inputs, *spatial)
    return random.standard_normal(shape).astype(site.dtype)


def difference(fitted: Fitted, reference: Executor, opset: int, seed: int = 0) -> str:
    """Describe how the emitted nodes differ from the dense equivalent on a random input in `reference`; "" if equal."""
    feeds = {"x": small_input(fitted.site, seed)}
    results = []
    try:
        for build in (dense(fitted), formed(fitted)):
            model = small_model(fitted.site, build, feeds["x"].shape, opset)
            results.append(reference.prepare(model)(feeds))
    except LwgraphError as error:
        return f"the emitted nodes do not run: {error}"
    compared = compare(results[0], results[1], Contract.ROUNDING)
    return "" if compared.ok else f"the emitted nodes are not the fitted layer: {compared.first_failure}"


def substitute(fitted: Fitted, shared: dict[str, ir.Value] | None = None) -> None:
    """Replace the layer by the form, in place. The output keeps its name: recovery finds what to imitate by it.

    Args:
        fitted: what to put there; its site must still be in its graph.
        shared: constants of the layers with the same weight that were replaced before; see `Emitter`.
    """
    site = fitted.site
    result, last = _insert(fitted, shared), site.nodes[-1]
    old, name = site.output, site.output.name
    ir.replace_uses(old, result)
    ir.sweep([last])
    if result.name != name and not result.is_graph_output() and last.graph is None:  # the old value is gone
        result.name = name


def put_beside(fitted: Fitted) -> None:
    """Let the form compute beside the layer, in place, under the names that its inner values have when it stands
    alone; what it gives is one more output of the graph.

    Args:
        fitted: what to put there; its site must be in the main graph.
    """
    graph, result = fitted.site.graph, _insert(fitted, None)
    assert isinstance(graph, ir.Graph)
    graph.outputs.append(result)


def _insert(fitted: Fitted, shared: dict[str, ir.Value] | None) -> ir.Value:
    """Put the form's nodes before the last one of the layer; what they give."""
    site = fitted.site
    op = Emitter(site, site.graph, shared)
    result = fitted.form.emit(op, site.input, fitted)
    stem = site.node.name or site.node.op_type
    for node in op.nodes:
        node.name = ir.fresh_name(site.graph, f"{stem}_{fitted.form.name}")
        mark(node, str(fitted.form), site.name)
        for output in node.outputs:
            output.name = ir.fresh_name(site.graph, f"{site.output.name}_{fitted.form.name}")
            output.type = _type(node, ir.DataType.from_numpy(site.dtype))
    result.shape = site.output.shape
    site.graph.insert_before(site.nodes[-1], op.nodes)
    return result


def _type(node: ir.Node, dtype: ir.DataType) -> ir.TensorType | None:
    """The type of an emitted node's output: the layer's, but for shapes and what is cut from them."""
    if node.op_type == "Constant":
        return None
    first = node.inputs[0]
    if node.op_type == "Shape" or (first is not None and first.dtype == ir.DataType.INT64):
        dtype = ir.DataType.INT64
    return ir.TensorType(dtype)


__all__ = ["dense", "difference", "formed", "original", "small_input", "small_model", "substitute"]
