"""Makes a quantized model from a float model, the observed ranges of its tensors, and a target.

A `Quantizer` is made once and builds as many variants as a search wants: ranges and rounded weights are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.calibrate.ranges import Observed
from lwgraph.calibrate.thresholds import Range
from lwgraph.passes.quantize.graph.emit import IntegerConstants, QdqWriter
from lwgraph.passes.quantize.graph.shapes import infer
from lwgraph.passes.quantize.grids.grid import Grid, activation_grid
from lwgraph.passes.quantize.grids.weight_grid import RoundedWeights
from lwgraph.passes.quantize.placing.placement import Placement, candidates, place
from lwgraph.passes.quantize.placing.roles import channel_axis, weight_axis
from lwgraph.passes.quantize.placing.target import Target

_BIAS_LIMIT = 2.0**30  # half of int32's range, so that a bias never saturates
_SIMILAR = 0.7  # ranges this close share a grid at a Concat: the integers are then copied, not rescaled


@dataclass(frozen=True)
class GridOptions:
    """How grids are chosen: the options of `quantize` except those that say where."""

    method: str = "minmax"
    percentile: float = 99.99
    weight_search: bool = True
    bias_correction: bool = True


@dataclass
class Built:
    """A quantized model and what was decided; values and nodes are named as in the float model.

    Attributes:
        grids: float tensor name -> its grid.
        compute: names of the compute nodes in integers, in graph order.
        others: names of the other integer nodes.
        reasons: names of the compute nodes left in float -> why.
        integers: float tensor name -> the name of the integer tensor.
        source: the float model that this is the quantized version of (channels evened out, where that was done).
        even: whether that was done: the model with even channels was the closer one.
    """

    model: ir.Model
    grids: dict[str, Grid]
    compute: list[str]
    others: list[str]
    reasons: dict[str, str]
    integers: dict[str, str] = field(default_factory=dict)
    source: ir.Model | None = None
    even: bool = False


_CARRIED = ir.RESHAPES | {"Transpose", "Slice", "MaxPool", "Identity", "Dropout"}


def captured(graph: ir.Graph) -> dict[str, str]:
    """Nodes whose output reaches the body of an If, Loop or Scan through others that only move it, and why they stay.

    ONNX Runtime carries the integers over those into the body, and dies of it. O(nodes).
    """
    found = {}
    for node in graph:
        if node.op_type in _CARRIED:
            continue
        waiting = [(value, False) for value in node.outputs]
        while waiting:
            value, moved = waiting.pop()
            for user in value.consumers():
                if user.graph is not graph and moved:
                    found[node.name or ""] = f"a body reads '{value.name}', to which only moves lead"
                elif user.graph is graph and user.op_type in _CARRIED and user.inputs[0] is value:
                    waiting += [(output, True) for output in user.outputs]
    return found


class Quantizer:
    """Builds quantized variants of one model.

    Args:
        model: the float model; it is copied. Every node gets a name if it has none.
        target: the runtime's rules.
        observe: called with the tensor names (and channel axes) to observe, returns what they did; called once.
        recipe: how to choose grids.
        chosen: tensor name -> (method, percentile), where the recipe's does not suit.
        weights: of this model, rounded for other quantizers before; see `rounding`. None: nothing was.
        only: nodes that every variant refuses, by name; only what such variants need is observed. None: variants may
            refuse any nodes.
    """

    def __init__(
        self,
        model: ir.Model,
        target: Target,
        observe: Callable[[list[str], dict[str, int]], Mapping[str, Observed]],
        recipe: GridOptions = GridOptions(),
        chosen: Mapping[str, tuple[str, float]] = {},
        only: Mapping[str, str] | None = None,
        weights: RoundedWeights | None = None,
    ) -> None:
        self.model = ir.clone(model)
        infer(self.model)
        name_nodes(self.model.graph)
        self.target, self.recipe, self.chosen = target, recipe, dict(chosen)
        self.observed: dict[str, Observed] = {}
        self.opset = self.model.graph.opset_imports.get("", 1)
        self._unfit = {**unfit_constants(self.model.graph), **captured(self.model.graph)}
        placement = place(self.model.graph, target, self.opset, self._refused(self.model.graph, only or {}))
        axes = {
            v.name or "": channel_axis(node)
            for node in placement.compute
            if (v := node.inputs[0]) is not None
            and v.shape is not None
            and ir.constant_tensor(node.inputs[1]) is not None
        }
        unfit = self._refused(self.model.graph, {})
        names = candidates(self.model.graph, target, self.opset, unfit) if only is None else placement.observed()
        self.observed = dict(observe(names, axes)) if names else {}
        self.weights = weights or rounding(target, recipe)
        self._rounded: dict[str, tuple[float, IntegerConstants]] = {}

    def placement(self, refused: Mapping[str, str] = {}) -> tuple[ir.Model, Placement]:
        """A copy of the float model and where integers would go in it, with nodes refused by name for a reason."""
        copy = ir.clone(self.model)
        return copy, place(copy.graph, self.target, self.opset, self._refused(copy.graph, refused))

    def _refused(self, graph: ir.Graph, refused: Mapping[str, str]) -> dict[ir.Node, str]:
        """The nodes of `graph` that stay in float: those of these names, and those that touch what has no range."""
        found, named = {}, {**self._unfit, **refused}
        for node in graph:
            reason = named.get(node.name or "")
            if reason is None:
                touched = [v.name or "" for v in (*node.inputs, *node.outputs) if v is not None]
                seen = ((name, self.observed[name].rangeless) for name in touched if name in self.observed)
                reason = next((f"'{name}' {what}" for name, what in seen if what), None)
            if reason is not None:
                found[node] = reason
        return found

    def build(self, refused: Mapping[str, str] = {}) -> Built:
        """The quantized model, with the named nodes left in float for the given reasons."""
        model, placement = self.placement(refused)
        grids = self.grids(placement)
        weights = {node: rounded for node in placement.compute if (rounded := self.rounded(node, grids)) is not None}
        constants = {
            (node, i): self._constant_grid(node.inputs[i])
            for node, role in placement.roles.items()
            for i in role.constants
        }
        found = Built(
            model,
            {v.name or "": g for v, g in grids.items()},
            [n.name or "" for n in placement.compute],
            [n.name or "" for n, r in placement.roles.items() if r.kind != "compute"],
            {n.name or "": why for n, why in placement.reasons.items()},
        )
        emitter = QdqWriter(placement, grids, weights, constants, self.target.keep_clips, self.target.requantizes)
        names = {v: v.name or "" for v in grids}
        emitter.run()
        found.integers = {names[v]: q.name or "" for v, q in emitter.integers.items()}
        found.source = self.model
        return found

    def range_of(self, value: ir.Value) -> Range:
        """The range of one tensor by the recipe's method, or by the one chosen for it.

        The model's inputs keep all that was seen: a clipped image is another image, and no layer makes up for it.
        """
        name = value.name or ""
        if value.is_graph_input() and name not in self.chosen:
            return self._range(name, "minmax", 100.0)
        return self._range(name, *self.chosen.get(name, (self.recipe.method, self.recipe.percentile)))

    def grid_by(self, name: str, method: str, percentile: float) -> Grid:
        """The grid that a tensor would have by itself by some method."""
        real = self._range(name, method, percentile)
        return activation_grid(real, self.target.activation_type, self.target.activation_symmetric)

    def _range(self, name: str, method: str, percentile: float) -> Range:
        symmetric = self.target.activation_symmetric
        bits = 16 if self.target.activation_type.endswith("16") else 8
        return self.observed[name].range(method, percentile=percentile, levels=2**bits, symmetric=symmetric)

    def grids(self, placement: Placement) -> dict[ir.Value, Grid]:
        """The grid of every tensor that needs one."""
        self._tie_concats(placement)
        members: dict[ir.Value, list[tuple[ir.Value, float]]] = {}
        for value in [*placement.quantized, *placement.aliases]:
            root, factor = placement.groups.find(value)
            members.setdefault(root, []).append((value, factor))
        found: dict[ir.Value, Grid] = {}
        for group in members.values():
            real = self._shared_range(group)
            grid = activation_grid(real, self.target.activation_type, self.target.activation_symmetric)
            for value, factor in group:
                scale = np.array(float(grid.scale) * factor, np.float32)
                found[value] = grid if factor == 1 else Grid(grid.type, scale, grid.zero)
        return found

    def _shared_range(self, group: list[tuple[ir.Value, float]]) -> Range:
        """The range of a group, in the unit of its representative."""
        ranges = [(self.range_of(v), f) for v, f in group]
        return Range(min(r.low / f for r, f in ranges), max(r.high / f for r, f in ranges))

    def _tie_concats(self, placement: Placement) -> None:
        """Let Concat copy integers where that costs no resolution that anybody else needs."""
        for node, role in placement.roles.items():
            if node.op_type != "Concat":
                continue
            output = placement.end(node.outputs[0])
            for index in role.data:
                value = node.inputs[index]
                assert value is not None
                whole, part = self.range_of(output), self.range_of(value)
                alone = len(value.uses()) == 1 and placement.groups.find(value) == (value, 1.0)
                if alone or part.high - part.low >= _SIMILAR * (whole.high - whole.low):
                    placement.groups.tie(value, output)

    def rounded(self, node: ir.Node, grids: Mapping[ir.Value, Grid]) -> IntegerConstants | None:
        """A compute node's weight in integers, and its bias; None without a constant weight. Remembered."""
        fold_gemm(node)
        weight = ir.constant(node.inputs[1])
        if weight is None:
            return None
        bias = ir.constant(node.inputs[2]) if len(node.inputs) > 2 else None
        source = node.inputs[0]
        assert source is not None
        scale, name = float(grids[source].scale), node.name or ""
        if name in self._rounded and self._rounded[name][0] == scale:
            return self._rounded[name][1]
        per_channel = self.target.per_channel and self.opset >= self.target.per_channel_opset
        axis = weight_axis(node) if per_channel and whole_channels(node) else None
        least: Array | float = 0.0
        if bias is not None and not self.target.float_bias:
            needed = np.abs(bias).astype(np.float64) / (scale * _BIAS_LIMIT)
            least = needed if axis is not None else float(needed.max(initial=0.0))
        grid, integers = self.weights.of(name, weight, axis, least)
        if self.recipe.bias_correction:
            bias = self._corrected(node, weight, grid, integers, bias)
        bias_grid = None
        if bias is not None and not self.target.float_bias:
            product = np.asarray(grid.scale.astype(np.float64) * scale, np.float32)
            bias_grid = Grid("int32", product, np.zeros(product.shape, np.int64), None if axis is None else 0)
        made = IntegerConstants(integers, grid, bias, bias_grid)
        self._rounded[name] = (scale, made)
        return made

    def _corrected(self, node: ir.Node, weight: Array, grid: Grid, integers: Array, bias: Array | None) -> Array | None:
        """The bias that keeps the mean of every output channel: + (W - W') E[x] (Nagel et al. 2019, section 4.2)."""
        source = node.inputs[0]
        mean = self.observed[source.name or ""].channel_mean if source is not None else None
        if mean is None or (bias is None and node.op_type == "MatMul"):
            return bias
        shift = mean_error(node, weight, grid, integers, mean)
        return shift.astype(np.float32) if bias is None else (bias + shift).astype(np.float32)

    def _constant_grid(self, value: ir.Value | None) -> Grid:
        array = ir.constant(value)
        assert array is not None
        real = Range.around(float(array.min(initial=0.0)), float(array.max(initial=0.0)))
        return activation_grid(real, self.target.activation_type, self.target.activation_symmetric)


