"""Keeps weights in codes while a model is quantized: decoded before, the integers coded again after."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.layers.coded_weights import Coded, find_coded, install, stored_bytes

_INTEGERS = (ir.DataType.INT8, ir.DataType.UINT8)
_OUTPUT_AXIS = {"MatMulInteger": -1, "ConvInteger": 0}  # of the second input, where no attribute says so


def decode_weights(model: ir.Model) -> dict[str, Coded]:
    """Put initializers in place of decoders; what was decoded, by the new initializer's name."""
    found = {}
    for value, coded in list(find_coded(model.graph)):
        plain = ir.add_initializer(model.graph, coded.decode(), (value.name or "weight").removesuffix("/decoded"))
        maker = value.producer()
        ir.replace_uses(value, plain)
        assert maker is not None
        ir.sweep([maker])
        found[str(plain.name)] = coded
    return found


def encode_weights(model: ir.Model, decoded: Mapping[str, Coded]) -> int:
    """Code again what `decode_weights` decoded: weights that are as they were, and the integers that others became.

    Integers keep to codes where each output channel, or the whole tensor, has few enough values. The number of weights
    in codes.
    """
    if not decoded:
        return 0
    bits = max(coded.bits for coded in decoded.values())
    made = dict[ir.Value, Coded]()
    for name, coded in decoded.items():
        value = model.graph.initializers.get(name)
        array = ir.constant(value)
        if value is not None and array is not None and np.array_equal(array, coded.decode()):
            made[value] = coded
    for node in model.graph:
        value = node.inputs[1 if ir.operator(node) in _OUTPUT_AXIS else 0] if node.inputs else None
        if value is None or value in made or not value.is_initializer() or ir.constant_dtype(value) not in _INTEGERS:
            continue
        if ir.operator(node) == "DequantizeLinear":
            axis = int(ir.attribute(node, "axis", 1))
        elif ir.operator(node) in _OUTPUT_AXIS:
            axis = _OUTPUT_AXIS[ir.operator(node)]
        else:
            continue
        array = ir.constant(value)
        if array is not None and array.ndim >= 2 and (packed := _coded(array, axis, bits)) is not None:
            made[value] = packed
    install(model.graph, model.graph.opset_imports.get("", 1), made)
    return len(made)


def _coded(array: Array, axis: int, most: int) -> Coded | None:
    """Integers as codes of at most `most` bits, as few as tell the values apart, of the tensor or of output channels.

    None where they have too many values, or codes would not be smaller.
    """
    axis %= array.ndim
    rows = np.moveaxis(array, axis, 0)
    order = tuple(int(at) for at in np.argsort([axis, *(a for a in range(array.ndim) if a != axis)])) if axis else ()
    values, codes = np.unique(array, return_inverse=True)
    made = []
    if (bits := _bits(len(values))) <= most:
        made.append(Coded(codes.reshape(array.shape).astype(np.uint8), values[None], None, bits))
    found = [np.unique(row, return_inverse=True) for row in rows.reshape(len(rows), -1)]
    if (bits := _bits(max(len(own) for own, _ in found))) <= most:
        tables = np.stack([np.pad(own, (0, (1 << bits) - len(own)), mode="edge") for own, _ in found])
        numbers = np.stack([inverse.reshape(-1) for _, inverse in found]).astype(np.uint8)
        made.append(Coded(numbers.reshape(rows.shape), tables, None, bits, order))
    least = min(made, key=_size, default=None)
    return least if least is not None and _size(least) < array.nbytes else None


def _bits(values: int) -> int:
    """Bits that tell so many values apart, at least one."""
    return max(1, (values - 1).bit_length())


def _size(coded: Coded) -> int:
    return stored_bytes(coded.codes.size, coded.bits, coded.tables.nbytes)


__all__ = ["decode_weights", "encode_weights"]
