"""The role `trains` (`lwgraph.plan.roles.Trains`), played by the passes of this folder."""

from __future__ import annotations

from lwgraph import ir, registry
from lwgraph.passes.recover.align import AlignBlocks
from lwgraph.passes.recover.distill import Distill
from lwgraph.passes.recover.refit import RefitHead
from lwgraph.rewrite.base import Context

LEAST_MINUTES = 1e-3


class Distiller:
    """Blocks aligned and the head refitted in closed form, then distillation."""

    def require(self) -> None:
        """UsageError, which says how to install it, where PyTorch is missing."""
        registry.executor("torch")

    def prepare(self, model: ir.Model, context: Context) -> None:
        """See `Trains.prepare`."""
        for p in (AlignBlocks(), RefitHead()):
            p.run(model, context)

    def train(self, model: ir.Model, context: Context, seconds: float) -> None:
        """See `Trains.train`."""
        Distill(minutes=max(seconds / 60, LEAST_MINUTES), augment="auto").run(model, context)


__all__ = ["Distiller"]