def rounding(target: Target, recipe: GridOptions = GridOptions()) -> RoundedWeights:
    """A store of one model's rounded weights for several quantizers with this target and these options."""
    return RoundedWeights(target.weight_type, target.reduced_range, recipe.weight_search)


def unfit_constants(graph: ir.Graph) -> dict[str, str]:
    """Names of the nodes that read constants which no grid holds -> why. O(constants) the first time."""
    return {
        node.name or "": f"'{value.name}' holds infinity or NaN"
        for node in graph
        for value in node.inputs
        if value is not None and not ir.is_finite(value)
    }


def mean_output(node: ir.Node, weight: Array, mean: Array) -> Array:
    """(outputs,) the mean output of a compute node with `weight` when each input channel has the given mean.

    Borders, where padding replaces some of the inputs, are neglected.
    """
    if node.op_type == "Conv":
        group = ir.attribute(node, "group", 1)
        taps = weight.reshape(group, weight.shape[0] // group, weight.shape[1], -1).sum(axis=3)
        found: Array = np.einsum("goc,gc->go", taps, mean.reshape(group, -1)).reshape(-1)
        return found
    if node.op_type == "ConvTranspose":
        group = ir.attribute(node, "group", 1)
        strides = np.prod(ir.attribute(node, "strides", (1,) * (weight.ndim - 2)))
        taps = weight.reshape(group, weight.shape[0] // group, weight.shape[1], -1).sum(axis=3) / strides
        return np.asarray(np.einsum("gco,gc->go", taps, mean.reshape(group, -1)).reshape(-1))
    if node.op_type == "Gemm" and ir.attribute(node, "transB", 0):
        return np.asarray(weight @ mean)
    return np.asarray(mean @ weight)


def mean_error(node: ir.Node, weight: Array, grid: Grid, integers: Array, mean: Array) -> Array:
    """`mean_output` of what rounding took from the weight, a slab at a time: of 64 million, copies take 512 MB each."""
    if ir.attribute(node, "group", 1) > 1:
        return mean_output(node, weight - grid.decode(integers), mean)
    lost = ((part, weight[part] - real) for part, real in grid.decoded(integers))
    if node.op_type == "Conv" or (node.op_type == "Gemm" and ir.attribute(node, "transB", 0)):
        return np.concatenate([mean_output(node, each, mean) for _, each in lost])
    return np.asarray(np.sum([mean_output(node, each, mean[part]) for part, each in lost], axis=0))


def fold_gemm(node: ir.Node) -> None:
    """Put a Gemm's alpha and beta into its constants, which are copied; integer kernels want both to be 1."""
    if node.op_type != "Gemm":
        return
    for name, index in (("alpha", 1), ("beta", 2)):
        factor = ir.attribute(node, name, 1.0)
        if factor == 1.0 or len(node.inputs) <= index or node.inputs[index] is None:
            continue
        value = node.inputs[index]
        constant = ir.constant(value)
        assert constant is not None and value is not None and node.graph is not None
        scaled = (constant.astype(np.float64) * factor).astype(constant.dtype)
        node.replace_input_with(index, ir.add_initializer(ir.graph_of(node.graph), scaled, value.name or "constant"))
        node.attributes.pop(name)


def whole_channels(node: ir.Node) -> bool:
    """Whether the axis of the weight counts all output channels: not so in a grouped ConvTranspose."""
    return node.op_type != "ConvTranspose" or ir.attribute(node, "group", 1) == 1


def name_nodes(graph: ir.Graph) -> None:
    """Give every node without a name one, so that it can be talked about."""
    seen: set[str] = set()
    for node in graph:
        if not node.name or node.name in seen:
            node.name = ir.fresh_name(graph, node.name or f"{node.op_type.lower()}")
        seen.add(node.name)


__all__ = [
    "Built",
    "GridOptions",
    "Quantizer",
    "fold_gemm",
    "mean_error",
    "mean_output",
    "name_nodes",
    "rounding",
    "whole_channels",
]
