"""Products whose activations get their grid as the model runs: 8-bit integers that need no calibration.

DynamicQuantizeLinear takes the range of a whole tensor when it is there, so that only weights are put on a grid ahead
of time (Zafrir et al. 2019, "Q8BERT", section 2, with dynamic in place of recorded ranges). Standard operators only, in
the pattern that ONNX Runtime fuses into its kernels DynamicQuantizeMatMul and MatMulIntegerToFloat:

    x -> DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul (scale of x times scales of the weight) -> Add (bias)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.layers.site import Site, find_sites
from lwgraph.passes.quantize.graph.recurrent_body import Cell
from lwgraph.passes.quantize.grids.grid import weight_limits
from lwgraph.passes.quantize.grids.weight_grid import weight_grid

MINIMUM_OPSET = 11  # DynamicQuantizeLinear
PRODUCTS = ("MatMul", "Gemm")
_HALF = ir.DataType.FLOAT16


def dynamic_sites(model: ir.Model, refused: Mapping[str, str]) -> tuple[list[Site], dict[str, str]]:
    """The products that can take their activations in integers, and why others cannot, by the layer's name.

    Args:
        refused: names of nodes that stay in float -> why.
    """
    reasons: dict[str, str] = {}
    found = []
    for site in find_sites(model, refused=reasons.__setitem__):
        if site.node.op_type not in PRODUCTS:
            continue
        if reason := refused.get(site.node.name or "") or _objection(site):
            reasons[site.name] = reason
        else:
            found.append(site)
    return found, reasons


def _objection(site: Site) -> str:
    if site.graph is not ir.root(site.graph) or isinstance(site.graph, ir.Function):
        return "the layer is in a subgraph or a function"
    if site.dtype not in (np.float32, np.float16) or site.input.dtype not in (None, ir.DataType.FLOAT, _HALF):
        return f"it computes in {site.dtype}; only float32 and float16 are quantized"
    return ""


def quantize_products(graph: ir.Graph, sites: Sequence[Site], opset: int, *, reduced: bool, per_channel: bool) -> None:
    """Compute the layers `sites` with integers, in place.

    Layers that read one tensor share its grid; layers that share a weight go on sharing it. Weights are int8 and
    symmetric, one scale per output or one in all, each of least squared error.

    Args:
        reduced: weights keep to 7 bits, for processors whose sums of two products saturate.
        per_channel: one scale per output channel of each weight.

    Complexity: O(weights) and one node per layer and tensor.
    """
    inputs: dict[ir.Value, tuple[ir.Value, ...]] = {}
    weights: dict[tuple[ir.Value, bool, float], tuple[ir.Value, ir.Value]] = {}
    for site in sites:
        node, weight = site.node, site.node.inputs[1]
        assert weight is not None
        cell = Cell(graph, node.name or str(site.output.name), opset)
        if site.input not in inputs:
            inputs[site.input] = _quantized(cell, site.input, half=site.dtype == np.float16)
        turned = bool(site.kind == "gemm" and ir.attribute(node, "transB", 0))
        key = weight, turned, float(ir.attribute(node, "alpha", 1.0)) if site.kind == "gemm" else 1.0
        if key not in weights:
            matrix = np.ascontiguousarray(site.weight.T.astype(np.float32))
            weights[key] = _stored(cell, matrix, weight.name or "weight", reduced, per_channel)
        _replace(site, cell, inputs[site.input], weights[key])


def _quantized(cell: Cell, value: ir.Value, *, half: bool) -> tuple[ir.Value, ...]:
    if half:  # the operator takes no other floats
        value = cell.one("Cast", [value], to=int(ir.DataType.FLOAT))
    x, scale, zero = cell.add("DynamicQuantizeLinear", [value], outputs=3)
    x.dtype, scale.dtype, zero.dtype = ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8
    x.shape, scale.shape, zero.shape = value.shape, ir.Shape([]), ir.Shape([])
    return x, scale, zero


def _stored(cell: Cell, matrix: Array, stem: str, reduced: bool, per_channel: bool) -> tuple[ir.Value, ir.Value]:
    """The weight (D, o) as int8, and its scales (o,) or ()."""
    grid = weight_grid(matrix, 1 if per_channel else None, "int8", reduced=reduced)
    integers = grid.encode(matrix, weight_limits("int8", reduced)).astype(np.int8)
    scale = ir.add_initializer(cell.graph, grid.scale.astype(np.float32), f"{stem}_scale")
    return ir.add_initializer(cell.graph, integers, f"{stem}_integers"), scale


def _replace(site: Site, cell: Cell, source: Sequence[ir.Value], stored: tuple[ir.Value, ir.Value]) -> None:
    """Put the integer product in the place of the layer's first node; a bias that is a node of its own stays."""
    node, output = site.node, site.node.outputs[0]
    x, scale, zero = source
    integers, weight_scale = stored
    product = cell.one("MatMulInteger", [x, integers, zero], ir.DataType.INT32)
    real = cell.one("Cast", [product], to=int(ir.DataType.FLOAT))
    result = cell.one("Mul", [real, cell.one("Mul", [scale, weight_scale])])
    if site.kind == "gemm" and site.bias is not None:
        result = cell.one("Add", [result, cell.constant(site.bias.astype(np.float32), "bias")])
    if site.dtype == np.float16:
        result = cell.one("Cast", [result], _HALF, to=int(_HALF))
    result.shape = output.shape
    old_weight, name, called = node.inputs[1], output.name, node.name
    cell.graph.insert_before(node, cell.nodes)
    ir.replace_uses(output, result)
    ir.sweep([node])
    ir.sweep_values([value for value in [old_weight] if value is not None])
    maker = product.producer()
    if maker is not None and called:
        maker.name = called  # it is the layer; reports tell what stands in its place by its name
    if not result.is_graph_output():
        result.name = name


__all__ = ["MINIMUM_OPSET", "PRODUCTS", "dynamic_sites", "quantize_products"]
