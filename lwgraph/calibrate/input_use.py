"""What an input may be, by what the graph does with it: indices, masks, sizes, texts that it looks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from lwgraph import ir

_TEXT_ATTRIBUTES = {"cats_strings", "classes_strings", "keys_strings", "pool_strings", "string_vocabulary", "stopwords"}
_MOST_TEXTS = 64
_INDEX_OPS = {"Gather", "GatherElements", "OneHot"}
_PASSING_OPS = ir.RESHAPES | {"Cast", "Identity", "Transpose", "Clip"}


@dataclass(frozen=True)
class IntegerUse:
    """What an integer input may be, by what the graph does with it.

    Attributes:
        bound: the number of values that index a table; None: it indexes none that is known.
        mask: it is 0 or 1.
        ranges: the least and the greatest values of feeds, in turn.
    """

    bound: int | None = None
    mask: bool = False
    ranges: tuple[tuple[int, int], ...] = ((0, 7),)

    @property
    def varied(self) -> bool:
        """Whether feeds differ in kind."""
        return self.bound is None and (self.mask or len(self.ranges) > 1)


# (operator, first input) from which on integers say sizes, places, counts or divisors: any others could be refused,
# take all memory, or end the process.
STRUCTURAL = {
    "BitShift": 1, "Compress": 1, "ConstantOfShape": 0, "CumSum": 1, "DFT": 1, "Div": 1, "Expand": 1, "EyeLike": 0,
    "GRU": 4, "Gather": 1, "GatherElements": 1, "GatherND": 1, "If": 0, "LSTM": 4, "Loop": 0, "MaxUnpool": 1, "Mod": 1,
    "NegativeLogLikelihoodLoss": 1, "NonMaxSuppression": 2, "OneHot": 0, "Pad": 1, "Pow": 1, "RNN": 4, "Range": 0,
    "ReduceMax": 1, "ReduceMean": 1, "ReduceMin": 1, "ReduceProd": 1, "ReduceSum": 1, "Reshape": 1, "Resize": 1,
    "ReverseSequence": 1, "STFT": 1, "Scan": 0, "Scatter": 1, "ScatterElements": 1, "ScatterND": 1, "SequenceAt": 1,
    "SequenceErase": 1, "SequenceInsert": 2, "Slice": 1, "SoftmaxCrossEntropyLoss": 1, "Split": 1, "SplitToSequence": 1,
    "Squeeze": 1, "TfIdfVectorizer": 0, "Tile": 1, "TopK": 1, "Trilu": 1, "Unsqueeze": 1, "Upsample": 1,
}  # fmt: skip
COUNTS = frozenset(
    {"Compress", "NonMaxSuppression", "NonZero", "StringSplit", "Unique"}
)  # outputs as long as values say
_MODERATE = (-(1 << 15), (1 << 15) - 1)


def integer_use(model: ir.Model, name: str, dtype: np.dtype[Any]) -> IntegerUse:
    """What an integer input may be. O(nodes behind it)."""
    bound = index_bound(model, name)
    if bound is not None:
        return IntegerUse(bound)
    start = next(v for v in model.graph.inputs if v.name == name)
    rounded = False  # whether floats made of it become integers again, which is undefined for large ones
    structural = False
    seen, pending = {id(start)}, [start]
    while pending:
        for node, position in pending.pop().uses():
            if node.domain != "" or position >= STRUCTURAL.get(node.op_type, 1 << 10):
                structural = True  # a mask may be, too: the sum of one divides in a mean
                continue
            if node.op_type == "Sub" and position == 1 and _is_one(node.inputs[0]):
                return IntegerUse(mask=True)
            if node.op_type in ("Shape", "Size"):
                continue
            rounded |= node.op_type == "Cast" and ir.DataType(ir.attribute(node, "to")).is_integer()
            for out in node.outputs:
                if id(out) not in seen:
                    seen.add(id(out))
                    pending.append(out)
    if "mask" in name.lower():
        return IntegerUse(mask=True)
    if structural:
        return IntegerUse()
    limits: Any = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    least, most = int(limits.min), int(limits.max)
    whole = (max(least, _MODERATE[0]), min(most, _MODERATE[1])) if rounded else (least, most)
    both = (max(least, -128), min(most, 127 if least else 255))
    return IntegerUse(ranges=((0, min(most, 7)), both, whole))


def values_matter(model: ir.Model) -> bool:
    """Whether values of the inputs, not only their sizes, may decide if the model can run: they say places, sizes, or
    what runs. O(nodes) of the main graph."""
    computed = {id(value) for value in model.graph.inputs}
    for node in model.graph:
        at = [index for index, value in enumerate(node.inputs) if value is not None and id(value) in computed]
        foreign = node.domain not in ("", "ai.onnx") or node.op_identifier() in model.functions
        if any(ir.subgraphs_of(node)) or (at and (foreign or node.op_type in COUNTS)):
            return True
        if any(index >= STRUCTURAL.get(node.op_type, 1 << 10) for index in at):
            return True
        if at and node.op_type not in ("Shape", "Size"):
            computed.update(map(id, node.outputs))
    return False


def known_texts(model: ir.Model, name: str) -> tuple[str, ...]:
    """The texts that the graph looks for in an input: categories, keys, what it is compared with; numbers, where it
    becomes numbers. At most 64."""
    start = next(v for v in model.graph.inputs if v.name == name)
    found: dict[str, None] = {}
    seen, pending = {id(start)}, [start]
    while pending:
        for node, position in pending.pop().uses():
            if ir.operator(node) == "Cast" and ir.attribute(node, "to") != ir.DataType.STRING:
                return ("1", "0", "-2", "3")
            for key in _TEXT_ATTRIBUTES & set(node.attributes):
                found.update(dict.fromkeys(ir.attribute(node, key, ())))
            if ir.operator(node) == "Equal":
                other = ir.constant(node.inputs[1 - position])
                for text in () if other is None else other.reshape(-1)[:_MOST_TEXTS].tolist():
                    found[text.decode("utf8", "replace") if isinstance(text, bytes) else str(text)] = None
            elif ir.operator(node) in _PASSING_OPS | {"Concat"}:
                for out in node.outputs:
                    if id(out) not in seen:
                        seen.add(id(out))
                        pending.append(out)
    return tuple(found)[:_MOST_TEXTS]


def _is_one(value: ir.Value | None) -> bool:
    array = ir.constant(value)
    return array is not None and array.dtype.kind in "iuf" and bool((array == 1).all())


def index_bound(model: ir.Model, name: str) -> int | None:
    """The number of values that an integer input may take when it indexes constant tables, also after reshaping.

    That of the smallest table where it indexes several; None when it indexes none.
    """
    start = next(v for v in model.graph.inputs if v.name == name)
    bounds: list[int] = []
    seen, pending = {id(start)}, [start]
    while pending:
        value = pending.pop()
        for node, position in value.uses():
            if ir.operator(node) in _INDEX_OPS:
                bounds += _table_length(node, position)
            elif ir.operator(node) in _PASSING_OPS and position == 0:
                for out in node.outputs:
                    if id(out) not in seen:
                        seen.add(id(out))
                        pending.append(out)
    return min(bounds, default=None)


def _table_length(node: ir.Node, position: int) -> list[int]:
    if ir.operator(node) == "OneHot":
        depth = ir.constant(node.inputs[1]) if position == 0 else None
        return [] if depth is None else [int(np.asarray(depth).reshape(-1)[0])]
    table = node.inputs[0]
    shape = None if table is None else ir.constant_shape(table)
    if position != 1 or not shape:
        return []
    return [shape[ir.attribute(node, "axis", 0)]]


__all__ = ["COUNTS", "STRUCTURAL", "IntegerUse", "index_bound", "integer_use", "known_texts", "values_matter"]
