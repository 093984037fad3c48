"""How much each layer's error matters at the network's output, measured by replacing one layer at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Floats
from lwgraph.executor import Executor, untimed
from lwgraph.failures import Failures
from lwgraph.layers.emit import Emitter
from lwgraph.layers.form import Fitted, Form
from lwgraph.layers.moments import Moments
from lwgraph.layers.site import Site, find_sites
from lwgraph.layers.substitute import substitute
from lwgraph.measure.distance import RunLoss
from lwgraph.plan.search.items import Item
from lwgraph.progress import Progress, silent

PROBE = 0.02  # relative output error of the replacement that is tried, about
LEAST = 1e-3  # a layer matters at least this share of the median: a few samples may not show what it does


@dataclass(frozen=True)
class _Dense(Form):
    """A layer of the same kind with another kernel."""

    name: ClassVar[str] = "dense"

    @classmethod
    def refusal(cls, site: Site) -> str:
        return ""

    @classmethod
    def menu(cls, site: Site) -> Sequence[Form]:
        return [cls()]

    @classmethod
    def full(cls, site: Site) -> Form:
        return cls()

    def fit(self, site: Site, moments: Moments) -> Fitted:
        return self.fitted(site, moments, {}, site.weight)

    def emit(self, op: Emitter, x: ir.Value, fitted: Fitted) -> ir.Value:
        return op.stage(x, fitted.kernel, "dense", bias=fitted.bias, group=fitted.site.group)

    def macs(self, site: Site) -> int:
        return site.macs()


def measure(
    model: ir.Model,
    items: Sequence[Item],
    loss: RunLoss,
    executor: Executor,
    progress: Progress = silent,
    failures: Failures | None = None,
) -> dict[str, float]:
    """By item name: the loss at the network's output per relative error of the item's own output.

    One layer at a time gets the dense equivalent of a form whose error is near PROBE, fitted to its start only, and
    the network runs with it. Layers without forms get their own weight, rounded to give such an error. Costs one
    session and one evaluation of `loss` per item.

    Args:
        model: the float model that the items are of; it is not changed.
        items: with moments and options.
        loss: of a network, ready to run; 0 for the original.
        executor: what runs it.
        progress: called with (what, done, total).
        failures: where a layer that cannot be measured is recorded, which then matters as much as the others; None: it
            is raised.
    """
    failures = failures or Failures(strict=True)
    executor, found = untimed(executor), dict[str, float]()
    for index, item in enumerate(items):
        progress("measuring sensitivities", index, len(items))
        with failures.guard(f"forms: sensitivity of layer '{item.name}'"):
            kernel, error = _probe(item)
            if kernel is not None:
                found[item.name] = loss(executor.prepare(stitched(model, item, kernel))) / error
    progress("measuring sensitivities", len(items), len(items))
    positive = sorted(value for value in found.values() if value > 0)
    middle = positive[len(positive) // 2] if positive else 1.0
    return {item.name: max(found.get(item.name, middle), LEAST * middle) for item in items}


def stitched(model: ir.Model, item: Item, kernel: Floats) -> ir.Model:
    """A copy of the model in which the item's layers have another canonical kernel, means kept by their biases."""
    copy = ir.clone(model)
    assert item.moments is not None
    fit = _Dense().fitted(item.sites[0], item.moments(), {}, kernel)
    wanted = {site.name for site in item.sites}
    shared: dict[str, ir.Value] = {}
    for site in find_sites(copy):
        if site.name in wanted:
            substitute(replace(fit, site=site), shared)
    return copy


def _probe(item: Item) -> tuple[Floats | None, float]:
    """A kernel near the item's own, and its expected relative error; None where nothing can be tried."""
    if item.moments is None:
        return None, 0.0
    moments, site = item.moments(), item.sites[0]
    forms = [o for o in item.options if o.form is not None and 0 < o.error < math.inf]
    if forms:
        nearest = min(forms, key=lambda o: abs(math.log(o.error / PROBE)))
        assert nearest.form is not None
        kernel = nearest.form.at(site).fit(site, moments.quick()).kernel
    else:
        kernel = rounded(site.weight)
    error = moments.expected(kernel)
    return (kernel, error) if 0 < error < math.inf else (None, 0.0)


def rounded(weight: Floats, levels: int = 7) -> Floats:
    """`weight` (o, ...) with every output's entries rounded to `levels` steps up to the largest."""
    flat = weight.reshape(len(weight), -1)
    step = np.abs(flat).max(axis=1, keepdims=True) / levels
    step[step == 0] = 1
    result: Floats = (np.rint(flat / step) * step).reshape(weight.shape)
    return result


__all__ = ["measure", "rounded", "stitched"]
