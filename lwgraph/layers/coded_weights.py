"""Weights as packed codes and a decoder of standard operators, which a runtime computes when it loads the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array

LEAST_OPSET = 11  # BitShift came with it
_AND_OPSET = 18  # BitwiseAnd
_FOUR_BITS_OPSET = 21  # tensors of 4-bit integers
_DECODER_BYTES = 500  # of a decoder in a file, beside its codes, tables and scales


@dataclass(frozen=True)
class Coded:
    """One weight: entry `codes` of its table, times the scale of its row.

    Attributes:
        codes: uint8, the shape of the weight with the rows of the tables first.
        tables: (T, L), in the weight's own type. Rows of codes.reshape(T, -1) have a table each.
        scale: (o,) in the same type, one for each row of all but the last axes (or all but the first), or None.
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


class Coder:
    """Puts decoders into a graph; constants that several of them read are stored once."""

    def __init__(self, graph: ir.Graph, opset: int) -> None:
        self.graph, self.opset = graph, opset
        self._shared: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def install(self, value: ir.Value, coded: Coded) -> ir.Value:
        """Let all that reads an initializer read the decoder's result, which has its type and shape; that result."""
        name = value.name or "weight"
        made: list[ir.Node] = []

        def node(op: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
            new = ir.make_node(op, inputs, attributes)
            new.name = ir.fresh_name(self.graph, f"{name}/{op}")
            made.append(new)
            return new.outputs[0]

        indices = self._codes(coded, name, node)
        shape = self._constant("shape", np.array(coded.codes.shape, np.int64))
        if len(coded.tables) == 1:
            found = node("Gather", [self._constant("table", coded.tables[0]), indices])
            flat = not self._four_bits(coded)
        else:
            rows = self._constant("shape", np.array([len(coded.tables), -1], np.int64))
            indices = node("Reshape", [indices, rows])
            found = node("GatherElements", [self._constant("table", coded.tables), indices], axis=1)
            flat = True
        if flat:
            found = node("Reshape", [found, shape])
        if coded.scale is not None:
            found = node("Mul", [found, self._constant("scale", coded.spread_scale)])
        if coded.order:
            found = node("Transpose", [found], perm=list(coded.order))
        first = next(iter(self.graph))
        self.graph.insert_before(first, made)
        for each in made:
            if each.outputs[0] is not found:
                each.outputs[0].name = ir.fresh_name(self.graph, f"{name}/{each.op_type}_out")
        found.type, found.shape = value.type, value.shape
        for user, index in value.uses():
            user.replace_input_with(index, found)
        found.name = ir.fresh_name(self.graph, f"{name}/decoded")
        ir.sweep_values([value])
        return found

    def _four_bits(self, coded: Coded) -> bool:
        return coded.bits == 4 and self.opset >= _FOUR_BITS_OPSET

    def _codes(self, coded: Coded, stem: str, node: Any) -> ir.Value:
        """int32 codes: in the shape of the weight where its type is of 4 bits, else flat or by words."""
        if self._four_bits(coded):
            kind = ir.DataType.UINT4
            packed = ir.add_initializer(self.graph, coded.codes.astype(kind.numpy()), f"{stem}/codes", dtype=kind)
            packed.shape = ir.Shape(coded.codes.shape)
            return self._cast(packed, node)
        word, each = word_of(coded.bits)
        count, flat = coded.codes.size, coded.codes.reshape(-1)
        # A word holds one code of each plane: what unpacks planes runs along them, and is many times as fast to load.
        planes = np.concatenate([flat, np.zeros(-count % each, np.uint8)]).reshape(each, -1).astype(word)
        shifts = (np.arange(each) * coded.bits).astype(word)[:, None]
        words = np.bitwise_or.reduce(planes << shifts, axis=0, keepdims=True).astype(word)
        found = ir.add_initializer(self.graph, words, f"{stem}/codes")
        if each > 1:
            found = node("BitShift", [found, self._constant("shifts", shifts)], direction="RIGHT")
            if self.opset >= _AND_OPSET:
                found = node("BitwiseAnd", [found, self._constant("mask", np.array((1 << coded.bits) - 1, word))])
            else:
                found = node("Mod", [found, self._constant("modulus", np.array(1 << coded.bits, word))])
        found = self._cast(found, node)
        if count % each:
            found = node("Reshape", [found, self._constant("shape", np.array([-1], np.int64))])
            ends = [self._constant("shape", np.array([at], np.int64)) for at in (0, count)]
            found = node("Slice", [found, *ends])
        return found

    def _cast(self, value: ir.Value, node: Any) -> ir.Value:
        found: ir.Value = node("Cast", [value], to=int(ir.DataType.INT32))
        return found

    def _constant(self, what: str, array: Array) -> ir.Value:
        key = str(array.dtype), array.shape, array.tobytes()
        if key not in self._shared:
            self._shared[key] = ir.add_initializer(self.graph, array, f"decoder/{what}")
        return self._shared[key]


def word_of(bits: int) -> tuple[type[np.unsignedinteger[Any]], int]:
    """The unsigned type that codes are packed in, and how many fit: bytes where no bit of them is lost."""
    return (np.uint8, 8 // bits) if 8 % bits == 0 else (np.uint64, 64 // bits)


def find_coded(graph: ir.Graph) -> Iterator[tuple[ir.Value, Coded]]:
    """What decoders compute, each with what it is computed from; every other subgraph is passed over."""
    for node in graph:
        if ir.operator(node) not in ("Gather", "GatherElements") or (read := _read(node)) is None:
            continue
        yield read


def _read(node: ir.Node) -> tuple[ir.Value, Coded] | None:
    """A decoder from its Gather on, by the constants that it reads; None for anything else."""
    tables = ir.constant(node.inputs[0])
    indices = _codes_of(node.inputs[1])
    if tables is None or indices is None:
        return None
    codes, bits = indices
    value, shape, scale = node.outputs[0], codes.shape, None
    order: tuple[int, ...] = ()
    following = _only_reader(value)
    if following is not None and ir.operator(following) == "Reshape" and following.inputs[0] is value:
        target = ir.constant(following.inputs[1])
        if target is None:
            return None
        shape, value = tuple(int(n) for n in target), following.outputs[0]
        following = _only_reader(value)
    if following is not None and ir.operator(following) == "Mul":
        factor = ir.constant(following.inputs[1])
        if factor is not None and factor.ndim == len(shape):
            scale, value = factor.reshape(-1), following.outputs[0]
            following = _only_reader(value)
    if following is not None and ir.operator(following) == "Transpose":
        order, value = tuple(ir.attribute(following, "perm", ())), following.outputs[0]
    if math.prod(shape) != codes.size:
        return None
    return value, Coded(codes.reshape(shape), np.atleast_2d(tables), scale, bits, order)


def _codes_of(value: ir.Value | None) -> tuple[Array, int] | None:
    """The codes that a decoder's indices are made of, and their bits."""
    count, chain = None, []
    while value is not None and (maker := value.producer()) is not None and ir.operator(maker) in _UNPACKING:
        if ir.operator(maker) == "Slice":
            ends = ir.constant(maker.inputs[2])
            count = None if ends is None else int(ends[0])
        chain.append(maker)
        value = maker.inputs[0]
    packed = ir.constant(value)
    if packed is None or not any(ir.operator(each) == "Cast" for each in chain) or packed.dtype.kind not in "uV":
        kind = ir.constant_dtype(value)
        if packed is None or kind != ir.DataType.UINT4:
            return None
    shifting = next((each for each in chain if ir.operator(each) == "BitShift"), None)
    if shifting is None:
        bits = 4 if ir.constant_dtype(value) == ir.DataType.UINT4 else 8
        return packed.astype(np.uint8), bits
    shifts = ir.constant(shifting.inputs[1])
    if shifts is None or shifts.size < 2:
        return None
    bits = int(shifts.reshape(-1)[1] - shifts.reshape(-1)[0])
    codes = ((packed >> shifts) & packed.dtype.type((1 << bits) - 1)).reshape(-1).astype(np.uint8)
    return codes[:count], bits


_UNPACKING = frozenset({"BitShift", "BitwiseAnd", "Mod", "Cast", "Reshape", "Slice"})


def _only_reader(value: ir.Value) -> ir.Node | None:
    users = {use.node for use in value.uses()}
    return next(iter(users)) if len(users) == 1 and not value.is_graph_output() else None


__all__ = ["LEAST_OPSET", "Coded", "Coder", "find_coded", "word_of"]
