"""Weights as packed codes and a decoder of standard operators, which a runtime computes when it loads the model.

What a runtime takes to compute a decoder goes by its nodes where weights are small, by the arrays of four bytes an
element that it makes where they are large, and by lookups where Gather does them (a copy of memory for each). So
weights with rows of the same shape are decoded together and split at the end, codes are unpacked as bytes, and one
GatherElements looks up what they stand for, in tables that have been scaled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array

LEAST_OPSET = 11  # BitShift and GatherElements came with it
_FOUR_BITS_OPSET = 21  # tensors of 4-bit integers
_OR_OPSET = 18  # BitwiseOr
_SPLIT_OPSET = 13  # Split takes its sizes as an input
_DECODER_BYTES = 500  # of a decoder in a file, beside its codes, tables and scales
_TOGETHER = 1 << 22  # elements that are decoded together, at most: decoding takes 8 bytes more for each


@dataclass(frozen=True)
class Coded:
    """One weight: entry `codes` of its table, times the scale of its row.

    Attributes:
        codes: uint8, the shape of the weight with the rows of the tables first.
        tables: (T, L), in the weight's own type. Rows of codes.reshape(T, -1) have a table each.
        scale: (o,) in the same type, one for each row of all but the last axes (or all but the first), or None; only
            where T is 1.
        bits: bits of a code.
        order: how the axes of codes become those of the weight, as Transpose takes it; () as they are.
    """

    codes: Array
    tables: Array
    scale: Array | None
    bits: int
    order: tuple[int, ...] = ()

    def decode(self) -> Array:
        """The weight, bit for bit as the decoder in the graph makes it."""
        flat = self.codes.reshape(len(self.tables), -1).astype(np.int64)
        found = np.take_along_axis(self.tables, flat, axis=1).reshape(self.codes.shape)
        if self.scale is not None:
            found = found * self.spread_scale
        return np.ascontiguousarray(found.transpose(self.order)) if self.order else found

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        sizes = self.codes.shape
        return tuple(sizes[at] for at in self.order) if self.order else sizes

    @property
    def rows(self) -> int:
        """How many rows have a table, or a scale, of their own; the first axis where all is shared."""
        return self.scale.size if self.scale is not None else max(len(self.tables), self.codes.shape[0])

    @property
    def terms(self) -> int:
        """Powers of two in a level of the tables, at most: so many shifts stand for the product with a weight."""
        mantissas = np.frexp(np.abs(self.tables.astype(np.float64)))[0]
        return max(int(mantissa * (1 << 53)).bit_count() for mantissa in np.unique(mantissas))

    @property
    def words(self) -> str:
        """What the weight is stored as, such as "4-bit powers of two"."""
        kind = {0: "powers of two", 1: "powers of two", 2: "sums of two powers of two"}.get(self.terms, "codes")
        return f"{self.bits}-bit {kind}"

    @property
    def spread_scale(self) -> Array:
        """The scale with as many axes as the codes, to be multiplied with."""
        assert self.scale is not None
        lead = next(n for n in range(1, self.codes.ndim) if math.prod(self.codes.shape[:n]) == self.scale.size)
        return self.scale.reshape(*self.codes.shape[:lead], *[1] * (self.codes.ndim - lead))

    def shaped(self, shape: tuple[int, ...]) -> Coded:
        """The same codes in another shape: rows, all axes but the last, in the first ones."""
        return Coded(self.codes.reshape(shape), self.tables, self.scale, self.bits)


def stored_bytes(elements: int, bits: int, constants: int) -> int:
    """Bytes in a file of a weight of so many elements, with tables and scales of `constants` bytes."""
    return -(-elements * bits // 8) + constants + _DECODER_BYTES


def fields_of(bits: int) -> tuple[int, ...]:
    """The widths in which codes are packed: 8, 4, 2 and 1 divide a byte, so no bit is lost; the lowest bits first."""
    return tuple(width for width in (8, 4, 2, 1) if bits & width)


def install(graph: ir.Graph, opset: int, weights: Mapping[ir.Value, Coded]) -> dict[ir.Value, Coded]:
    """Let all that reads initializers read what decoders make, which has their types and shapes.

    Returns:
        what each decoded value is made from.
    """
    coder, found = _Coder(graph, opset), dict[ir.Value, Coded]()
    for members in _groups(weights):
        decoded = coder.decoder(members)
        for (value, coded), new in zip(members, decoded, strict=True):
            new.type, new.shape = value.type, value.shape
            for user, index in value.uses():
                user.replace_input_with(index, new)
            new.name = ir.fresh_name(graph, f"{value.name or 'weight'}/decoded")
            ir.sweep_values([value])
            found[new] = coded
    graph.insert_before(next(iter(graph)), coder.made)
    return found


_Member = tuple[ir.Value, Coded]


def _groups(weights: Mapping[ir.Value, Coded]) -> Iterable[list[_Member]]:
    """Weights that one decoder can make, as many as may be decoded together."""
    groups: dict[Any, list[list[_Member]]] = {}
    for value, coded in weights.items():
        rows = coded.rows // coded.codes.shape[0]
        own = coded.scale is None, len(coded.tables) > 1
        key = coded.codes.shape[1:], coded.order, coded.bits, coded.tables.dtype.str, rows, own
        batches = groups.setdefault(key, [[]])
        if batches[-1] and sum(each.codes.size for _, each in batches[-1]) + coded.codes.size > _TOGETHER:
            batches.append([])
        batches[-1].append((value, coded))
    return [batch for batches in groups.values() for batch in batches]


class _Coder:
    """Makes decoders; constants that several of them read are stored once."""

    def __init__(self, graph: ir.Graph, opset: int) -> None:
        self.graph, self.opset = graph, opset
        self.made: list[ir.Node] = []
        self._shared: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def decoder(self, members: Sequence[_Member]) -> list[ir.Value]:
        """What stands for each weight: new values, still without names of their own."""
        stem, first = members[0][0].name or "weight", members[0][1]
        every = [coded for _, coded in members]
        rows, shape = sum(each.rows for each in every), first.codes.shape[1:]
        codes = self._codes(np.concatenate([each.codes for each in every]).reshape(rows, -1), first.bits, stem)
        found = self._node("GatherElements", stem, [self._tables(every, stem), codes], axis=1)
        lengths = [len(each.codes) for each in every]
        if len(shape) != 1 or rows != sum(lengths):
            found = self._node("Reshape", stem, [found, self._sizes(sum(lengths), *shape)])
        if first.order:
            found = self._node("Transpose", stem, [found], perm=list(first.order))
        if len(every) == 1:
            return [found]
        axis = first.order.index(0) if first.order else 0
        if self.opset >= _SPLIT_OPSET:
            node = ir.make_node("Split", [found, self._sizes(*lengths)], {"axis": axis}, outputs=len(every))
        else:
            node = ir.make_node("Split", [found], {"axis": axis, "split": lengths}, outputs=len(every))
        return list(self._add(node, stem).outputs)

    def _tables(self, every: Sequence[Coded], stem: str) -> ir.Value:
        """(rows, 2^bits): what each code stands for in each row."""
        padded = [np.pad(c.tables, ((0, 0), (0, (1 << c.bits) - c.tables.shape[1])), mode="edge") for c in every]
        if len(every[0].tables) > 1:
            return self._constant("tables", np.concatenate(padded))
        tables, used = np.unique(np.concatenate(padded), axis=0, return_inverse=True)
        factors = [each.scale.reshape(-1, 1) for each in every if each.scale is not None]
        found = self._constant("table", tables)
        if len(tables) > 1 or not factors:
            owners = np.repeat(used.reshape(-1), [each.rows for each in every])
            which = self._constant("owner", owners.astype(np.uint8 if len(tables) <= 256 else np.uint16))
            found = self._node("Gather", stem, [found, self._cast(which, stem)])
        if factors:
            found = self._node("Mul", stem, [found, self._constant("scale", np.concatenate(factors))])
        return found

    def _codes(self, codes: Array, bits: int, stem: str) -> ir.Value:
        """(rows, columns) int32."""
        if bits == 4 and self.opset >= _FOUR_BITS_OPSET:
            kind = ir.DataType.UINT4
            packed = ir.add_initializer(self.graph, codes.astype(kind.numpy()), f"{stem}/codes", dtype=kind)
            packed.shape = ir.Shape(codes.shape)
            return self._cast(packed, stem)
        fields, low = list[ir.Value](), 0
        for width in fields_of(bits):
            fields.append(self._field((codes >> low) & ((1 << width) - 1), width, low, stem))
            low += width
        if self.opset >= _OR_OPSET:
            return self._cast(reduce(lambda one, other: self._node("BitwiseOr", stem, [one, other]), fields), stem)
        wide = [self._cast(field, stem) for field in fields]
        return reduce(lambda one, other: self._node("Add", stem, [one, other]), wide)

    def _field(self, field: Array, width: int, low: int, stem: str) -> ir.Value:
        """(rows, columns) uint8, from some bits of each code; they go where they lie in the code, from bit `low` on."""
        each = 8 // width
        if each == 1:
            return ir.add_initializer(self.graph, field, f"{stem}/codes")
        # A byte holds an element of each plane, which is a share of the rows: so all that unpacks runs along memory.
        planes = np.concatenate([field.reshape(-1), np.zeros(-field.size % each, np.uint8)]).reshape(each, -1)
        places = (np.arange(each) * width).astype(np.uint8)[:, None]
        packed = np.bitwise_or.reduce(planes << places, axis=0).astype(np.uint8)
        even = len(field) % each == 0
        # Up to the top of the byte and down again leaves the bits of one element: a mask in any opset.
        if each == 2:
            words = packed.reshape(-1, field.shape[1]) if even else packed
            source = ir.add_initializer(self.graph, words, f"{stem}/codes")
            found = self._node("BitShift", stem, [source, self._shift(width)], direction="LEFT")
            found = self._node("Concat", stem, [found, source], axis=0)
        else:
            source = ir.add_initializer(self.graph, packed[None], f"{stem}/codes")
            ups = self._constant("shifts", (8 - width) - places)
            found, even = self._node("BitShift", stem, [source, ups], direction="LEFT"), False
        found = self._node("BitShift", stem, [found, self._shift(8 - width)], direction="RIGHT")
        if low:
            found = self._node("BitShift", stem, [found, self._shift(low)], direction="LEFT")
        if field.size % each:
            if each > 2:
                found = self._node("Reshape", stem, [found, self._sizes(-1)])
            found = self._node("Slice", stem, [found, self._sizes(0), self._sizes(field.size)])
        return found if even else self._node("Reshape", stem, [found, self._sizes(*field.shape)])

    def _cast(self, value: ir.Value, stem: str) -> ir.Value:
        return self._node("Cast", stem, [value], to=int(ir.DataType.INT32))

    def _node(self, op: str, stem: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        found: ir.Value = self._add(ir.make_node(op, inputs, attributes), stem).outputs[0]
        found.name = ir.fresh_name(self.graph, f"{stem}/{op}_out")
        return found

    def _add(self, node: ir.Node, stem: str) -> ir.Node:
        node.name = ir.fresh_name(self.graph, f"{stem}/{node.op_type}")
        self.made.append(node)
        return node

    def _shift(self, by: int) -> ir.Value:
        return self._constant("shifts", np.array(by, np.uint8))

    def _sizes(self, *sizes: int) -> ir.Value:
        return self._constant("sizes", np.array(sizes, np.int64))

    def _constant(self, what: str, array: Array) -> ir.Value:
        key = str(array.dtype), array.shape, array.tobytes()
        if key not in self._shared:
            self._shared[key] = ir.add_initializer(self.graph, array, f"decoder/{what}")
        return self._shared[key]


def find_coded(graph: ir.Graph) -> Iterator[tuple[ir.Value, Coded]]:
    """What decoders compute, each with what it is computed from; every other subgraph is passed over."""
    for node in graph:
        if ir.operator(node) == "GatherElements" and ir.attribute(node, "axis", 0) == 1:
            try:
                found = _read(node)
            except (IndexError, ValueError):  # the same operators, put together in another way
                continue
            yield from found


def _read(node: ir.Node) -> list[tuple[ir.Value, Coded]]:
    """What a decoder makes, from its GatherElements on; nothing where it is none."""
    looked_up, codes = _looked_up(node.inputs[0]), _codes_of(node.inputs[1])
    if looked_up is None or codes is None:
        return []
    tables, scale = looked_up
    bits = tables.shape[1].bit_length() - 1
    if tables.shape[1] != 1 << bits or codes.max(initial=0) >= 1 << bits:
        return []
    value, shape = node.outputs[0], codes.shape
    order: tuple[int, ...] = ()
    if (following := _only_reader(value, "Reshape")) is not None:
        target = ir.constant(following.inputs[1])
        if target is None:
            return []
        shape, value = tuple(int(n) for n in target), following.outputs[0]
    if (following := _only_reader(value, "Transpose")) is not None:
        order, value = tuple(ir.attribute(following, "perm", ())), following.outputs[0]
    if math.prod(shape) != codes.size:
        return []
    codes = codes.reshape(shape)
    outputs, lengths = [value], [shape[0]]
    if (following := _only_reader(value, "Split")) is not None:
        sizes = ir.constant(following.inputs[1]) if len(following.inputs) > 1 else ir.attribute(following, "split", ())
        if sizes is None or sum(sizes) != shape[0] or len(sizes) != len(following.outputs):
            return []
        outputs, lengths = list(following.outputs), [int(n) for n in sizes]
    per = (len(tables) if len(tables) > 1 else len(scale) if scale is not None else shape[0]) // shape[0]
    found, start = [], 0
    for output, length in zip(outputs, lengths, strict=True):
        rows = slice(start * per, (start + length) * per)
        own = tables[rows] if len(tables) > 1 else tables
        own = own[:1] if (own == own[:1]).all() else own
        factors = None if scale is None else scale[rows]
        found.append((output, Coded(codes[start : start + length], own, factors, bits, order)))
        start += length
    return found


def _looked_up(value: ir.Value | None) -> tuple[Array, Array | None] | None:
    """(rows or 1, 2^bits) what a decoder looks up, before it is scaled, and the scale (rows,)."""
    scale, maker = None, None if value is None else value.producer()
    if maker is not None and ir.operator(maker) == "Mul":
        scale = ir.constant(maker.inputs[1])
        if scale is None or scale.ndim != 2:
            return None
        value, scale = maker.inputs[0], scale.reshape(-1)
    tables = _computed(value)
    return None if tables is None or tables.ndim != 2 else (tables, scale)


def _codes_of(value: ir.Value | None) -> Array | None:
    """The codes that a decoder's indices are made of."""
    codes = _computed(value)
    if codes is None or codes.ndim != 2 or not codes.size or codes.min() < 0 or codes.max() > 255:
        return None
    return codes.astype(np.uint8)


