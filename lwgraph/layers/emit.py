"""Builds the nodes of a form, in the layer's own graph or in a small model of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array, Weights
from lwgraph.layers.site import Site

FAR = 2**31 - 1  # the end of an axis, for Slice
SLICE_INPUTS = 10  # the opset from which the bounds of a Slice are inputs
OPTIONAL_BIAS = 11  # the opset from which a Gemm needs no third input


class Emitter:
    """Makes new nodes, in order. `op.Add(a, b)` makes any standard operator; `stage` makes a piece of the layer.

    Args:
        site: the layer being replaced; gives the dtype, the stride, the padding and the kind of product.
        graph: where the constants go.
        shared: weights emitted before for a layer with the same weight, by stem; added to. These go where that weight
            is, which all of the layers can see. None: there is no such layer.
    """

    def __init__(self, site: Site, graph: ir.Graph | ir.Function, shared: dict[str, ir.Value] | None = None) -> None:
        self.site = site
        self.graph = graph
        self.nodes: list[ir.Node] = []
        weight = site.node.inputs[1]
        self._home = weight.graph if shared is not None and weight is not None and weight.is_initializer() else None
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

    def const(self, array: Array, stem: str, *, shared: bool = False) -> ir.Value:
        """A constant named after the layer and `stem`; float arrays take the dtype of the layer's weight.

        `shared`: all layers with this weight may use it (anything but a bias). Each stem may be used once in a form.
        """
        if stem in self._stems:
            raise ValueError(f"the form emits two constants named '{stem}' for layer '{self.site.name}'")
        self._stems.add(stem)
        home = self._home if shared else None
        if home is not None and stem in self._shared:
            return self._shared[stem]
        floating = np.issubdtype(array.dtype, np.floating)
        data = np.ascontiguousarray(array, self.site.dtype if floating else array.dtype)
        where = self.graph if home is None else home
        if isinstance(where, ir.Function):  # it holds no initializers
            node = ir.constant_node(ir.unattached_constant(data))
            self.nodes.append(node)
            return node.outputs[0]
        value = ir.add_initializer(where, data, f"{self.site.name}_{stem}")
        if home is not None:
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

    def part(
        self,
        x: ir.Value,
        weight: Weights,
        stem: str,
        *,
        first: Sequence[int],
        step: Sequence[int] = (),
        bias: Weights | None = None,
        group: int = 1,
    ) -> ir.Value:
        """A convolution with some of the layer's taps, at the layer's output positions; see `partial`.

        Args:
            x: (n, c, *spatial), at the resolution of the layer's input.
            weight: (o, c/group, *k').
            stem: names the weight in the file.
            first: for each axis the tap of the layer that is tap 0 here.
            step: from one tap to the next in taps of the layer; () is 1 everywhere.
            bias: (o,).
            group: of this convolution.
        """
        attributes, crop = partial(self.site, weight.shape[2:], first, step or (1,) * len(first))
        if crop is not None:
            bounds = dict(zip(("starts", "ends", "axes"), (*crop, tuple(range(2, 2 + len(first)))), strict=True))
            if ir.opset(self.site.node) < SLICE_INPUTS:
                x = self.Slice(x, **bounds)
            else:
                given = (self.const(np.asarray(c, np.int64), f"{stem}_{name}") for name, c in bounds.items())
                x = self.Slice(x, *given)
        operands = [x, self.const(weight, stem, shared=True)]
        if bias is not None:
            operands.append(self.const(bias, f"{stem}_bias"))
        return self.node("Conv", operands, group=group if group > 1 else None, **attributes)

    def _product(self, x: ir.Value, weight: Weights, stem: str, bias: Weights | None) -> ir.Value:
        if self.site.kind == "gemm":
            operands = [x, self.const(weight, stem, shared=True)]
            if bias is None and ir.opset(self.site.node) < OPTIONAL_BIAS:
                bias = np.zeros(len(weight))
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


def partial(
    site: Site, kernel: Sequence[int], first: Sequence[int], step: Sequence[int]
) -> tuple[dict[str, Any], tuple[tuple[int, ...], tuple[int, ...]] | None]:
    """The attributes of a convolution with the taps first, first + step, ... of the layer, and what to crop before.

    Leaving out taps at an edge of the kernel takes from the padding there; where there is too little, the image is
    cropped: (starts, ends) of a Slice of the spatial axes.

    Raises:
        ValueError: `known_padding` says no.
    """
    pads = known_padding(site)
    if pads is None:
        raise ValueError(f"the padding of layer '{site.name}' depends on the image size, which is not known")
    rank = len(kernel)
    begin = [pads[a] - first[a] * site.dilations[a] for a in range(rank)]
    after = [site.kernel[a] - 1 - first[a] - (kernel[a] - 1) * step[a] for a in range(rank)]
    end = [pads[rank + a] - after[a] * site.dilations[a] for a in range(rank)]
    dilations = tuple(d * s if k > 1 else 1 for d, s, k in zip(site.dilations, step, kernel, strict=True))
    attributes: dict[str, Any] = {
        "kernel_shape": tuple(kernel),
        "strides": site.strides if max(site.strides) > 1 else None,
        "dilations": dilations if max(dilations) > 1 else None,
        "pads": tuple(max(0, p) for p in begin + end) if max(begin + end) > 0 else None,
    }
    if min(begin + end) >= 0:
        return attributes, None
    starts, ends = tuple(max(0, -b) for b in begin), tuple(e if e < 0 else FAR for e in end)
    return attributes, (starts, ends)


def known_padding(site: Site) -> tuple[int, ...] | None:
    """The padding (begin..., end...) of a convolution; None where auto_pad decides it from a size that is not known.

    SAME pads an axis by (ceil(n / s) - 1) s + reach - n in all, which for stride 1 does not depend on the size n.
    """
    if not site.auto_pad.startswith("SAME"):
        return site.pads
    rank = len(site.kernel)
    begin, end = [0] * rank, [0] * rank
    for a in range(rank):
        size = None if site.input_shape is None else site.input_shape[2 + a]
        stride = site.strides[a]
        if size is None and stride > 1:
            return None
        left_over = 0 if size is None else (-size) % stride
        total = max(0, left_over - stride + 1 + (site.kernel[a] - 1) * site.dilations[a])
        small, large = total // 2, total - total // 2
        begin[a], end[a] = (small, large) if site.auto_pad == "SAME_UPPER" else (large, small)
    return (*begin, *end)


__all__ = ["OPTIONAL_BIAS", "Emitter", "known_padding", "partial", "stage_attributes"]
