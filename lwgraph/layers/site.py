"""Sites: the dense linear layers of a model that a lighter form may replace."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Floats, Shapes, Weights

Kind = Literal["conv", "conv_transpose", "gemm", "matmul"]
KINDS: Mapping[str, Kind] = {
    "Conv": "conv",
    "ConvTranspose": "conv_transpose",
    "Gemm": "gemm",
    "MatMul": "matmul",
}
FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)
ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Elu"})
_WEIGHT = "_weight"  # where a site notes what gives its weight while it is held
NOMINAL_POSITIONS = 1024  # output positions assumed where the image size is unknown; costs are then relative only


@dataclass(frozen=True, eq=False)
class Site:
    """One Conv, ConvTranspose, Gemm or MatMul with a constant weight.

    The *canonical weight* has shape (o, c/g, *k): outputs, inputs per group, taps. A Gemm or MatMul has no taps. A
    ConvTranspose keeps its taps in ONNX order; its inputs and outputs are merely put in this order.

    Attributes:
        name: unique in the model and stable while the model is rewritten elsewhere.
        nodes: the layer, and the Add of its bias when it is a MatMul followed by one.
        graph: the graph or function that holds them.
        strides, dilations: one number per spatial axis; empty for Gemm and MatMul.
        pads: (begin..., end...) as in ONNX; zeros when `auto_pad` decides.
        auto_pad: "NOTSET", "VALID", "SAME_UPPER" or "SAME_LOWER".
        input_shape, output_shape: sizes as far as known (None: unknown axis), or None.
        shared: names of the other sites that use the same weight.
    """

    name: str
    kind: Kind
    nodes: tuple[ir.Node, ...]
    graph: ir.Graph | ir.Function
    group: int = 1
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"
    output_padding: tuple[int, ...] = ()
    input_shape: tuple[int | None, ...] | None = None
    output_shape: tuple[int | None, ...] | None = None
    shared: tuple[str, ...] = field(default=(), compare=False)

    @property
    def node(self) -> ir.Node:
        """The layer itself."""
        return self.nodes[0]

    @property
    def input(self) -> ir.Value:
        """The layer's data input."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def output(self) -> ir.Value:
        """The output of the layer, bias included."""
        return self.nodes[-1].outputs[0]

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape (o, c/g, *k) of the canonical weight, without reading it."""
        raw = ir.constant_shape(self.node.inputs[1])
        assert raw is not None
        if self.kind == "conv":
            return raw
        if self.kind == "conv_transpose":
            return (raw[1] * self.group, raw[0] // self.group, *raw[2:])
        transposed = self.kind == "gemm" and ir.attribute(self.node, "transB", 0)
        return raw if transposed else raw[::-1]

    @property
    def layout(self) -> tuple[object, ...]:
        """How the layer reads its constant: of layers that share one, those alike have the same canonical weight."""
        transposed = self.kind == "gemm" and ir.attribute(self.node, "transB", 0)
        return self.kind, bool(transposed), self._alpha, self.group

    @property
    def weight(self) -> Floats:
        """The canonical weight (o, c/g, *k) in float64, a Gemm's alpha included.

        The same array as long as anybody holds it: those of all layers together are twice the model.
        """
        held: Callable[[], Floats | None] = vars(self).get(_WEIGHT, lambda: None)
        weight = held()
        if weight is None:
            weight = self._canonical().astype(np.float64, order="C")
            if self._alpha != 1:
                weight *= self._alpha
            vars(self)[_WEIGHT] = weakref.ref(weight)
        return weight

    @property
    def stored(self) -> Weights:
        """The same in the model's element type, without a copy where the model holds it so; an alpha needs float64."""
        return self.weight if self._replaced or self._alpha != 1 else self._canonical()

    @property
    def _replaced(self) -> bool:
        """Whether the weight is not that of the model, see `with_weight`."""
        return not isinstance(vars(self).get(_WEIGHT), weakref.ref | None)

    @property
    def _alpha(self) -> float:
        return float(ir.attribute(self.node, "alpha", 1.0)) if self.kind == "gemm" else 1.0

    def _canonical(self) -> Weights:
        """The weight (o, c/g, *k) as it is stored, without alpha."""
        weight: Weights | None = ir.constant(self.node.inputs[1])
        assert weight is not None
        if self.kind == "conv_transpose":
            inputs, outputs = weight.shape[0] // self.group, weight.shape[1]
            weight = weight.reshape(self.group, inputs, outputs, *weight.shape[2:]).swapaxes(1, 2)
            return weight.reshape(self.group * outputs, inputs, *weight.shape[3:])
        transposed = self.kind == "matmul" or (self.kind == "gemm" and not ir.attribute(self.node, "transB", 0))
        return weight.T if transposed else weight

    @functools.cached_property
    def bias(self) -> Floats | None:
        """The bias (o,) in float64, a Gemm's beta included; None when the layer has none."""
        if len(self.nodes) > 1:
            value = next(v for v in self.nodes[1].inputs if v is not self.node.outputs[0])
        else:
            value = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        raw = ir.constant(value)
        if raw is None:
            return None
        beta = ir.attribute(self.node, "beta", 1.0) if self.kind == "gemm" else 1.0
        return np.array(np.broadcast_to(np.asarray(raw, np.float64).reshape(-1) * beta, (self.shape[0],)))

    @functools.cached_property
    def first(self) -> bool:
        """Whether no layer with weights comes before it: what it reads is the model's input, or hardly more."""
        seen, waiting = set(), [self.input]
        while waiting:
            maker = waiting.pop().producer()
            if maker is None or maker in seen:
                continue
            if ir.operator(maker) in ir.LINEAR or ir.operator(maker) in ir.RECURRENT:
                return False
            seen.add(maker)
            waiting += [value for value in maker.inputs if value is not None]
        return isinstance(self.graph, ir.Graph) and ir.parent(self.graph) is None

    def with_weight(self, weight: Floats, bias: Floats | None) -> Site:
        """The layer as it would be with another canonical weight (o, c/g, *k) and bias; the model stays as it is."""
        twin = replace(self)
        vars(twin).update({_WEIGHT: lambda: weight, "bias": bias})  # what the properties look for first
        return twin

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type of the weight."""
        dtype = ir.constant_dtype(self.node.inputs[1])
        assert dtype is not None
        return np.dtype(dtype.numpy())

    @property
    def outputs(self) -> int:
        """Output channels o (all groups)."""
        return self.shape[0]

    @property
    def inputs(self) -> int:
        """Input channels c (all groups)."""
        return self.shape[1] * self.group

    @property
    def kernel(self) -> tuple[int, ...]:
        """The taps per spatial axis; empty for Gemm and MatMul."""
        return self.shape[2:]

    @property
    def taps(self) -> int:
        """The number of taps of the kernel."""
        return math.prod(self.kernel)

    @property
    def fan_in(self) -> int:
        """D = c/g * taps: the length of one input patch."""
        return self.shape[1] * self.taps

    @property
    def activation(self) -> str:
        """The operator that alone consumes the output and that a runtime would fuse ("Silu" is x*sigmoid(x)), or ""."""
        users = {id(user): user for user, _ in self.output.uses()}.values()
        if self.output.is_graph_output() or not users:
            return ""
        kinds = sorted(ir.operator(user) for user in users)
        if kinds == ["Mul", "Sigmoid"]:
            return "Silu"
        return kinds[0] if len(kinds) == 1 and kinds[0] in ACTIVATIONS else ""

    def positions(self, at_output: Sequence[int] | None = None) -> int:
        """Positions of one batch (rows, for a Gemm or MatMul) of a tensor inside or after the layer.

        Args:
            at_output: the spatial axes that have the output's size already; the others have the input's. None: all.

        Returns:
            their number; where sizes are unknown, in proportion to NOMINAL_POSITIONS at the coarser end.
        """
        shape_in, shape_out = self.input_shape, self.output_shape
        if not self.kernel:
            rows = () if shape_out is None else shape_out[:-1]
            return math.prod(row or 1 for row in rows)
        rank = len(self.kernel)
        axes = range(rank) if at_output is None else at_output
        if shape_in is None or shape_out is None or None in shape_in[2:] or None in shape_out[2:]:
            fine = [a for a in range(rank) if (a in axes) == (self.kind == "conv_transpose")]
            return NOMINAL_POSITIONS * math.prod(self.strides[a] for a in fine)
        sizes = [(shape_out if a in axes else shape_in)[2 + a] or 0 for a in range(rank)]
        return (shape_out[0] or 1) * math.prod(sizes)

    def stage_positions(self, before: Sequence[int] = (), axes: Sequence[int] | None = None) -> int:
        """Positions at which a stage multiplies that covers the spatial `axes`, those of `before` being done."""
        if self.kind == "conv_transpose":
            return self.positions(before)
        return self.positions(None if axes is None else (*before, *axes))

    def macs(self) -> int:
        """Multiply-accumulates of the dense layer for one batch."""
        return self.stage_positions() * self.outputs * self.fan_in

    def key(self) -> tuple[object, ...]:
        """A hashable signature: layers with equal keys take equal time."""
        return (
            self.kind,
            self.shape,
            self.group,
            self.strides,
            self.dilations,
            self.pads,
            self.auto_pad,
            self.output_padding,
            self.input_shape,
            self.bias is not None,
            str(self.dtype),
            self.activation,
        )


def find_sites(
    model: ir.Model,
    shapes: Shapes | None = None,
    refused: Callable[[str, str], None] = lambda place, reason: None,
) -> list[Site]:
    """Every site of the main graph, its subgraphs, and the functions, in graph order.

    Args:
        model: the model; it is not changed.
        shapes: sizes by value name, such as `layer_shapes` gives; they win over those recorded in the model.
        refused: called with (place, reason) for a layer that looks like a site and is none.
    """
    sites: list[Site] = []
    taken: set[str] = set()
    for scope in ir.scopes(model):
        for node in scope:
            if node.domain not in ("", "ai.onnx") or node.op_type not in KINDS:
                continue
            name = layer_name(node, scope, taken)
            try:
                site = _site(name, node, scope, shapes or {})
            except (_NoSite, ir.ReferenceAttributeError) as reason:
                if str(reason):
                    refused(name, str(reason))
                continue
            taken.add(name)
            sites.append(site)
    return _with_sharing(sites)


def layer_name(node: ir.Node, scope: ir.Graph | ir.Function, taken: Container[str]) -> str:
    """The name that a layer goes by: unlike all those that are taken, and the same in every copy of the model."""
    name = node.name or str(node.outputs[0].name)
    if isinstance(scope, ir.Function):
        name = f"{scope.name}::{name}"
    return f"{name}#{node.outputs[0].name}" if name in taken else name


class _NoSite(Exception):  # noqa: N818 - a refusal; an empty one means an ordinary product of two activations
    pass


def _site(name: str, node: ir.Node, graph: ir.Graph | ir.Function, shapes: Shapes) -> Site:
    kind = KINDS[node.op_type]
    shape, dtype = ir.constant_shape(node.inputs[1]), ir.constant_dtype(node.inputs[1])
    if shape is None or dtype is None:
        raise _NoSite("the weight is not constant" if "conv" in kind else "")
    if dtype not in FLOATS:
        raise _NoSite(f"the weight is {dtype.name}; forms need float16, float32 or float64")
    if 0 in shape:
        raise _NoSite("the weight is empty")
    if not all(ir.is_finite(value) for value in node.inputs[1:]):
        raise _NoSite("its weight or bias holds infinity or NaN")
    site = Site(name, kind, (node,), graph)
    if kind in ("gemm", "matmul"):
        if len(shape) != 2:
            raise _NoSite(f"the constant factor has {len(shape)} axes; forms need a matrix")
        if kind == "gemm":
            _check_gemm(node)
        else:
            site = replace(site, nodes=_with_bias(node))
    else:
        site = _convolution(site, len(shape) - 2)
    return replace(site, input_shape=_sizes(site.input, shapes), output_shape=_sizes(site.output, shapes))


def _convolution(site: Site, rank: int) -> Site:
    node = site.node
    if rank < 1:
        raise _NoSite("the kernel has no spatial axis")
    if len(node.inputs) > 2 and node.inputs[2] is not None and ir.constant_shape(node.inputs[2]) is None:
        raise _NoSite("the bias is not constant")
    if "output_shape" in node.attributes:
        raise _NoSite("output_shape decides the padding")
    auto_pad = ir.attribute(node, "auto_pad", "NOTSET")
    ones, none = (1,) * rank, (0,) * (2 * rank)
    return replace(
        site,
        group=ir.attribute(node, "group", 1),
        strides=tuple(ir.attribute(node, "strides", ones)),
        dilations=tuple(ir.attribute(node, "dilations", ones)),
        pads=tuple(ir.attribute(node, "pads", none)) if auto_pad == "NOTSET" else none,
        auto_pad=auto_pad,
        output_padding=tuple(ir.attribute(node, "output_padding", none[:rank])) if "conv_t" in site.kind else (),
    )


def _check_gemm(node: ir.Node) -> None:
    if ir.attribute(node, "transA", 0):
        raise _NoSite("transA=1: the data is used transposed")
    if not ir.attribute(node, "alpha", 1.0):
        raise _NoSite("alpha=0: the weight is not used")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return
    shape = ir.constant_shape(bias)
    if shape is None:
        raise _NoSite("the bias is not constant")
    if math.prod(shape[:-1]) != 1:
        raise _NoSite(f"the bias of shape {shape} differs from row to row")


def _with_bias(node: ir.Node) -> tuple[ir.Node, ...]:
    """The MatMul, and the Add of a constant row that alone uses its result."""
    out = node.outputs[0]
    uses = list(out.uses())
    if (
        len(uses) != 1
        or out.is_graph_output()
        or ir.operator(uses[0][0]) != "Add"
        or uses[0][0].graph is not node.graph
    ):
        return (node,)
    add = uses[0][0]
    bias, weight = ir.constant_shape(add.inputs[1 - uses[0][1]]), ir.constant_shape(node.inputs[1])
    assert weight is not None
    # A bias of more axes than the product could change the result's rank.
    fits = bias in ((), (1,), (weight[1],)) and all(map(ir.is_finite, add.inputs))
    return (node, add) if fits else (node,)


def _with_sharing(sites: list[Site]) -> list[Site]:
    by_weight: dict[int, list[str]] = {}
    for site in sites:
        by_weight.setdefault(id(site.node.inputs[1]), []).append(site.name)
    return [
        replace(site, shared=tuple(n for n in by_weight[id(site.node.inputs[1])] if n != site.name)) for site in sites
    ]


def _sizes(value: ir.Value, shapes: Shapes) -> tuple[int | None, ...] | None:
    if (value.name or "") in shapes:
        return tuple(shapes[value.name or ""])
    if value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else None for dim in value.shape)


__all__ = ["KINDS", "NOMINAL_POSITIONS", "Kind", "Site", "find_sites", "layer_name"]
