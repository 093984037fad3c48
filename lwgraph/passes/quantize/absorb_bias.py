"""absorb-bias: moves what all values of a channel have in common into the bias of the next layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from lwgraph import ir, registry
from lwgraph.arrays import Floats
from lwgraph.calibrate.ranges import Observed, collect
from lwgraph.layers.site import Site, find_sites
from lwgraph.layers.weights import check_writable, has_bias_slot, write
from lwgraph.passes.quantize.graph.shapes import infer
from lwgraph.passes.quantize.placing.already_quantized import quantized_already
from lwgraph.passes.quantize.placing.roles import clip_range
from lwgraph.rewrite import Context, Contract, Pass
from lwgraph.rewrite.base import Skip

_LEAST = 0.01  # share of its range by which a tensor must get narrower
_SAME = ("Dropout", "GlobalAveragePool", "GlobalMaxPool", "Identity", "MaxPool")  # f(x - c) = f(x) - c


@dataclass(frozen=True)
class AbsorbBias(Pass):
    """Shift channels that stay far from zero down to it, for a finer grid, and add the shift back in the next layer.

    Between two layers, max(x - c, 0) = max(x, 0) - c wherever x >= c, so b - c in the first and b' + W' c in the second
    give the same outputs (Nagel, van Baalen, Blankevoort, Welling 2019, section 4.1.3). c is the lowest value seen on
    the data, or `deviations` standard deviations below the mean, whichever is lower; without an activation between,
    the outputs are the same for any data.
    """

    name: ClassVar[str] = "absorb-bias"
    contract: ClassVar[Contract] = Contract.APPROXIMATE
    asks: ClassVar[bool] = True

    deviations: Annotated[float, "standard deviations below the mean that a channel must keep free of zero"] = 3.0

    def __post_init__(self) -> None:
        self.check_option("deviations", self.deviations >= 0, self.deviations, "0 or more")

    def run(self, model: ir.Model, context: Context) -> int:
        """The number of tensors shifted. Without data, nothing."""
        known = quantized_already(model)
        if known is not None:
            context.skip(self.name, model.graph.name or "the model", f"already quantized: {known}")
            return 0
        if not context.data:
            context.skip(self.name, model.graph.name or "the model", "it needs data to see which channels are high")
            return 0
        working = ir.clone(model)
        infer(working)
        chains = _chains(working, self.name, context)
        if not chains:
            return 0
        executor = context.executor or registry.executor("ort", threads=context.threads)
        names = {chain.site.output.name or "": 1 for chain in chains}
        seen = collect(working, context.data, executor, list(names), channels=names, samples=64, seed=context.seed)
        done = 0
        for chain in chains:
            shift = self._shift(chain, seen[chain.site.output.name or ""])
            if isinstance(shift, str):
                context.skip(self.name, chain.site.name, shift)
            elif context.allow(self.name, chain.site.name):
                _absorb(working, chain, shift)
                done += 1
        if done:
            ir.replace_contents(model, working)
        return done

    def _shift(self, chain: _ShiftPath, seen: Observed) -> Floats | str:
        """(channels,) what to subtract, or why nothing."""
        if seen.rangeless:
            return f"its output {seen.rangeless}"
        assert seen.channel_low is not None and seen.channel_high is not None
        assert seen.channel_mean is not None and seen.channel_square is not None
        deviation = np.sqrt(np.maximum(seen.channel_square - seen.channel_mean**2, 0))
        low = np.minimum(seen.channel_low, seen.channel_mean - self.deviations * deviation)
        high = np.maximum(seen.channel_high, seen.channel_mean + self.deviations * deviation)
        if chain.floor is None:
            shift = np.where(low > 0, low, np.where(high < 0, high, 0.0))
        else:
            shift = np.where(low > chain.floor, low - chain.floor, 0.0)
            if chain.ceiling is not None:
                shift = np.where(seen.channel_high <= chain.ceiling, shift, 0.0)
        floor = -np.inf if chain.floor is None else chain.floor
        old = _span(np.maximum(seen.channel_low, floor), np.maximum(seen.channel_high, floor))
        new = _span(np.maximum(seen.channel_low - shift, floor), np.maximum(seen.channel_high - shift, floor))
        if new > (1 - _LEAST) * old:
            return "no bias is high enough to widen the range of its output"
        return np.asarray(shift, np.float64)


@dataclass
class _ShiftPath:
    """A layer, the clip behind it (floor None: none), and the layers that read it with the shift's way to them."""

    site: Site
    floor: float | None
    ceiling: float | None
    readers: list[tuple[str, int]]  # site name, how often each channel is repeated


