"""prune-weights: sets single weights to zero and refits the others; files get smaller, not models faster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.arrays import Floats
from lwgraph.layers.apply import moments_of, observable, unfit
from lwgraph.layers.moments import Block, inexact
from lwgraph.layers.site import Site, find_sites
from lwgraph.passes.clean.constants_to_initializers import ConstantsToInitializers
from lwgraph.passes.prune.assessment import matches
from lwgraph.passes.prune.compensate import add_to_bias, bias_of, own_biases, set_weight
from lwgraph.rewrite.base import Context, Contract, Pass

Mask = npt.NDArray[np.bool_]
ROUNDS, STEPS = 8, 10  # rounds of choosing, and conjugate-gradient steps after each


@dataclass(frozen=True)
class PruneWeights(Pass):
    """Set single weights to zero where that costs least, and refit the others: a smaller file once it is compressed.

    No runtime is faster for it; a warning says so. In rounds, the weights of least w^2 E[x^2] go (Sun et al. 2024,
    "A Simple and Effective Pruning Approach", eq. 1) and the others are refitted by least squares on the moments of the
    layer's inputs; without calibration data they go by size alone.
    """

    name: ClassVar[str] = "prune-weights"
    contract: ClassVar[Contract] = Contract.APPROXIMATE

    sparsity: Annotated[float, "share of each layer's weights that become zero; with N:M what that says"] = 0.5
    pattern: Annotated[str, "any: single weights; N:M: N of every M; blockK: runs of K along the inputs"] = "any"
    only: Annotated[str, "layers to prune: globs or re:expressions over names and operators, by comma"] = ""
    ignore: Annotated[str, "layers to leave alone, in the same way"] = ""

    def __post_init__(self) -> None:
        """Check the options."""
        self.check_option("sparsity", 0 <= self.sparsity < 1, self.sparsity, "from 0 to below 1")
        self.check_option("pattern", _runs(self.pattern) is not None, self.pattern, "any, N:M with N < M, or blockK")

    def run(self, model: ir.Model, context: Context) -> int:
        """Prune in place; the number of layers changed."""
        ConstantsToInitializers().run(model, Context())
        context.warn(f"{self.name}: zeros make the file smaller only once it is compressed, and no runtime faster")
        if context.statistics is None:
            context.warn(f"{self.name}: no calibration data; weights are chosen by their size alone")
        sites = [site for site in find_sites(model) if self._takes(site, context)]
        own_biases(model, [site for site in sites if bias_of(site) is not None])
        sites = [site for site in find_sites(model) if self._takes(site, context)]
        if context.statistics is not None:
            seen = [site for site in sites if site.graph is model.graph]
            context.statistics.prefetch(site for site in seen if context.statistics.exact(site))
        by_name = {site.name: site for site in sites}
        done: set[str] = set()
        for index, site in enumerate(sites):
            context.progress("pruning weights", index, len(sites))
            if site.name in done:
                continue
            if left_out := [name for name in site.shared if name not in by_name]:
                context.skip(self.name, site.name, f"it shares its weight with '{left_out[0]}', which is excluded")
                continue
            family = [site, *(by_name[name] for name in site.shared)]
            if unlike := next((member.name for member in family if member.layout != site.layout), ""):
                context.skip(self.name, site.name, f"it shares its weight with '{unlike}', which reads it otherwise")
                continue
            if reason := next((why for member in family if (why := self._unknown(member, context))), ""):
                context.skip(self.name, site.name, reason)
                continue
            self._prune(family, context)
            done.update(member.name for member in family)
        return len(done)

    def _takes(self, site: Site, context: Context) -> bool:
        names = [site.name, site.node.op_type]
        if (self.only and not matches(self.only, names)) or (self.ignore and matches(self.ignore, names)):
            context.skip(self.name, site.name, "excluded by only or ignore")
            return False
        return site.node.inputs[1] is not None and site.node.inputs[1].is_initializer()

    @staticmethod
    def _unknown(site: Site, context: Context) -> str:
        statistics = context.statistics
        if statistics is None or not observable(site):
            return ""
        return unfit([site], context) if statistics.exact(site) else inexact(site)

    def _prune(self, family: list[Site], context: Context) -> None:
        site, moments = family[0], moments_of(family, context)
        sparse = np.stack([sparsify(block, self.sparsity, self.pattern) for block in moments.blocks])
        shift = moments.shift(sparse.reshape(site.shape))
        set_weight(site, sparse.reshape(site.shape))
        for member in family:
            if bias_of(member) is not None and shift.any():
                add_to_bias(member, shift)


def _runs(pattern: str) -> tuple[int, int] | None:
    """(weights that go together, weights among which as many are chosen in every group; 0: anywhere)."""
    if pattern == "any":
        return 1, 0
    if found := re.fullmatch(r"(\d+):(\d+)", pattern):
        few, many = int(found[1]), int(found[2])
        return (1, many) if 0 < few < many else None
    if found := re.fullmatch(r"block(\d+)", pattern):
        return (int(found[1]), 0) if int(found[1]) > 0 else None
    return None


def sparsify(block: Block, sparsity: float, pattern: str) -> Floats:
    """The weight (o, D) of one group with zeros, the rest refitted. O(ROUNDS * STEPS * o D^2)."""
    weight, mask = np.array(block.matrix), np.ones(block.matrix.shape, bool)
    for part in range(1, ROUNDS + 1):
        scores = np.where(mask, np.square(weight) * np.diagonal(block.moments), -1.0)
        mask = _kept(scores, sparsity, part / ROUNDS, pattern)
        weight = _refit(block, mask, weight, STEPS if part < ROUNDS else 3 * STEPS)
    return weight


def _kept(scores: Floats, sparsity: float, part: float, pattern: str) -> Mask:
    """Which weights stay when a part of those that shall go has gone."""
    runs = _runs(pattern)
    assert runs is not None
    run, among = runs
    if not among:
        grouped = np.add.reduceat(scores, np.arange(0, scores.shape[1], run), axis=1)
        gone = np.zeros(grouped.shape, bool)
        gone.reshape(-1)[np.argsort(grouped, axis=None, kind="stable")[: round(part * sparsity * grouped.size)]] = True
        return ~np.repeat(gone, run, axis=1)[:, : scores.shape[1]]
    rows, columns = scores.shape
    missing = -columns % among  # an incomplete last group is filled up with zeros
    padded = np.column_stack([scores, np.full((rows, missing), -np.inf)]).reshape(rows, -1, among)
    count = round(part * (among - int(pattern.split(":")[0])))
    kept = np.ones(padded.shape, bool)
    np.put_along_axis(kept, np.argsort(padded, axis=2, kind="stable")[:, :, :count], False, axis=2)
    return kept.reshape(rows, -1)[:, :columns]


def _refit(block: Block, mask: Mask, weight: Floats, steps: int) -> Floats:
    """The weights on the mask of least tr((W - K) R (W - K)^T), by conjugate gradients for all rows at once."""
    moments = block.moments
    scale = 1 / np.diagonal(moments)
    kernel = np.where(mask, weight, 0.0)
    residual = np.where(mask, block.cross - kernel @ moments, 0.0)
    direction = residual * scale
    power = (residual * direction).sum(1, keepdims=True)
    for _ in range(steps):
        product = np.where(mask, direction @ moments, 0.0)
        curve = (direction * product).sum(1, keepdims=True)
        length = np.divide(power, curve, out=np.zeros_like(power), where=curve > 0)
        kernel += length * direction
        residual -= length * product
        after = (residual * residual * scale).sum(1, keepdims=True)
        direction = residual * scale + np.divide(after, power, out=np.zeros_like(after), where=power > 0) * direction
        power = after
    return kernel