def _computed(value: ir.Value | None) -> Array | None:
    """What the operators that unpack make of constants; None where anything else is read."""
    known = ir.constant(value)
    maker = None if value is None else value.producer()
    if known is not None or maker is None or ir.operator(maker) not in _UNPACKING or ir.attribute(maker, "axis", 0):
        return known
    inputs = [_computed(each) for each in maker.inputs]
    if any(each is None for each in inputs):
        return None
    first, *others = (each for each in inputs if each is not None)
    match ir.operator(maker):
        case "Cast":
            return first.astype(np.int32) if ir.attribute(maker, "to", 0) == int(ir.DataType.INT32) else None
        case "BitShift":
            up = ir.attribute(maker, "direction", "") == "LEFT"
            return np.asarray(np.left_shift(first, others[0]) if up else np.right_shift(first, others[0]))
        case "Add":
            return np.asarray(first + others[0])
        case "BitwiseOr":
            return np.asarray(first | others[0])
        case "Concat":
            return np.concatenate([first, *others])
        case "Reshape":
            return first.reshape(others[0])
        case "Gather":
            return np.asarray(first[others[0]])
    return first[int(others[0][0]) : int(others[1][0])]


_UNPACKING = frozenset({"BitShift", "BitwiseOr", "Add", "Cast", "Concat", "Reshape", "Slice", "Gather"})


def _only_reader(value: ir.Value, operator: str) -> ir.Node | None:
    """What reads a value, where it is of this operator and nothing else does."""
    users = {use.node for use in value.uses()}
    node = next(iter(users)) if len(users) == 1 and not value.is_graph_output() else None
    return node if node is not None and ir.operator(node) == operator and node.inputs[0] is value else None


__all__ = ["LEAST_OPSET", "Coded", "fields_of", "find_coded", "install"]
