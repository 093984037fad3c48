"""The sizes of values as a model really runs, where the file leaves them open."""

from __future__ import annotations

from collections.abc import Sequence

from lwgraph import ir
from lwgraph.executor import Executor, Feeds

AT_ONCE = 16  # values held at the same time


def measured_shapes(
    model: ir.Model, feeds: Feeds, executor: Executor, values: Sequence[str] | None = None
) -> dict[str, tuple[int, ...]]:
    """The shape of each value of the main graph when `model` runs on `feeds`.

    Args:
        model: the model.
        feeds: one sample.
        executor: runs it, AT_ONCE values at a time, so that activations never pile up.
        values: which; None for the inputs and outputs of all nodes that multiply matrices.

    Returns:
        shapes by value name; an output that did not come out as an array (a sequence, an absent optional) is left out.
    """
    if values is None:
        heavy = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
        nodes = [node for node in model.graph if node.op_type in heavy]
        wanted = [value for node in nodes for value in (node.inputs[0], *node.inputs[1:2], *node.outputs)]
        # The Add behind a MatMul counts as the layer's output.
        wanted += [use.node.outputs[0] for node in nodes for out in node.outputs for use in out.uses()
                   if use.node.op_type == "Add" and use.node.graph is model.graph]  # fmt: skip
        values = list(dict.fromkeys(v.name for v in wanted if v is not None and v.name and not _constant(v)))
    found = {name: tuple(array.shape) for name, array in feeds.items() if name in values}
    rest = [name for name in values if name not in found]
    for start in range(0, len(rest), AT_ONCE):
        results = executor.prepare(model, rest[start : start + AT_ONCE])(feeds)
        found.update({name: tuple(array.shape) for name, array in results.items() if hasattr(array, "shape")})
    return found


def _constant(value: ir.Value) -> bool:
    return ir.constant_shape(value) is not None


__all__ = ["measured_shapes"]
