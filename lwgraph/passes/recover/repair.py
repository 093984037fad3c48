"""repair-statistics: gives every layer's outputs the mean and variance that they had in the original model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from lwgraph.errors import UsageError
from lwgraph.layers.site import Site
from lwgraph.layers.weights import has_bias_slot, transform, write
from lwgraph.passes.recover.closed_form import EQUAL, ClosedForm, FitTarget, Job, better_of
from lwgraph.rewrite.base import Contract, Skip

ROWS = 8192


@dataclass(frozen=True)
class RepairStatistics(ClosedForm):
    """Scale and shift the channels of each layer so that their mean and variance are those of the original model.

    Batch-norm tuning without a BatchNormalization (REPAIR, Jordan et al. 2023, arXiv 2211.08403; bias correction, Nagel
    et al. 2019, arXiv 1906.04721): y' = (y - mean) std_original / std + mean_original, folded into weight and bias. Per
    layer the better of scale and shift, and of the shift alone, on held-out inputs. Each node runs
    about three times per sample.
    """

    name = "repair-statistics"
    contract = Contract.APPROXIMATE

    samples: Annotated[int, "calibration samples to use at most"] = 256
    scale: Annotated[bool, "repair the variance, not only the mean"] = True

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise UsageError(f"option 'samples' of pass 'repair-statistics' is {self.samples}; allowed: 2 or more")

    @property
    def limit(self) -> int:
        """The most samples to use."""
        return self.samples

    def correct(self, job: Job, site: Site, target: FitTarget) -> bool:
        """Scale and shift one layer."""
        if not has_bias_slot(site):
            raise Skip("it is a MatMul without a bias")
        x, y = job.rows(site, target, job.fit, ROWS)
        if float(((x - y) ** 2).mean()) <= EQUAL * max(float(y.var()), 1e-30):
            raise Skip("its outputs are those of the original")
        spread = x.std(0)
        ratio = np.where(spread > 1e-6 * max(spread.max(), 1e-30), y.std(0) / np.maximum(spread, 1e-30), 1.0)
        scales = [np.ones_like(ratio), *([np.clip(ratio, 0.25, 4.0)] if self.scale else [])]
        pairs = [(a, y.mean(0) - a * x.mean(0)) for a in scales]
        maps = [lambda v, a=a, c=c: a * v + c for a, c in pairs]
        best, error, plain = better_of(job.rows(site, target, job.held, ROWS), maps)
        if error >= plain:
            return False
        write(site, *transform(site, *pairs[best]))
        return True
