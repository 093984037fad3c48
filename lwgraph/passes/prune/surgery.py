"""One removal of channels: weights are sliced, and what else changes at an operator is looked up in CUTS."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.errors import CheckError
from lwgraph.views.coupling import Axis, Coupling, Group

Mask: TypeAlias = "npt.NDArray[np.bool_]"
CUTS: dict[str, Callable[[ir.Node, Cut], None]] = {}


def cut(*operators: str) -> Callable[[Callable[[ir.Node, Cut], None]], Callable[[ir.Node, Cut], None]]:
    """Register what else changes at an operator when channels of its inputs or outputs go."""

    def register(function: Callable[[ir.Node, Cut], None]) -> Callable[[ir.Node, Cut], None]:
        for operator in operators:
            CUTS[operator] = function
        return function

    return register


class Cut:
    """One removal of channels: which indices every axis keeps, and the edits at single nodes."""

    def __init__(self, model: ir.Model, coupling: Coupling, removed: Mapping[Group, npt.ArrayLike]) -> None:
        self.model, self.coupling = model, coupling
        self.masks = coupling.kept(removed)
        for axis, mask in self.masks.items():
            if not mask.any():
                raise CheckError(
                    f"these channels are all that '{axis.value.name}' has along axis {axis.axis}; "
                    "at least one must stay"
                )

    def kept(self, value: ir.Value | None, axis: int) -> Mask | None:
        """Which indices of an activation's axis stay; None when all do."""
        found = self.coupling.builder.get(value, axis)
        return None if found is None else self.masks.get(found)

    def dims(self, value: ir.Value | None) -> ir.Dims | None:
        """The sizes of a value before the cut."""
        return self.coupling.builder.dims(value)

    def after(self, value: ir.Value | None) -> ir.Dims:
        """The sizes of an activation after the cut."""
        dims = list(self.dims(value) or ())
        for axis in range(len(dims)):
            mask = self.kept(value, axis)
            if mask is not None:
                dims[axis] = int(mask.sum())
        return tuple(dims)

    def touched(self, value: ir.Value | None) -> bool:
        """Whether the value loses channels."""
        return any(axis in self.masks for axis in self.coupling.builder.tracked(value).values())

    def give(self, node: ir.Node, index: int, array: Array) -> None:
        """Let input `index` of `node` be a new constant; what it was stays as it is for others."""
        old = node.inputs[index] if index < len(node.inputs) else None
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        stem = (old.name if old is not None else None) or f"{node.name or node.op_type}_constant"
        dtype = ir.constant_dtype(old)
        data = array if dtype is None else array.astype(dtype.numpy(), copy=False)
        node.replace_input_with(index, ir.add_initializer(self.model.graph, data, stem, dtype=dtype))
        self._drop(old)

    def _drop(self, value: ir.Value | None) -> None:
        if value is None:
            return
        maker = value.producer()
        if maker is not None:
            ir.sweep([maker])
        elif ir.is_removable_initializer(value):
            self.model.graph.initializers.pop(value.name or "")

    def run(self) -> None:
        """Do it: nodes first, as they look at the old sizes, then the constants, then the recorded shapes."""
        for node in tuple(self.model.graph):
            edit = CUTS.get(node.op_type) if node.domain == "" else None
            if any(self.touched(value) for value in (*node.inputs, *node.outputs)):
                if edit is not None:
                    edit(node, self)
                for output in node.outputs:  # an unread output is not tracked, but may have a recorded size
                    if not self.touched(output) and not ir.use_count(output) and not output.is_graph_output():
                        output.shape = None
        self._slice_constants()
        for value in {axis.value for axis in self.masks}:
            if value.shape is not None and not ir.is_constant(value):
                sizes = [size if isinstance(size, int) else None for size in self.after(value)]
                value.shape = ir.Shape(
                    [
                        new if self.kept(value, axis) is not None else old
                        for axis, (new, old) in enumerate(zip(sizes, value.shape, strict=True))
                    ]
                )

    def _slice_constants(self) -> None:
        # One new constant for each set of users that read the same slices of the same value.
        readers: dict[tuple[ir.Value, ir.Node, int], dict[int, Mask]] = defaultdict(dict)
        for axis, mask in self.masks.items():
            if ir.is_constant(axis.value):
                for node, index in axis.users:
                    readers[axis.value, node, index][axis.axis] = mask
        made: dict[tuple[object, ...], ir.Value] = {}
        for (value, node, index), masks in readers.items():
            if node.inputs[index] is not value:
                continue  # rewritten by the edit of its node
            key = (value, *((axis, mask.tobytes()) for axis, mask in sorted(masks.items())))
            if key not in made:
                array = ir.constant(value)
                assert array is not None
                for axis_, mask in masks.items():
                    array = np.compress(mask, array, axis_)
                made[key] = ir.add_initializer(
                    self.model.graph, array, value.name or "constant", dtype=ir.constant_dtype(value)
                )
            node.replace_input_with(index, made[key])
            self._drop(value)


__all__ = ["CUTS", "Axis", "Cut", "cut"]
