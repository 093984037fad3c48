"""Record the types and shapes that follow from the inputs."""

from __future__ import annotations

from dataclasses import dataclass

from lwgraph import ir
from lwgraph.rewrite import Context, Contract, Pass


@dataclass(frozen=True)
class InferShapes(Pass):
    """Record inferred types and shapes, on which other passes build; counts the values of which more is known."""

    name = "infer-shapes"
    contract = Contract.EXACT

    def run(self, model: ir.Model, context: Context) -> int:
        """See Pass.run."""
        return ir.record_shapes(model)
