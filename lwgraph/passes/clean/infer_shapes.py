"""infer-shapes: records the types and shapes that follow from the inputs."""

from __future__ import annotations

from dataclasses import dataclass

from lwgraph import ir
from lwgraph.passes.clean.polynomial import Poly
from lwgraph.passes.clean.sizes import Sizes
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
        count = ir.record_shapes(model) + _followed(model)
        model.meta[_DONE] = True
        return count


_DONE = "lwgraph.shapes_inferred"


def _followed(model: ir.Model) -> int:
    """Fill in sizes that ONNX's inference leaves open and that follow from sizes by name; how many values changed."""
    sizes = Sizes()
    sizes.follow(model.graph)
    changed = 0
    for value, dims in sizes.followed().items():
        shape = value.shape
        if value.is_graph_output() or (shape is not None and len(shape) != len(dims)):
            continue
        old = [None] * len(dims) if shape is None else [d if isinstance(d, int) else d.value for d in shape]
        new = [_told(size) if known is None else known for size, known in zip(dims, old, strict=True)]
        if new != old:
            value.shape = ir.Shape(new)
            changed += 1
    return changed


def _told(size: Poly) -> int | str | None:
    """A number or a name, None for what is computed from several or has no name."""
    number, symbols = size.number, size.symbols
    if number is not None:
        return number
    name = min(symbols)
    return name if size == Poly.of(name) and not name.startswith("?") else None


def _known(value: ir.Value) -> bool:
    """Whether every size is a number or has a name."""
    return value.shape is not None and all(isinstance(d, int) or d.value is not None for d in value.shape)
