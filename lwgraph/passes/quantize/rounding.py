"""What passes that round the weights of layers share: which layers, by what moments, and where results go."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from lwgraph import ir, registry
from lwgraph.arrays import Floats
from lwgraph.calibrate import CrossMoments, cross_moments
from lwgraph.layers.apply import moments_of, observable, unfit
from lwgraph.layers.linalg import rounding, shrinkage
from lwgraph.layers.moments import inexact, too_wide
from lwgraph.layers.site import Site, find_sites
from lwgraph.layers.weights import check_writable, has_bias_slot, write
from lwgraph.passes.quantize.grids.levels import Levels
from lwgraph.rewrite import Context, Contract, Pass
from lwgraph.rewrite.base import Skip


@dataclass(frozen=True)
class Rounded:
    """A layer's weight on a grid.

    Attributes:
        kernel: (G, o/g, D).
        levels: the grid of each group, where it has levels of its own.
    """

    kernel: Floats
    levels: Sequence[Levels] = ()


@dataclass(frozen=True)
class Rounding(Pass):
    """Rounds the weights of Conv, ConvTranspose, Gemm and MatMul; biases take up what it changed on average.

    A subclass says how a weight is rounded (`rounded`) and, where values of few kinds are stored in a form of their
    own, how (`store`).
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE
    spares: ClassVar[str] = "ignored_scope"

    sequential: Annotated[
        bool,
        "round each layer by the activations that the rounded layers before it leave, "
        "aiming at the original's outputs; one run over the data per layer",
    ] = False
    ignored_scope: Annotated[tuple[str, ...], "names of layers that stay as they are"] = ()

    @abstractmethod
    def rounded(self, weight: Floats, moments: Sequence[Floats]) -> Rounded:
        """A weight on the grid.

        Args:
            weight: (G, o/g, D).
            moments: of each group's inputs, (D, D); or their diagonals (D,), by which each weight is rounded by itself.
        """

    @property
    def blind(self) -> bool:
        """Whether nothing but the weight itself is looked at."""
        return False

    def at(self, layer: str) -> Rounding:
        """The pass as it treats one layer, by name: itself, unless layers differ."""
        return self

    def store(self, model: ir.Model, found: dict[str, Rounded], context: Context) -> int:
        """Store rounded layers, by name, in a form of their own; the number of weights beyond them that were stored."""
        return 0

    def objection(self, site: Site) -> str:
        """Why a layer is left as it is; "" when it is not."""
        return ""

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
        original, done, found = ir.clone(model), 0, dict[str, Rounded]()
        for part in _waves(sites) if aiming else [sites]:
            aims = self._aims(original, model, part, context) if aiming else {}
            for site in part:
                if site.name in aims:
                    found[site.name] = self.at(site.name)._aim(site, *aims[site.name])
                elif why := unfit([site], context):
                    context.skip(self.name, site.name, why)
                    continue
                else:
                    moments = moments_of([site], context)
                    weight = site.weight.reshape(site.group, -1, site.fan_in)
                    if not moments.exact and not self.blind:
                        context.warn(f"{self.name} rounds '{site.name}' to nearest: {inexact(site)}")
                    # Of white inputs, which stand for those that nobody saw, each weight is rounded by itself anyway.
                    exact = moments.exact and moments.count is not None
                    seen = [b.moments for b in moments.blocks] if exact else [q.diagonal for q in moments.losses]
                    found[site.name] = self.at(site.name).rounded(weight, seen)
                    kernel = found[site.name].kernel.reshape(site.weight.shape)
                    bias = (0.0 if site.bias is None else site.bias) + moments.shift(kernel)
                    write(site, kernel, bias if has_bias_slot(site) and (site.bias is not None or bias.any()) else None)
                done += 1
                context.progress(self.name, done, len(sites))
        return done + self.store(model, found, context)

    def _observing(self, model: ir.Model, sites: Sequence[Site], context: Context, prefetch: bool) -> Context:
        """A context with moments of this model's layer inputs; the given one may have none, or an older model's."""
        if context.data:
            context = context.beside(statistics=context.statistics_of(model))
        blind = [site.name for site in sites if context.statistics is None or not observable(site)]
        if blind and not self.blind:
            why = "there is no data" if context.statistics is None else "their inputs are inside a subgraph"
            context.warn(f"{self.name} rounds {len(blind)} layers ('{blind[0]}' first) by their weights alone: {why}")
        if prefetch and context.statistics is not None:
            context.statistics.prefetch([site for site in sites if observable(site)])
        return context

    def _takes(self, site: Site, context: Context) -> bool:
        if reason := "in ignored_scope" if site.name in self.ignored_scope else self.at(site.name).objection(site):
            context.skip(self.name, site.name, reason)
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

    def _aim(self, site: Site, moments: CrossMoments, held: CrossMoments) -> Rounded:
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
        best = min((self.rounded(weight, hessians) for weight in (wanted, old)), key=lambda r: _error(r.kernel, held))
        kernel = best.kernel
        bias = moments.target_mean - np.einsum("god,gd->go", kernel, moments.gram.mean)
        write(site, kernel.reshape(site.weight.shape), bias.reshape(-1))
        return best


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


__all__ = ["Rounded", "Rounding"]
