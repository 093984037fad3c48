"""Builds the nodes of a form, in the layer's own graph or in a small model of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.plan.site import Site

Weights = npt.NDArray[np.floating[Any]]


class Emitter:
    """Makes new nodes, in order. `op.Add(a, b)` makes any standard operator; `stage` makes a piece of the layer.

    Args:
        site: the layer being replaced; gives the dtype, the stride, the padding and the kind of product.
        graph: where the constants go.
        shared: weights emitted before for a layer with the same weight, by stem; added to.
    """

    def __init__(
        self, site: Site, graph: ir.Graph | ir.Function, shared: dict[str, ir.Value] | None = None
    ) -> None:
        self.site = site
        self.graph = graph
        self.nodes: list[ir.Node] = []
        self._shared = {} if shared is None else shared
        self._stems: set[str] = set()

    def node(self, op_type: str, inputs: Sequence[ir.Value | None], /, **attributes: Any) -> ir.Value:
        """A node of one output; attributes that are None are left out."""
        given = {key: value for key, value in attributes.items() if value is not None}
        new = ir.make_node(op_type, inputs, given)
        self.nodes.append(new)
        return new.outputs[0]

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        if not op_type[:1].isupper():
            raise AttributeError(op_type)
        return lambda *inputs, **attributes: self.node(op_type, inputs, **attributes)

    def const(self, array: npt.NDArray[Any], stem: str, *, shared: bool = False) -> ir.Value:
        """A constant named after the layer and `stem`; float arrays take the dtype of the layer's weight.

        `shared`: all layers with this weight may use it (anything but a bias). Each stem may be used once in a form.
        """
        if stem in self._stems:
            raise ValueError(f"the form emits two constants named '{stem}' for layer '{self.site.name}'")
        self._stems.add(stem)
        if shared and stem in self._shared:
            return self._shared[stem]
        floating = np.issubdtype(array.dtype, np.floating)
        data = np.ascontiguousarray(array, self.site.dtype if floating else array.dtype)
        if isinstance(self.graph, ir.Function):  # a function holds no initializers
            node = ir.constant_node(ir.unattached_constant(data))
            self.nodes.append(node)
            return node.outputs[0]
        value = ir.add_initializer(self.graph, data, f"{self.site.name}_{stem}")
        if shared:
            self._shared[stem] = value
        return value

    def stage(
        self,
        x: ir.Value,
        weight: Weights,
        stem: str,
        *,
        bias: Weights | None = None,
        axes: Sequence[int] | None = None,
        group: int = 1,
    ) -> ir.Value:
        """One linear stage of the layer's own kind.

        Args:
            x: (n, c, *spatial), or (..., c) for Gemm and MatMul.
            weight: canonical, (o, c/group, *k). k has one number per spatial axis of the layer; on an axis outside
                `axes` it is 1.
            stem: names the weight in the file.
            bias: (o,).
            axes: the spatial axes on which this stage takes the layer's stride, dilation and padding. None: all.
            group: of this stage.
        """
        site = self.site
        if not site.kernel:
            return self._product(x, weight, stem, bias)
        attributes = stage_attributes(site, weight.shape[2:], range(len(site.kernel)) if axes is None else axes)
        if site.kind == "conv_transpose":
            outputs, inputs = weight.shape[0] // group, weight.shape[1]
            weight = weight.reshape(group, outputs, inputs, *weight.shape[2:]).swapaxes(1, 2)
            weight = weight.reshape(group * inputs, outputs, *weight.shape[3:])
        operands = [x, self.const(weight, stem, shared=True)]
        if bias is not None:
            operands.append(self.const(bias, f"{stem}_bias"))
        return self.node(site.node.op_type, operands, group=group if group > 1 else None, **attributes)

    def _product(self, x: ir.Value, weight: Weights, stem: str, bias: Weights | None) -> ir.Value:
        if self.site.kind == "gemm":
            operands = [x, self.const(weight, stem, shared=True)]
            if bias is not None:
                operands.append(self.const(bias, f"{stem}_bias"))
            return self.node("Gemm", operands, transB=1)
        y = self.node("MatMul", [x, self.const(weight.T, stem, shared=True)])
        return y if bias is None else self.node("Add", [y, self.const(bias, f"{stem}_bias")])


def stage_attributes(site: Site, kernel: Sequence[int], axes: Sequence[int]) -> dict[str, Any]:
    """Attributes of a convolution with `kernel` that takes the layer's geometry on `axes` and none elsewhere.

    auto_pad SAME pads an axis of kernel 1 and stride 1 by nothing, so it may stay on every stage, and stays exact where
    the image size is dynamic.
    """
    rank = len(site.kernel)

    def pick(values: Sequence[int], default: int) -> tuple[int, ...] | None:
        picked = tuple(values[a] if a in axes else default for a in range(rank))
        return None if all(value == default for value in picked) else picked

    pads = tuple(site.pads[a] if a % rank in axes else 0 for a in range(2 * rank))
    attributes: dict[str, Any] = {
        "kernel_shape": tuple(kernel),
        "strides": pick(site.strides, 1),
        "dilations": pick(site.dilations, 1),
    }
    if site.auto_pad in ("SAME_UPPER", "SAME_LOWER") and axes:
        attributes["auto_pad"] = site.auto_pad
    elif any(pads):
        attributes["pads"] = pads
    if site.output_padding:
        attributes["output_padding"] = pick(site.output_padding, 0)
    return attributes


__all__ = ["Emitter", "stage_attributes"]
