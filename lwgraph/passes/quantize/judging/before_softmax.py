"""Compares the input of a final Softmax instead of its output: a smooth measure of small errors.

Where two classes are nearly as likely, an error of any size exchanges them, and probabilities change by their whole
size in one step; on a few samples such steps are all that a distance between probabilities sees. The inputs of the
Softmax change as much as the error did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.executor import Executor, Feeds, Run, untimed

_COPIES = ("Identity", "DequantizeLinear", "QuantizeLinear")


class Logits:
    """An executor that gives, for outputs that a Softmax makes, what the Softmax reads, under the output's name.

    It is centred along the axis of the Softmax, which does not see what all classes have in common. Only outputs of the
    graph that nothing else reads are looked at, also through QuantizeLinear and DequantizeLinear.
    """

    def __init__(self, executor: Executor) -> None:
        self.executor, self.name = executor, executor.name

    def untimed(self) -> Logits:
        """See `lwgraph.executor.untimed`."""
        return Logits(untimed(self.executor))

    def prepare(self, model: ir.Model, outputs: Sequence[str] | None = None) -> Run:
        """See `lwgraph.executor.Executor.prepare`."""
        wanted = [v.name or "" for v in model.graph.outputs] if outputs is None else list(outputs)
        found = {v.name or "": node for v in model.graph.outputs if (node := _softmax(v)) is not None}
        read = {name: str(found[name].inputs[0].name) if name in found else name for name in wanted}  # type: ignore[union-attr]
        if all(name == source for name, source in read.items()):
            return self.executor.prepare(model, outputs)
        run = self.executor.prepare(model, list(dict.fromkeys(read.values())))
        centre = {name: _centred(found[name], model) for name in wanted if name in found}

        def logits(feed: Feeds) -> dict[str, Array]:
            values = run(feed)
            return {name: centre[name](values[read[name]]) if name in centre else values[read[name]] for name in wanted}

        return logits


def has_logits(model: ir.Model) -> bool:
    """Whether a Softmax makes one of the outputs, so that `Logits` sees anything else than the outputs."""
    return any(_softmax(value) is not None for value in model.graph.outputs)


def _softmax(value: ir.Value) -> ir.Node | None:
    """The Softmax that makes an output which nothing else reads."""
    node = None if value.uses() else value.producer()
    while node is not None and ir.operator(node) in _COPIES and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node if node is not None and ir.operator(node) in ("Softmax", "LogSoftmax") else None


def _centred(node: ir.Node, model: ir.Model) -> Callable[[Array], Array]:
    """x less its mean over what the Softmax looks at together: one axis, before opset 13 all from that on."""
    old = model.graph.opset_imports.get("", 1) < 13
    axis = ir.attribute(node, "axis", 1 if old else -1)

    def centre(x: Array) -> Array:
        first = axis % max(x.ndim, 1)
        axes = tuple(range(first, x.ndim)) if old else (first,)
        finite = np.isfinite(x)  # what a mask leaves at -inf is 0 behind any Softmax, and counts for nothing
        total = np.where(finite, x, 0).sum(axis=axes, keepdims=True, dtype=np.float64)
        mean = total / np.maximum(finite.sum(axis=axes, keepdims=True), 1)
        return np.asarray(np.where(finite, np.where(finite, x, 0) - mean.astype(x.dtype), x.dtype.type(0)))

    return centre


__all__ = ["Logits", "has_logits"]
