"""Describes the integer region of a placement as parts and links, from which `min_cut` chooses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lwgraph import ir
from lwgraph.calibrate.histogram import Histogram
from lwgraph.measure.node_times import Border
from lwgraph.passes.quantize.graph.quantizer import Quantizer
from lwgraph.passes.quantize.grids.grid import Grid
from lwgraph.passes.quantize.judging.sensitivity import ErrorSource
from lwgraph.passes.quantize.placing.min_cut import Part, TensorLink
from lwgraph.passes.quantize.placing.target import Target

TIE = 1.15  # times slower in integers than in float that timing does not show surely
_JUST = 0.999


@dataclass
class _Tensor:
    """One integer tensor: the computed value, the clips and free products after it, and the readers."""

    value: ir.Value
    maker: ir.Node | None
    readers: dict[ir.Node, None] = field(default_factory=dict)
    outside: bool = False


class Region:
    """The nodes of a placement that may compute in integers, with the tensors between them.

    Args:
        quantizer: whose placement, grids and rounded weights these are.
        refused: nodes that stay in float whatever it costs, by name.
    """

    def __init__(self, quantizer: Quantizer, refused: Mapping[str, str]) -> None:
        self.quantizer, self.target = quantizer, quantizer.target
        self.model, self.placement = quantizer.placement(refused)
        self.grids = quantizer.grids(self.placement)
        made = self.placement
        self.nodes = [n for n, r in made.roles.items() if r.kind in ("compute", "convert", "keep")]
        self.members: dict[ir.Node, list[str]] = {n: [n.name or ""] for n in self.nodes}
        self.tensors: dict[ir.Value, _Tensor] = {}
        for node in self.nodes:
            for value in [v for i in made.roles[node].data if (v := node.inputs[i]) is not None]:
                base = self._base(value)
                tensor = self.tensors.setdefault(base, _Tensor(base, self._part_of(base)))
                tensor.readers[node] = None
            for value in node.outputs:
                self.tensors.setdefault(value, _Tensor(value, node))
        for tensor in self.tensors.values():
            tensor.outside = self._read_outside(tensor.value)

    def _part_of(self, value: ir.Value) -> ir.Node | None:
        maker = value.producer()
        return maker if maker in self.members else None

    def _base(self, value: ir.Value) -> ir.Value:
        """The value before redundant clips and free products."""
        made = self.placement
        while (maker := value.producer()) is not None:
            if maker in made.clips or value in made.aliases:
                source = maker.inputs[0] if maker in made.clips else made.aliases[value]
                assert source is not None
                value = source
                continue
            break
        return value

    def _read_outside(self, value: ir.Value) -> bool:
        """Whether a float node or the caller reads the value, or what a clip or product makes of it."""
        made = self.placement
        if value.is_graph_output():
            return True
        for use in value.uses():
            node = use.node
            if node in made.clips or (node in made.roles and made.roles[node].kind == "free"):
                if self._read_outside(node.outputs[0]):
                    return True
            elif node not in self.members or use.idx not in made.roles[node].data:
                return True
        return False

    def sources(self) -> tuple[list[ErrorSource], list[str]]:
        """The causes of error in graph order, and the key of each: a grid's or a node's name."""
        found: list[tuple[ErrorSource, str]] = []
        made = self.placement
        weights = {node: w for node in made.compute if (w := self.quantizer.rounded(node, self.grids)) is not None}
        named: dict[str, ir.Value] = {}
        for value in made.quantized:
            key = self._grid_key(self._base(value))
            named.setdefault(key, value)
        by_maker = {v.producer(): (key, v) for key, v in named.items()}
        order = [None, *made.graph]
        for node in order:
            if node is not None and node in weights:
                constant = ir.constant(node.inputs[1])
                assert constant is not None
                lost = all_ = 0.0
                for part, real in weights[node].grid.decoded(weights[node].integers):
                    lost += float(np.square(real - constant[part]).sum())
                    all_ += float(np.square(constant[part]).sum())
                local = lost / max(all_, 1e-30)
                found.append((ErrorSource(node.name or "", weights=weights[node], local=local), f"node:{node.name}"))
            for key, value in (
                [(k, v) for k, v in named.items() if v.producer() is None]
                if node is None
                else [by_maker[node]]
                if node in by_maker
                else []
            ):
                grid = self.grids[value]
                seen = self.quantizer.observed[value.name or ""].histogram
                found.append((ErrorSource(value.name or "", grid=grid, local=_local(grid, seen)), key))
        return [s for s, _ in found], [k for _, k in found]

    def _grid_key(self, value: ir.Value) -> str:
        """The name of the value whose grid this one has: that before all nodes that keep values."""
        maker = value.producer()
        while maker in self.members and maker is not None and self.placement.roles[maker].kind == "keep":
            source = maker.inputs[self.placement.roles[maker].data[0]]
            assert source is not None
            value = self._base(source)
            maker = value.producer()
        return value.name or ""

    def parts(
        self, floats: Mapping[str, float], integers: Mapping[str, float], damage: Mapping[str, float]
    ) -> list[Part]:
        """One part per node. A compute node of which one of the times is unknown counts as twice as fast in integers,
        one that is slower in integers by less than TIE as just as fast: its two times can hardly be told apart.

        Args:
            floats, integers: seconds by node name, of the float and of the all-integer model; empty: unknown.
            damage: by "node:" and the name, of the rounded weights.
        """
        found = []
        for node in self.nodes:
            name = node.name or ""
            real, whole = floats.get(name), integers.get(name)
            if self.placement.roles[node].kind == "compute" and (real is None or whole is None):
                known = real if real is not None else whole
                real, whole = (known, known / 2) if known is not None else (2e-6, 1e-6)
            if real is not None and whole is not None and real <= whole <= TIE * real:
                whole = _JUST * real
            found.append(
                Part(name, real or 0.0, whole or 0.0, damage.get(f"node:{name}", 0.0), self.may_return_floats(node))
            )
        return found

    def may_return_floats(self, node: ir.Node) -> bool:
        """Whether the node, in integers, can still return floats."""
        return returns_floats(node, self.target, self.quantizer.opset)

    def links(
        self, sizes: Mapping[str, tuple[int, ...]], border: Border, damage: Mapping[str, float]
    ) -> list[TensorLink]:
        """The tensors between parts. `sizes`: shapes by tensor name; `damage`: by grid key."""
        found = []
        for tensor in self.tensors.values():
            elements = float(math.prod(sizes.get(tensor.value.name or "", (0,))))
            key = self._grid_key(tensor.value)
            if not tensor.readers and not tensor.outside:
                continue
            found.append(
                TensorLink(
                    tensor.value.name or "",
                    key,
                    damage.get(key, 0.0),
                    None if tensor.maker is None else tensor.maker.name or "",
                    tuple(n.name or "" for n in tensor.readers),
                    tensor.outside,
                    border.enter(elements),
                    border.leave(elements),
                )
            )
        return found

    def values(self) -> list[str]:
        """Names of the tensors whose sizes matter."""
        return [v.name or "" for v in self.tensors]


def returns_floats(node: ir.Node, target: Target, opset: int) -> bool:
    """Whether an integer kernel of this node can return floats on the target."""
    return target.has(ir.operator(node), "float_output", opset) and not target.everything


def _local(grid: Grid, seen: Histogram) -> float:
    """Relative squared rounding error of a tensor on its grid, by its histogram."""
    total = seen.total
    if not total:
        return 0.0
    centres = seen.centres
    mean = float((seen.counts * centres).sum()) / total
    variance = float((seen.counts * centres**2).sum()) / total - mean**2
    step = float(np.max(grid.scale))
    low, high = grid.range() if grid.axis is None else (-math.inf, math.inf)
    outside = np.maximum(centres - high, 0) + np.maximum(low - centres, 0)
    clipped = float((seen.counts * outside**2).sum()) / total
    return (step**2 / 12 + clipped) / max(variance, 1e-30)


__all__ = ["Region", "returns_floats"]
