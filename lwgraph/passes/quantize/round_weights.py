"""round-weights: rounds the weights of layers to integer grids, with the least loss, and keeps them as floats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from lwgraph import ir, registry
from lwgraph.arrays import Floats
from lwgraph.calibrate import CrossMoments, cross_moments
from lwgraph.layers.apply import moments_of, observable, unfit
from lwgraph.layers.linalg import rounding, shrinkage
from lwgraph.layers.moments import inexact, too_wide
from lwgraph.layers.site import Site, find_sites
from lwgraph.layers.weights import check_writable, has_bias_slot, write
from lwgraph.passes.quantize.grids.second_order import (
    block_scales,
    descend,
    learned,
    row_scales,
    second_order,
    steps_of,
    to_nearest,
)
from lwgraph.rewrite import Context, Contract, Pass
from lwgraph.rewrite.base import Skip


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Round the weights of Conv, Gemm and MatMul to few-bit grids, by what their inputs on the data make of it.

    The weights stay float tensors with at most 2^bits - 1 different values per output channel (or block of it), so the
    model runs anywhere; `quantize` finds 8-bit grids of whole channels again exactly. Biases take up what the rounding
    changed on average.
    """

    name: ClassVar[str] = "round-weights"
    contract: ClassVar[Contract] = Contract.APPROXIMATE
    spares: ClassVar[str] = "ignored_scope"

    bits: Annotated[int, "bits per weight, 2 to 8"] = 8
    method: Annotated[
        Literal["second-order", "adaround", "nearest"],
        "second-order (GPTQ, then coordinate descent), adaround, or nearest",
    ] = "second-order"
    block: Annotated[int, "inputs that share a step, by taps within channels; 0: all of an output channel"] = 0
    sequential: Annotated[
        bool,
        "round each layer by the activations that the rounded layers before it leave, "
        "aiming at the original's outputs; one run over the data per layer",
    ] = False
    ignored_scope: Annotated[tuple[str, ...], "names of layers that stay as they are"] = ()

    def __post_init__(self) -> None:
        self.check_option("bits", 2 <= self.bits <= 8, self.bits, "2 to 8")
        self.check_option("block", self.block >= 0, self.block, "0 or more")

    @property
    def limit(self) -> int:
        """The largest integer of the symmetric grid."""
        return (1 << (self.bits - 1)) - 1

    def run(self, model: ir.Model, context: Context) -> int:
        """Rewrite in place; the number of layers rounded.

        Layers whose inputs cannot be seen (no data, or inside a subgraph) are rounded by the weights alone, with a
        warning.
        """
        sites = [
            site
            for site in find_sites(model, refused=lambda place, why: context.skip(self.name, place, why))
            if self._takes(site, context)
        ]
        aiming = self.sequential and bool(context.data)
        context = self._observing(model, sites, context, prefetch=not aiming)
        original, done = ir.clone(model), 0
        for part in _waves(sites) if aiming else [sites]:
            aims = self._aims(original, model, part, context) if aiming else {}
            for site in part:
                if site.name in aims:
                    self._aim(site, *aims[site.name])
                elif why := unfit([site], context):
                    context.skip(self.name, site.name, why)
                    continue
                else:
                    moments = moments_of([site], context)
                    weight = site.weight.reshape(site.group, -1, site.fan_in)
                    if moments.exact:
                        kernel = self._rounded(weight, [b.moments for b in moments.blocks])
                    else:
                        if self.method != "nearest":
                            context.warn(f"{self.name} rounds '{site.name}' to nearest: {inexact(site)}")
                        kernel = self._nearest(weight, [loss.diagonal for loss in moments.losses])
                    kernel = kernel.reshape(site.weight.shape)
                    bias = (0.0 if site.bias is None else site.bias) + moments.shift(kernel)
                    write(site, kernel, bias if has_bias_slot(site) and (site.bias is not None or bias.any()) else None)
                done += 1
                context.progress(self.name, done, len(sites))
        return done

    def _observing(self, model: ir.Model, sites: Sequence[Site], context: Context, prefetch: bool) -> Context:
        """A context with moments of this model's layer inputs; the given one may have none, or an older model's."""
        if context.data:
            context = context.beside(statistics=context.statistics_of(model))
        blind = [site.name for site in sites if context.statistics is None or not observable(site)]
        if blind and self.method != "nearest":
            why = "there is no data" if context.statistics is None else "their inputs are inside a subgraph"
            context.warn(f"{self.name} rounds {len(blind)} layers ('{blind[0]}' first) by their weights alone: {why}")
        if prefetch and context.statistics is not None:
            context.statistics.prefetch([site for site in sites if observable(site)])
        return context

    def _takes(self, site: Site, context: Context) -> bool:
        if site.name in self.ignored_scope:
            context.skip(self.name, site.name, "in ignored_scope")
            return False
        try:
            check_writable(site)
        except Skip as reason:
            context.skip(self.name, site.name, str(reason))
            return False
        return True

    @staticmethod
    def _aims(
        original: ir.Model, model: ir.Model, sites: Sequence[Site], context: Context
    ) -> dict[str, tuple[CrossMoments, CrossMoments]]:
        """The outputs that layers should give and the inputs that they now see, on most samples and on every fourth."""
        assert context.data is not None
        executor = context.executor or registry.executor("ort", threads=context.threads)
        aimed = [s for s in sites if s.kind != "conv_transpose" and has_bias_slot(s) and not too_wide(s)]
        targets = {site.name: str(site.output.name) for site in aimed}
        held = context.data[::4] if len(context.data) > 1 else []
        most = [f for i, f in enumerate(context.data) if i % 4] if held else []
        if not aimed or not most:
            return {}
        fitted, checked = (
            cross_moments(original, targets, model, aimed, feeds, executor, context.seed) for feeds in (most, held)
        )
        return {name: (fitted[name], checked[name]) for name in fitted.keys() & checked.keys()}

    def _aim(self, site: Site, moments: CrossMoments, held: CrossMoments) -> None:
        """Round the weight that best maps the present inputs to the original's outputs, or else the old weight:
        whichever is nearer to those outputs on samples that the fit has not seen.

        The least-squares weight is shrunk towards the old one as far as the samples do not determine it.
        """
        old = site.weight.reshape(site.group, -1, site.fan_in)
        covariance, cross = moments.gram.centred, moments.centred
        wanted, hessians = np.empty_like(old), []
        for g in range(site.group):
            ridge = max(shrinkage(covariance[g], moments.gram.count), rounding(moments.gram.matrix[g]))
            hessian = covariance[g] + ridge * np.eye(site.fan_in)
            wanted[g] = np.linalg.solve(hessian, (cross[g] + ridge * old[g]).T).T
            hessians.append(hessian)
        kernel = min((self._rounded(weight, hessians) for weight in (wanted, old)), key=lambda k: _error(k, held))
        bias = moments.target_mean - np.einsum("god,gd->go", kernel, moments.gram.mean)
        write(site, kernel.reshape(site.weight.shape), bias.reshape(-1))

    def _rounded(self, weight: Floats, moments: Sequence[Floats]) -> Floats:
        """(G, o/g, D) on the grid, for (G, o/g, D) and one H (D, D) per group."""
        found = np.empty_like(weight)
        for g, (rows, hessian) in enumerate(zip(weight, moments, strict=True)):
            scale, pin = self._steps(rows, np.diagonal(hessian)), not self.block
            if self.method == "second-order":
                q = second_order(rows, scale, self.limit, hessian, pin=pin)
                q = descend(rows, q, scale, self.limit, hessian, pin=pin)
            elif self.method == "adaround":
                q = learned(rows, scale, self.limit, hessian)
            else:
                q = to_nearest(rows, scale, self.limit)
            found[g] = q * steps_of(scale, rows.shape[1])
        return found

    def _nearest(self, weight: Floats, powers: Sequence[Floats]) -> Floats:
        """(G, o/g, D) on the grid, each weight by itself; only the steps look at the inputs' power, (D,) per group."""
        found = np.empty_like(weight)
        for g, (rows, power) in enumerate(zip(weight, powers, strict=True)):
            scale = self._steps(rows, power)
            found[g] = to_nearest(rows, scale, self.limit) * steps_of(scale, rows.shape[1])
        return found

    def _steps(self, rows: Floats, importance: Floats) -> Floats:
        """(o,) or, in blocks, (o, D) steps of least squared error."""
        if not self.block:
            return row_scales(rows, self.limit, importance)
        scale = block_scales(rows, self.limit, self.block, importance)
        return np.repeat(scale, self.block, axis=1)[:, : rows.shape[1]]


def _error(kernel: Floats, moments: CrossMoments) -> float:
    """E||y - K xhat||^2 with the best bias, but for the part that no kernel changes. K is (G, o/g, D)."""
    return float(np.vdot(kernel @ moments.gram.centred, kernel) - 2 * np.vdot(moments.centred, kernel))


def _waves(sites: Sequence[Site]) -> list[list[Site]]:
    """Consecutive sites none of which computes from another's output: each may be corrected without regard to the
    others. Two in a row must not be, or both would correct the same error."""
    waves: list[list[Site]] = []
    for site in sites:
        if not waves or _reaches({s.node for s in waves[-1]}, site.input):
            waves.append([])
        waves[-1].append(site)
    return waves


def _reaches(nodes: set[ir.Node], value: ir.Value) -> bool:
    """Whether `value` is computed from an output of one of `nodes`."""
    pending, seen = [value.producer()], set[ir.Node]()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        if node in nodes:
            return True
        seen.add(node)
        pending += [v.producer() for v in node.inputs if v is not None]
    return False
