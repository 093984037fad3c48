"""Put the weights of layers on integer grids, as float numbers: what storing them in few bits costs, at its least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from lwgraph import ir, registry
from lwgraph.calibrate import CrossMoments, cross_moments
from lwgraph.passes.quantize.second_order import descend, learned, row_scales, second_order, to_nearest
from lwgraph.passes.recover.weights import check_writable, has_bias_slot, write
from lwgraph.plan.apply import moments_of
from lwgraph.plan.fit import shrinkage
from lwgraph.plan.site import Site, find_sites
from lwgraph.rewrite import Context, Contract, Pass
from lwgraph.rewrite.base import Skip

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Round the weights of Conv, Gemm and MatMul to few-bit grids, by what their inputs on the data make of it.

    The weights stay float tensors with at most 2^bits - 1 different values per output channel, so the model runs
    anywhere; `quantize` finds 8-bit grids again exactly. Biases take up what the rounding changed on average.
    """

    name: ClassVar[str] = "round-weights"
    contract: ClassVar[Contract] = Contract.APPROXIMATE

    bits: Annotated[int, "bits per weight, 2 to 8"] = 8
    method: Annotated[Literal["second-order", "adaround", "nearest"],
                      "second-order (GPTQ, then coordinate descent), adaround, or nearest"] = "second-order"
    stages: Annotated[int, "0: every layer by the original's activations; n: in n stages, each by the activations that "
                      "the stages before it left, aiming at the original's outputs"] = 0
    ignored_scope: Annotated[tuple[str, ...], "names of layers that stay as they are"] = ()

    def __post_init__(self) -> None:
        self.check_option("bits", 2 <= self.bits <= 8, self.bits, "2 to 8")
        self.check_option("stages", self.stages >= 0, self.stages, "0 or more")

    @property
    def limit(self) -> int:
        """The largest integer of the symmetric grid."""
        return (1 << (self.bits - 1)) - 1

    def run(self, model: ir.Model, context: Context) -> int:
        """Rewrite in place; the number of layers rounded. Without data, rounds by the weights alone."""
        sites = [site for site in find_sites(model, refused=lambda place, why: context.skip(self.name, place, why))
                 if self._takes(site, context)]
        if not self.stages or not context.data:
            parts = [sites]
            if context.statistics is not None:
                context.statistics.prefetch(sites)
        else:
            parts = [[sites[i] for i in part] for part in np.array_split(np.arange(len(sites)), self.stages)]
        original, done = ir.clone(model), 0
        for part in parts:
            aims = self._aims(original, model, part, context) if self.stages and context.data else {}
            for site in part:
                if site.name in aims:
                    self._aim(site, aims[site.name])
                else:
                    moments = moments_of([site], context)
                    weight = site.weight.reshape(site.group, -1, site.fan_in)
                    kernel = self._rounded(weight, [b.moments for b in moments.blocks]).reshape(site.weight.shape)
                    bias = (0.0 if site.bias is None else site.bias) + moments.shift(kernel)
                    write(site, kernel, bias if has_bias_slot(site) and (site.bias is not None or bias.any()) else None)
                done += 1
                context.progress(self.name, done, len(sites))
        return done

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
    def _aims(original: ir.Model, model: ir.Model, sites: Sequence[Site], context: Context) -> dict[str, CrossMoments]:
        """What the layers should give (in the original) and what they now see, in one run of both models."""
        assert context.data is not None
        executor = context.executor or registry.executor("ort", threads=context.threads)
        aimed = [site for site in sites if site.kind != "conv_transpose" and has_bias_slot(site)]
        targets = {site.name: str(site.output.name) for site in aimed}
        return cross_moments(original, targets, model, aimed, context.data, executor, context.seed) if aimed else {}

    def _aim(self, site: Site, moments: CrossMoments) -> None:
        """Round the weight that best maps the present inputs to the original's outputs.

        The least-squares weight is shrunk towards the old one as far as the samples do not determine it.
        """
        old = site.weight.reshape(site.group, -1, site.fan_in)
        covariance, cross = moments.gram.centred, moments.centred
        wanted, hessians = np.empty_like(old), []
        for g in range(site.group):
            ridge = shrinkage(covariance[g], moments.gram.count)
            hessian = covariance[g] + ridge * np.eye(site.fan_in)
            wanted[g] = np.linalg.solve(hessian, (cross[g] + ridge * old[g]).T).T
            hessians.append(hessian)
        kernel = self._rounded(wanted, hessians)
        bias = moments.target_mean - np.einsum("god,gd->go", kernel, moments.gram.mean)
        write(site, kernel.reshape(site.weight.shape), bias.reshape(-1))

    def _rounded(self, weight: Floats, moments: Sequence[Floats]) -> Floats:
        """(G, o/g, D) on the grid, for (G, o/g, D) and one H (D, D) per group."""
        found = np.empty_like(weight)
        for g, (rows, hessian) in enumerate(zip(weight, moments, strict=True)):
            scale = row_scales(rows, self.limit, np.diagonal(hessian))
            if self.method == "second-order":
                q = second_order(rows, scale, self.limit, hessian)
                q = descend(rows, q, scale, self.limit, hessian)
            elif self.method == "adaround":
                q = learned(rows, scale, self.limit, hessian)
            else:
                q = to_nearest(rows, scale, self.limit)
            found[g] = q * scale[:, None]
        return found
