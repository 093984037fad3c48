"""duplicate-initializers: keeps equal constants once."""

from __future__ import annotations

from dataclasses import dataclass

from lwgraph import ir
from lwgraph.rewrite import Context, Contract, Pass

_SAMPLED = 64  # elements looked at before a tensor is read in full


@dataclass(frozen=True)
class MergeDuplicateInitializers(Pass):
    """Merge initializers of equal type, shape and data."""

    name = "duplicate-initializers"
    contract = Contract.EXACT
    asks = True

    def run(self, model: ir.Model, context: Context) -> int:
        """See Pass.run. Data is read only where two initializers of one graph agree in type and shape."""
        count = 0
        for scope in ir.scopes(model):
            alike: dict[tuple[object, ...], list[ir.Value]] = {}
            for value in ir.graph_of(scope).initializers.values():
                tensor = ir.constant_tensor(value)
                if tensor is not None and not value.is_graph_output():
                    alike.setdefault((tensor.dtype, tuple(tensor.shape.numpy())), []).append(value)
            for group in (part for whole in alike.values() for part in _candidates(whole)):
                first: dict[bytes, ir.Value] = {}
                for value in group:
                    assert value.const_value is not None and value.name is not None and value.graph is not None
                    kept = first.setdefault(ir.digest(value.const_value), value)
                    if kept is value:
                        continue
                    if not context.allow(self.name, value.name):
                        return count
                    ir.replace_uses(value, kept)
                    ir.graph_of(value.graph).initializers.pop(value.name)
                    count += 1
        return count


def _candidates(alike: list[ir.Value]) -> list[list[ir.Value]]:
    """Groups of two or more that also agree in a sample of their elements: few tensors are read in full."""
    if len(alike) == 1:
        return []
    samples: dict[bytes, list[ir.Value]] = {}
    for value in alike:
        array = ir.constant(value)
        assert array is not None
        flat = array.reshape(-1)
        samples.setdefault(flat[:: max(1, flat.size // _SAMPLED)].tobytes(), []).append(value)
    return [group for group in samples.values() if len(group) > 1]
