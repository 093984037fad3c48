"""Tucker-2: 1 x 1 into few channels, k x k among few channels, 1 x 1 out of them.

    Khat[o, c, d] = sum_pq A[o, p] G[p, q, d] B[q, c]                      (Kim et al. 2016; a bottleneck block)

B starts as the whitened channel basis. For a given B the best A and G are known in closed form: with the refitted
k x k stage H = W R F^T (F R F^T)^-1 over the features F = B (x) taps, the columns of A are the leading eigenvectors of
H (F R F^T) H^T and G = A^T H. Then B follows by conjugate gradients against the outputs that A keeps (a HOOI sweep).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Floats
from lwgraph.errors import UsageError
from lwgraph.layers.emit import Emitter
from lwgraph.layers.form import Fitted, Form, ceil16, cheaper
from lwgraph.layers.linalg import balance
from lwgraph.layers.moments import Block, Moments
from lwgraph.layers.site import Site
from lwgraph.passes.forms._split import (
    SWEEPS,
    arranged,
    explained,
    first_stage,
    inverse_average,
    second_stage,
    solved,
)


@dataclass(frozen=True)
class Tucker(Form):
    """A 1 x 1, a k x k and a 1 x 1 convolution: a bottleneck."""

    name: ClassVar[str] = "tucker"

    inputs: Annotated[int, "channels after the first stage (per group); 0: by ratio"] = 0
    outputs: Annotated[int, "channels before the last stage (per group); 0: by ratio"] = 0
    ratio: Annotated[float, "both as a share of the layer's channels, rounded up to a multiple of 16"] = 0.5

    def __post_init__(self) -> None:
        if min(self.inputs, self.outputs) < 0:
            raise UsageError(f"form 'tucker' has {self.inputs} and {self.outputs} channels; allowed: 0 or more")
        self.check_option("ratio", 0 < self.ratio <= 1, "above 0, at most 1")

    @classmethod
    def refusal(cls, site: Site) -> str:
        """Why this form cannot stand at `site`; "" when it can."""
        if site.taps == 1:
            return "the layer has no spatial kernel; low-rank does the same with one stage fewer"
        if min(site.outputs // site.group, site.shape[1]) < 2:
            return "a group has a single input or output channel, so there is no rank to lower"
        return ""

    @classmethod
    def menu(cls, site: Site) -> Sequence[Form]:
        """Both ranks at 1/8 to 3/4 of the channels where that saves work."""
        sizes = dict.fromkeys(cls(ratio=share).at(site) for share in (1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4))
        return cheaper(sizes, site)

    @classmethod
    def full(cls, site: Site) -> Form:
        """All channels."""
        return cls(site.shape[1], site.outputs // site.group)

    def at(self, site: Site) -> Tucker:
        """The ranks that `site` gets."""
        inputs, outputs = site.shape[1], site.outputs // site.group
        return Tucker(
            min(self.inputs, inputs) or ceil16(self.ratio * inputs, inputs),
            min(self.outputs, outputs) or ceil16(self.ratio * outputs, outputs),
        )

    def fit(self, site: Site, moments: Moments) -> Fitted:
        """Whitened HOSVD, the core and the outer stages refitted, two HOOI sweeps."""
        form = self.at(site)
        parts = [factor(block, form.inputs, form.outputs) for block in moments.blocks]
        kernel = np.concatenate([_join(*part) for part in parts])
        names = ("reduce", "core", "expand")
        arrays = {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)}
        return form.fitted(site, moments, arrays, kernel)

    def estimate(self, site: Site, moments: Moments) -> float:
        """The error of the whitened channel basis; one factorization gives all pairs of ranks."""
        form, loss = self.at(site), 0.0
        for block in moments.blocks:
            kept = explained(block, (), form.inputs)
            kept = kept.reshape(-1, kept.shape[-1])
            gains = np.linalg.eigvalsh(kept.T @ kept)[-form.outputs :]
            loss += float(np.vdot(block.cross, block.matrix)) - float(gains.sum())
        return moments.relative(loss)

    def blank(self, site: Site) -> Fitted:
        """Random weights."""
        form, random, ones = self.at(site), np.random.default_rng(0), (1,) * len(site.kernel)
        arrays = {
            "reduce": random.standard_normal((form.inputs * site.group, site.shape[1], *ones)) / site.shape[1],
            "core": random.standard_normal((form.outputs * site.group, form.inputs, *site.kernel)) / site.taps,
            "expand": random.standard_normal((site.outputs, form.outputs, *ones)) / form.outputs,
        }
        return form.unfitted(site, arrays)

    def emit(self, op: Emitter, x: ir.Value, fitted: Fitted) -> ir.Value:
        """Three layers of the site's kind; the middle one has its stride and padding, the last one the bias."""
        group, arrays = fitted.site.group, fitted.arrays
        y = op.stage(x, arrays["reduce"], "reduce", axes=(), group=group)
        y = op.stage(y, arrays["core"], "core", group=group)
        return op.stage(y, arrays["expand"], "expand", bias=fitted.bias, axes=(), group=group)

    def macs(self, site: Site) -> int:
        """Multiply-accumulates for one batch."""
        form, everything = self.at(site), range(len(site.kernel))
        first = form.inputs * site.inputs * site.positions(())
        core = form.inputs * form.outputs * site.group * site.taps * site.stage_positions()
        return first + core + form.outputs * site.outputs * site.positions(everything)


