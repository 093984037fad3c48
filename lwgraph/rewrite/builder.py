"""The `op` of a replacement: it makes nodes and constants that belong to no graph until the driver commits them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.errors import UsageError

if TYPE_CHECKING:
    from lwgraph.rewrite.base import Context


@dataclass(frozen=True, eq=False)
class Const:
    """A value known now: an initializer that no input overrides, or the output of a Constant node."""

    value: ir.Value

    def numpy(self) -> Array:
        """The array; shared with the model, so it must not be written to."""
        array = ir.constant(self.value)
        assert array is not None, "only a constant is bound to a Const"
        return array

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """The array's shape, without reading the array."""
        shape = ir.constant_shape(self.value)
        assert shape is not None
        return shape

    @property
    def size(self) -> int:
        """The number of elements, without reading them."""
        return math.prod(self.shape)

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> ir.DataType | None:
        """The ONNX data type."""
        return ir.constant_dtype(self.value)

    def item(self) -> Any:
        """The only element, as a Python number; ValueError when there are several."""
        return self.numpy().item()


class Builder:
    """Makes the nodes of one replacement. `op.Type(inputs..., attribute=value)` as in a pattern.

    Inputs are values, constants of the match, arrays (which become constants) or None for an absent one.
    """

    def __init__(self, graph: ir.Graph, context: Context, in_function: bool = False):
        self.context = context
        self._graph, self._in_function = graph, in_function
        self._nodes: list[ir.Node] = []
        self._constants: list[ir.Value] = []
        self._hints: dict[ir.Value, str] = {}
        self._copied: dict[ir.Node, ir.Node] = {}  # what `copy` made, and of which

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)

        def build(*inputs: Any, _outputs: int = 1, _domain: str = "", **attributes: Any) -> Any:
            return self._add(_domain, op_type, inputs, attributes, _outputs)

        return build

    @property
    def opset(self) -> int:
        """The version of the standard operators in this graph."""
        return self._graph.opset_imports.get("") or ir.root(self._graph).opset_imports.get("", 1)

    def const(self, array: npt.ArrayLike, name: str = "") -> ir.Value:
        """A constant holding `array` (its dtype decides the type). `name` is a wish: it is made unique."""
        value = ir.unattached_constant(np.asarray(array))
        self._constants.append(value)
        if name:
            self._hints[value] = name
        return value

    def copy(self, node: ir.Node, *inputs: Any, **attributes: Any) -> Any:
        """`node` again with other inputs and its attributes, of which those named are changed (None: left out)."""
        kept: dict[str, Any] = {k: v for k, v in node.attributes.items() if k not in attributes}
        results = self._add(node.domain, node.op_type, inputs, {**kept, **attributes}, len(node.outputs))
        self._copied[self._nodes[-1]] = node
        return results

    def _add(
        self, domain: str, op_type: str, inputs: tuple[Any, ...], attributes: Mapping[str, Any], outputs: int
    ) -> Any:
        made = [self._input(i, op_type) for i in inputs]
        while made and made[-1] is None:
            made.pop()
        node = ir.make_node(op_type, made, {k: v for k, v in attributes.items() if v is not None}, domain, outputs)
        self._nodes.append(node)
        return node.outputs[0] if outputs == 1 else tuple(node.outputs)

    def _input(self, value: Any, op_type: str) -> ir.Value | None:
        if value is None or isinstance(value, ir.Value):
            return value
        if isinstance(value, Const):
            return value.value
        if isinstance(value, (np.ndarray, np.generic)):
            return self.const(value)
        raise UsageError(f"{value!r} cannot be an input of {op_type}; allowed: a value, a constant, an array, None")

    def _discard(self) -> None:
        """Undo: leave no trace of the nodes in the uses of the graph's values."""
        for node in self._nodes:
            ir.detach(node)
        self._nodes.clear()
