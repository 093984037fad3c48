"""refit-head and refit-layers: least squares from what a layer sees now to what the original gave there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, ClassVar

from lwgraph import ir
from lwgraph.errors import UsageError
from lwgraph.layers.site import find_sites
from lwgraph.passes.recover.matching import is_linear
from lwgraph.plan.refit.sequential import EQUAL, Scope, refit
from lwgraph.rewrite.base import Context, Contract, Pass
from lwgraph.rewrite.provenance import FROM_KEY


@dataclass(frozen=True)
class RefitLayers(Pass):
    """Fit each layer, in order, from its inputs in the rewritten model to its outputs in the original one.

    Asymmetric reconstruction (Zhang et al. 2015, arXiv 1505.06798, section 3.3): corrects the error of all layers
    before; see `lwgraph.plan.refit.sequential`. A form keeps its shape, all of its factors are fitted anew. O(D^3) per
    layer with D inputs per patch; about three runs of each node per sample.
    """

    name: ClassVar[str] = "refit-layers"
    contract: ClassVar[Contract] = Contract.APPROXIMATE

    samples: Annotated[int, "calibration samples to use at most; a quarter of them judges"] = 256
    scope: Annotated[Scope, "replaced: what forms put there, other layers are scaled and shifted; all: every layer"] = (
        "all"
    )

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise UsageError(f"option 'samples' of pass '{self.name}' is {self.samples}; allowed: 2 or more")

    def run(self, model: ir.Model, context: Context) -> int:
        """Refit in place; how many layers were."""
        if context.teacher is None:
            raise UsageError(
                f"pass '{self.name}' needs the original model to compare with; run it from optimize, or "
                "set the teacher of the context"
            )
        report = refit(
            context.teacher,
            model,
            context,
            scope=self.scope,
            only=self.chosen(model),
            samples=self.samples,
            name=self.name,
        )
        if not report.layers:
            equal = report.before <= EQUAL
            context.skip(
                self.name,
                model.graph.name or "model",
                "its outputs are those of the original" if equal else "it has no layer that this could refit",
            )
        return report.kept

    def chosen(self, model: ir.Model) -> Collection[str] | None:
        """The layers to refit; None: all."""
        return None


@dataclass(frozen=True)
class RefitHead(RefitLayers):
    """Fit the last layer before each output from its inputs in the rewritten model to the original's outputs there.

    The teacher's logits are the targets, so no labels are needed: ridge regression towards the present weight.
    """

    name: ClassVar[str] = "refit-head"
    contract: ClassVar[Contract] = Contract.APPROXIMATE

    def chosen(self, model: ir.Model) -> Collection[str]:
        """The layers from which no other one is reached; where a form replaced one, the name of that one."""
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
        return {site.node.metadata_props.get(FROM_KEY, site.name) for site in find_sites(model) if site.node in heads}
