"""infer-shapes: records the types and shapes that follow from the inputs."""

from __future__ import annotations

from dataclasses import dataclass

from lwgraph import ir
from lwgraph.rewrite import Context, Contract, Pass


@dataclass(frozen=True)
class InferShapes(Pass):
    """Infer and record types and shapes, on which other passes build.

    Each value of which more becomes known counts as a rewrite.
    """

    name = "infer-shapes"
    contract = Contract.EXACT

    def run(self, model: ir.Model, context: Context) -> int:
        """See Pass.run. Inference is repeated only while sizes are unknown, as a rewrite may have made them known."""
        if model.meta.get(_DONE) and all(_known(v) for node in model.graph for v in node.outputs if v.name):
            return 0
        count = ir.record_shapes(model)
        model.meta[_DONE] = True
        return count


_DONE = "lwgraph.shapes_inferred"


def _known(value: ir.Value) -> bool:
    """Whether every size is a number or has a name."""
    return value.shape is not None and all(isinstance(d, int) or d.value is not None for d in value.shape)
