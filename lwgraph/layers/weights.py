"""Writes the weight and bias of a layer back to where they came from."""

from __future__ import annotations

import math

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.layers.site import Site
from lwgraph.rewrite.base import Skip


def has_bias_slot(site: Site) -> bool:
    """Whether a bias can be stored without another node: always, but for a MatMul that no Add of a row follows."""
    return site.kind != "matmul" or len(site.nodes) > 1


def check_writable(site: Site) -> None:
    """Skip when the layer's weight or bias cannot be given other contents."""
    if site.graph is not ir.root(site.graph):
        raise Skip("the layer is in a subgraph or a function, whose values cannot be compared with the original's")
    if site.shared:
        raise Skip(f"the weight is shared with {site.shared[0]}")
    values = [site.node.inputs[1], _bias(site)]
    for value in values:
        if value is not None and (not value.is_initializer() or value.is_graph_input()):
            raise Skip(f"'{value.name}' is not an initializer; constants-to-initializers makes it one")


def write(site: Site, weight: Array, bias: Array | None) -> None:
    """Store a canonical weight (o, c/g, *k) and a bias (o,) in the site's own initializers, in its dtype.

    A convolution or Gemm without a bias gets one; a MatMul without an Add must be given None. Initializers that other
    nodes use are copied. The site's cached weight and bias are stale afterwards: find it anew.
    """
    value = site.node.inputs[1]
    assert value is not None
    ir.set_constant(ir.copy_on_write(value, site.node), _stored(site, weight).astype(site.dtype, copy=False))
    if bias is None:
        return
    site.node.attributes.pop("beta", None)  # of a Gemm; it may be 0
    bias = bias.astype(site.dtype)
    holder, slot = _bias_slot(site)
    found = holder.inputs[slot] if slot < len(holder.inputs) else None
    if found is not None:
        ir.set_constant(ir.copy_on_write(found, holder), bias)
        return
    graph = site.graph
    assert isinstance(graph, ir.Graph)
    holder.resize_inputs(slot + 1)
    holder.replace_input_with(slot, ir.add_initializer(graph, bias, f"{site.node.name or site.node.op_type}_bias"))


def _bias(site: Site) -> ir.Value | None:
    holder, slot = _bias_slot(site)
    return holder.inputs[slot] if slot < len(holder.inputs) else None


def _bias_slot(site: Site) -> tuple[ir.Node, int]:
    if len(site.nodes) == 1:
        return site.node, 2
    add = site.nodes[1]
    return add, 0 if add.inputs[1] is site.node.outputs[0] else 1


def _stored(site: Site, weight: Array) -> Array:
    """The canonical weight in the layout of the node."""
    if site.kind == "conv":
        return weight
    if site.kind == "conv_transpose":
        outputs, inputs = weight.shape[0] // site.group, weight.shape[1]
        split = weight.reshape(site.group, outputs, inputs, *weight.shape[2:]).swapaxes(1, 2)
        return np.ascontiguousarray(split.reshape(site.group * inputs, outputs, *weight.shape[2:]))
    if site.kind == "gemm":
        weight = weight / ir.attribute(site.node, "alpha", 1.0)
        return weight if ir.attribute(site.node, "transB", 0) else np.ascontiguousarray(weight.T)
    return np.ascontiguousarray(weight.T)


def transform(site: Site, q: Array, shift: Array) -> tuple[Array, Array]:
    """Weight and bias of the layer followed by y -> q y + shift; q is (o,) or one (o/g, o/g) block per group.

    Scaled weights have the type in which the model holds them: copies in float64 are twice the layer.
    """
    weight, bias = site.stored, site.bias if site.bias is not None else np.zeros(site.outputs)
    if q.ndim == 1:
        factors, made = q.reshape([-1] + [1] * (weight.ndim - 1)), np.empty(weight.shape, weight.dtype)
        return np.multiply(weight, factors, out=made, casting="same_kind"), bias * q + shift
    groups, per = q.shape[0], q.shape[1]
    flat = weight.reshape(groups, per, math.prod(weight.shape[1:]))
    return (q @ flat).reshape(weight.shape), (q @ bias.reshape(groups, per, 1)).reshape(-1) + shift


__all__ = ["check_writable", "has_bias_slot", "transform", "write"]