def _span(low: Floats, high: Floats) -> float:
    """The range that a grid needs; it always holds zero."""
    return max(float(high.max()), 0.0) - min(float(low.min()), 0.0)


def _chains(model: ir.Model, name: str, context: Context) -> list[_ShiftPath]:
    sites = {site.node: site for site in find_sites(model)}
    found = []
    for site in sites.values():
        if site.graph is not model.graph or (site.kind == "matmul" and not has_bias_slot(site)):
            continue
        output, floor, ceiling = site.output, None, None
        rank = 0 if output.shape is None else len(output.shape)
        if rank < 2 or (site.kind in ("gemm", "matmul") and rank != 2):
            continue
        users = list(output.consumers())
        try:
            check_writable(site)
            if len(users) == 1 and ir.operator(users[0]) in ("Relu", "Clip") and not output.is_graph_output():
                low, high = (0.0, None) if users[0].op_type == "Relu" else clip_range(users[0])
                if low is None:
                    raise Skip("its Clip has no constant lower end")
                floor, ceiling = low, None if high is None or np.isinf(high) else high
                output = users[0].outputs[0]
            found.append(_ShiftPath(site, floor, ceiling, _readers(output, 1, sites)))
        except Skip as reason:
            context.skip(name, site.name, str(reason))
    return found


def _readers(value: ir.Value, repeat: int, sites: Mapping[ir.Node, Site]) -> list[tuple[str, int]]:
    """The layers that take up a shift of `value`; Skip when anybody else would see it."""
    if value.is_graph_output():
        raise Skip(f"'{value.name}' is an output of the model")
    found = []
    users = {use.node: use.idx for use in value.uses()}
    if not users:
        raise Skip(f"nothing reads '{value.name}'")
    for node, index in users.items():
        site = sites.get(node)
        if site is not None and index == 0:
            _check_reader(site)
            found.append((site.name, repeat))
        elif (ir.operator(node) in _SAME and len(node.outputs) == 1) or _is_plain_average(node):
            found += _readers(node.outputs[0], repeat, sites)
        elif ir.operator(node) == "Flatten" and ir.attribute(node, "axis", 1) == 1 and value.shape is not None:
            sizes = [d for d in value.shape[2:] if isinstance(d, int)]
            if len(sizes) != len(value.shape) - 2:
                raise Skip(f"'{node.name}' flattens an image of unknown size")
            found += _readers(node.outputs[0], repeat * int(np.prod(sizes, dtype=np.int64)), sites)
        else:
            raise Skip(
                f"'{node.name}' ({node.op_type}) also reads its output, or a value on the way, and would see the shift"
            )
    return found


def _check_reader(site: Site) -> None:
    check_writable(site)
    if site.kind == "conv_transpose":
        raise Skip(f"'{site.name}' is a ConvTranspose, whose borders see fewer taps")
    if site.kind == "conv" and (any(site.pads) or site.auto_pad not in ("NOTSET", "VALID")):
        raise Skip(f"'{site.name}' pads with zeros, which the shift does not move")
    if not has_bias_slot(site):
        raise Skip(f"'{site.name}' has no bias to absorb the shift")


def _is_plain_average(node: ir.Node) -> bool:
    return (
        ir.operator(node) == "AveragePool"
        and not any(ir.attribute(node, "pads", ()))
        and ir.attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
        and not ir.attribute(node, "ceil_mode", 0)
    )


def _absorb(model: ir.Model, chain: _ShiftPath, shift: Floats) -> None:
    sites: dict[str, Any] = {site.name: site for site in find_sites(model)}  # anew: weights may just have been written
    site: Site = sites[chain.site.name]
    write(site, site.weight, (0.0 if site.bias is None else site.bias) - shift)
    for name, repeat in chain.readers:
        reader: Site = sites[name]
        taps = reader.weight.reshape(reader.group, reader.outputs // reader.group, reader.shape[1], -1).sum(axis=3)
        own = np.repeat(shift, repeat).reshape(reader.group, reader.shape[1])
        added = np.einsum("goc,gc->go", taps, own).reshape(-1)
        write(reader, reader.weight, (0.0 if reader.bias is None else reader.bias) + added)


__all__ = ["AbsorbBias"]
