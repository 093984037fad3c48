"""Taylor importance: the change of the outputs when a channel is turned down, by gradients, without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from lwgraph import ir, registry
from lwgraph.arrays import Array, Floats
from lwgraph.errors import UsageError
from lwgraph.passes.prune.importance import Importance, Ranking
from lwgraph.passes.prune.readers import PruneView
from lwgraph.views.coupling import Group

FEEDS, PROBES = 32, 2


class Taylor(Importance):
    """E[||df/dm_c||^2], m_c a factor on channel c that is 1 now, f the outputs over their standard deviation.

    The first order of a loss ||f(m) - f(1)||^2 vanishes, so this is its second (Gauss-Newton): the Fisher criterion
    of Theis et al. 2018 (arXiv 1801.05787) and Molchanov et al. 2019 (arXiv 1906.10771, eq. 8) with the outputs
    themselves instead of a labelled loss. Summed over outputs by random signs: (v^T df/dm)^2 has that expectation. The
    factor is applied to the weights that read the channel. Needs the torch executor; PROBES backward runs per feed.
    """

    name = "taylor"
    needs_data: ClassVar[bool] = True

    def __init__(self) -> None:
        self._scene: PruneView | None = None
        self._scores: dict[Group, Floats] = {}

    def rank(self, group: Group, view: PruneView) -> Ranking:
        """See `Importance.rank`. The cost is the sum of what the channels cost alone.

        Raises:
            UsageError: no calibration data, or PyTorch is not installed. ModelError: PyTorch cannot run the model.
        """
        if view is not self._scene:
            self._scene, self._scores = view, _scores(view)
        scores = self._scores[group]
        order = np.argsort(scores, kind="stable")
        return Ranking(order, np.cumsum(np.r_[0.0, scores[order]]))


def _scores(view: PruneView) -> dict[Group, Floats]:
    data = view.context.data
    if not data:
        raise UsageError("importance 'taylor' needs calibration samples; give --data")
    executor: Any = registry.executor("torch", threads=view.context.threads)  # says how to install it
    import torch

    module = executor.module(view.model)
    weights = {
        module.initializer(key): parameter for key, parameter in module.named_parameters() if parameter.requires_grad
    }
    groups = [group for group in view.coupling.groups if group.weights("out")]
    scores = {group: np.zeros(group.width) for group in groups}
    draw = torch.Generator().manual_seed(view.context.seed)
    names, parameters = list(weights), list(weights.values())
    feeds = data[:FEEDS]
    for done, feed in enumerate(feeds):
        view.context.progress("gradients of the outputs", done, len(feeds))
        outputs = module({name: torch.as_tensor(np.asarray(array)) for name, array in feed.items()})
        outputs = {name: value for name, value in outputs.items() if value.requires_grad}
        for probe in range(PROBES):
            total = sum(
                (_signs(value, draw) * value).sum() / value.detach().std().clamp_min(1e-12)
                for value in outputs.values()
            )
            found = torch.autograd.grad(total, parameters, allow_unused=True, retain_graph=probe + 1 < PROBES)
            products = {
                name: (weight.detach() * slope).double().numpy()
                for name, weight, slope in zip(names, parameters, found, strict=True)
                if slope is not None
            }
            for group in groups:
                scores[group] += np.square(_slope(group, products)) / (PROBES * len(feeds))
    return scores


def _signs(value: Any, draw: Any) -> Any:
    import torch

    return 2 * torch.randint(0, 2, value.shape, generator=draw).to(value.dtype) - 1


def _slope(group: Group, products: Mapping[str, Array]) -> Floats:
    """(width,) v^T df/dm: the sum of weight times gradient over the weights that read a channel, or else make it."""
    total = np.zeros(group.width)
    for each in group.weights("in") or group.weights("out"):
        product = products.get(each.axis.value.name or "")
        if product is not None and ir.is_constant(each.axis.value):
            total += np.moveaxis(product, each.axis.axis, 0).reshape(each.axis.size, -1).sum(1)[each.indices].sum(1)
    return total