def factor(block: Block, inputs: int, outputs: int) -> tuple[Floats, Floats, Floats]:
    """B (q, c, 1...), G (p, q, *k) and A (o, p, 1...) of least error. O(q D^2) per sweep and (q taps)^3."""
    moments = arranged(block, ())[1]
    cross = np.asarray(block.cache[("cross", ())])
    best: tuple[float, Floats, Floats, Floats] | None = None
    for basis, _, _, second in solved(block, (), inputs):
        found = _outer(second, cross, basis, outputs)
        if best is None or found[0] < best[0]:
            best = found
    assert best is not None
    loss, expand, core, reduce = best
    for _ in range(block.sweeps(SWEEPS)):
        kept = np.einsum("op,oti->pti", expand, cross, optimize=True)
        better = first_stage(moments, kept, reduce, core, inverse_average(block, ()))
        found = _outer(second_stage(moments, cross, better)[1], cross, better, outputs)
        if found[0] >= loss:
            break
        done = block.settled(loss, found[0])
        loss, expand, core, reduce = found
        if done:
            break
    shape = block.weight.shape[2:]
    middle = core.transpose(0, 2, 1).reshape(len(core), len(reduce), *shape)
    ones = (1,) * len(shape)
    first, middle = balance(reduce.reshape(*reduce.shape, *ones), middle)
    middle, last = balance(middle, expand.reshape(*expand.shape, *ones))
    return first, middle, last


def _outer(refit: Floats, cross: Floats, reduce: Floats, outputs: int) -> tuple[float, Floats, Floats, Floats]:
    """Loss (up to a constant), A (o, p), G (p, T, q) and B for a given B (q, c) and its best second stage (o, T, q)."""
    refit = refit.reshape(*cross.shape[:2], len(reduce))
    explained = np.einsum("otq,uti,qi->ou", refit, cross, reduce, optimize=True)  # H (F R F^T) H^T
    values, vectors = np.linalg.eigh((explained + explained.T) / 2)
    expand = vectors[:, ::-1][:, :outputs]
    core = np.einsum("op,otq->ptq", expand, refit, optimize=True)
    return -float(values[::-1][:outputs].sum()), expand, core, reduce


def _join(reduce: Floats, core: Floats, expand: Floats) -> Floats:
    a, b = expand.reshape(len(expand), -1), reduce.reshape(len(reduce), -1)
    kernel = np.einsum("op,pqt,qc->oct", a, core.reshape(len(core), len(reduce), -1), b, optimize=True)
    return np.ascontiguousarray(kernel.reshape(len(a), b.shape[1], *core.shape[2:]))


__all__ = ["Tucker"]
