"""refit-head and refit-layers: least squares from what a layer sees now to what the original gave there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.calibrate.gram import CrossMoments
from lwgraph.calibrate.statistics import cross_moments
from lwgraph.errors import UsageError
from lwgraph.passes.recover.closed_form import EQUAL, ClosedForm, Job, Target
from lwgraph.passes.recover.matching import is_linear
from lwgraph.passes.recover.weights import has_bias_slot, write
from lwgraph.plan.site import Site
from lwgraph.rewrite.base import Contract, Skip

Array = npt.NDArray[Any]
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class RefitLayers(ClosedForm):
    """Fit each layer, in order, from its inputs in the rewritten model to its outputs in the original one.

    Asymmetric reconstruction (Zhang et al. 2015, arXiv 1505.06798, section 3.3), linear case: W = C G^-1, with a ridge
    towards the present weight. Corrects the error of all layers before. O(D³) per layer with D inputs per patch,
    O(layers * samples) runs.
    """

    name = "refit-layers"
    contract = Contract.APPROXIMATE

    samples: Annotated[int, "calibration samples to use at most"] = 256

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise UsageError(f"option 'samples' of pass '{self.name}' is {self.samples}; at least 2")

    @property
    def limit(self) -> int:
        """How many samples to use at most."""
        return self.samples

    def correct(self, job: Job, site: Site, target: Target) -> bool:
        """Refit one layer."""
        if site.kind == "conv_transpose":
            raise Skip("a transposed convolution's patches overlap in its output")
        output = site.output.name or ""
        if target.minus:  # the sum's own value is what cross_moments knows nothing of
            if not any(v.name == output for n in job.teacher.graph for v in n.outputs):
                raise Skip("the original has no value of its name")
            target = Target(output)
        shifts = has_bias_slot(site)
        fit, held = (
            cross_moments(job.teacher, {site.name: target.name}, job.model, [site], feeds, job.executor, job.seed)[
                site.name
            ]
            for feeds in (job.fit, job.held)
        )
        shape = (site.group, site.outputs // site.group, site.fan_in)
        w = site.weight.reshape(shape)
        b = (np.zeros(site.outputs) if site.bias is None else site.bias).reshape(shape[:2])
        plain = _error(held, w, b)
        if _error(fit, w, b) <= EQUAL * max(float((fit.target_power - fit.target_mean**2).sum()), 1e-30):
            raise Skip("its outputs are those of the original")
        fits = [_fit(fit, w, b, ridge, shifts) for ridge in RIDGES]
        errors = [_error(held, *f) for f in fits]
        best = int(np.argmin(errors))
        if errors[best] >= plain:
            return False
        weight, bias = fits[best]
        write(site, weight.reshape(site.shape), bias.reshape(-1) if shifts else None)
        return True


@dataclass(frozen=True)
class RefitHead(RefitLayers):
    """Fit the last layer before each output from its inputs in the rewritten model to the original's outputs there.

    The teacher's logits are the targets, so no labels are needed: ridge regression towards the present weight.
    """

    name = "refit-head"
    contract = Contract.APPROXIMATE

    def choose(self, model: ir.Model, sites: list[Site]) -> list[Site]:
        """The layers from which no other one is reached."""
        heads, stack, seen = set(), [v.producer() for v in model.graph.outputs], set()
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if is_linear(node):
                heads.add(node)
            else:
                stack += [v.producer() for v in node.inputs if v is not None]
        return [site for site in sites if site.node in heads]


def _fit(m: CrossMoments, w: Array, b: Array, ridge: float, shifts: bool) -> tuple[Array, Array]:
    """(G, o/g, D) weight and (G, o/g) bias of least squares, with a ridge towards `w`."""
    gram, cross = m.gram.matrix, m.cross - b[:, :, None] * m.gram.mean[:, None, :]
    if shifts:
        gram = gram - m.gram.mean[:, :, None] * m.gram.mean[:, None, :]
        cross = m.centred
    level = ridge * np.trace(gram, axis1=1, axis2=2) / gram.shape[1] + 1e-12
    normal = gram + level[:, None, None] * np.eye(gram.shape[1])
    step = np.linalg.solve(normal, (cross - w @ gram).swapaxes(1, 2)).swapaxes(1, 2)
    new = w + step
    return new, m.target_mean - (new @ m.gram.mean[:, :, None])[:, :, 0] if shifts else b


def _error(m: CrossMoments, w: Array, b: Array) -> float:
    """The mean over positions of the squared error of w x + b, summed over the outputs."""
    quadratic = np.einsum("goi,gij,goj->go", w, m.gram.matrix, w, optimize=True)
    product = np.einsum("goi,goi->go", w, m.cross)
    mean = (w @ m.gram.mean[:, :, None])[:, :, 0]
    error = m.target_power - 2 * product - 2 * b * m.target_mean + quadratic + 2 * b * mean + b * b
    return float(error.sum())
