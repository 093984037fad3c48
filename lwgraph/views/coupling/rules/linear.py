"""Convolutions, matrix products and embeddings: where channels are made and read."""

from __future__ import annotations

import numpy as np

from lwgraph import ir
from lwgraph.views.coupling.builder import Axis, Coupler
from lwgraph.views.coupling.rules import rule, spatial_frozen


def _makes(builder: Coupler, output: ir.Value, axis: int, size: int, sources: list[Axis | None]) -> Axis | None:
    """Track an axis of the output, equal to `sources`: where a layer makes channels."""
    if size < 2:
        builder.untracked(output, axis, f"'{output.name}' has {size} channel")
        return None
    made = builder.track(output, axis, size)
    for source in sources:
        builder.equal(made, source)
    return made


def _reads(builder: Coupler, node: ir.Node, value: ir.Value, axis: int, weight: int, at: int) -> None:
    """The weight's axis `at` is contracted with the value's `axis`."""
    found = builder.get(value, axis)
    if found is None:
        return
    column = builder.constant(node, weight, at, "in")
    if column is not None:
        builder.equal(found, column)
    elif found.size > 1:
        builder.freeze(found, f"the weight of node '{node.name}' ({node.op_type}) does not have its size")


def _convolved(node: ir.Node, builder: Coupler) -> tuple[ir.Value, ir.Value, int, int, int] | None:
    """Input, output, groups and the weight's first two sizes of a convolution; None, and frozen, without constants.

    The spatial axes of the input are frozen, the batch goes through.
    """
    x, w, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert x is not None and w is not None
    dims = builder.dims(w)
    bias_is_constant = len(node.inputs) < 3 or node.inputs[2] is None or builder.is_constant(node.inputs[2])
    if dims is None or not builder.is_constant(w) or not bias_is_constant:
        builder.freeze_inputs(node, f"the weight or bias of node '{node.name}' ({node.op_type}) is not constant")
        return None
    spatial_frozen(node, builder, x)
    builder.passes(node, output, 0, {0: 0})
    return x, output, ir.attribute(node, "group", 1), int(dims[0] or 0), int(dims[1] or 0)


@rule("Conv")
def conv(node: ir.Node, builder: Coupler) -> None:
    """Weight (o, c/g, *k): o makes the output's channels, c/g reads the input's.

    With groups, index j of every group is one channel, in and out, so that all groups stay equally large; a depthwise
    convolution passes its channels on, each giving o/g outputs.
    """
    found_sizes = _convolved(node, builder)
    if found_sizes is None:
        return
    x, output, group, outputs, inputs = found_sizes
    role = "channel" if group > 1 and inputs == 1 else "out"
    rows = [builder.constant(node, 1, 0, role), builder.constant(node, 2, 0) if len(node.inputs) > 2 else None]
    if group == 1:
        _makes(builder, output, 1, outputs, rows)
        _reads(builder, node, x, 1, 1, 1)
        return
    found = builder.get(x, 1)
    made = _makes(builder, output, 1, outputs, rows)
    if found is None:
        builder.freeze(made, f"node '{node.name}' ({node.op_type}) has groups over {builder.why(x, 1)}")
    elif inputs == 1:
        per = outputs // group
        builder.link(made, found, np.arange(outputs), np.arange(outputs) // per)
    else:
        builder.couple(made, np.arange(outputs) % (outputs // group))
        column = builder.constant(node, 1, 1, "in")
        builder.link(found, column, np.arange(group * inputs), np.arange(group * inputs) % inputs)
        builder.couple(found, np.arange(group * inputs) % inputs)


@rule("ConvTranspose")
def conv_transpose(node: ir.Node, builder: Coupler) -> None:
    """Weight (c, o/g, *k): the other way round than Conv, with the same rule for groups."""
    found_sizes = _convolved(node, builder)
    if found_sizes is None:
        return
    x, output, group, inputs, per = found_sizes
    bias = builder.constant(node, 2, 0) if len(node.inputs) > 2 else None
    if group == 1:
        _makes(builder, output, 1, per, [builder.constant(node, 1, 1, "out"), bias])
        _reads(builder, node, x, 1, 1, 0)
        return
    found = builder.get(x, 1)
    made = _makes(builder, output, 1, per * group, [bias])
    if found is None:
        builder.freeze(made, f"node '{node.name}' ({node.op_type}) has groups over {builder.why(x, 1)}")
        return
    depthwise = inputs == group
    builder.equal(found, builder.constant(node, 1, 0, "channel" if depthwise else "in"))
    if depthwise:
        builder.link(made, found, np.arange(per * group), np.arange(per * group) // per)
    else:
        builder.couple(found, np.arange(inputs) % (inputs // group))
        builder.link(made, builder.constant(node, 1, 1, "out"), np.arange(per * group), np.arange(per * group) % per)
        builder.couple(made, np.arange(per * group) % per)


@rule("Gemm")
def gemm(node: ir.Node, builder: Coupler) -> None:
    """Y (m, n) = A (m, k) B (k, n) + C, each of A and B perhaps transposed."""
    output = node.outputs[0]
    _product(node, builder, bool(ir.attribute(node, "transA", 0)), bool(ir.attribute(node, "transB", 0)))
    c = node.inputs[2] if len(node.inputs) > 2 else None
    dims = builder.dims(c)
    if c is None or dims is None:
        return
    for back in range(1, min(2, len(dims)) + 1):
        made, size = builder.get(output, 2 - back), dims[-back]
        if made is None or size == 1:
            continue
        if builder.is_constant(c):
            builder.equal(made, builder.constant(node, 2, len(dims) - back))
        elif (found := builder.get(c, len(dims) - back)) is not None:
            builder.equal(made, found)
        else:
            builder.freeze(made, f"node '{node.name}' (Gemm) adds {builder.why(c, len(dims) - back)}")
    others = {i for i in range(len(dims)) if builder.get(output, 2 - len(dims) + i) is None}
    for axis in others & set(builder.tracked(c)):
        builder.freeze(builder.get(c, axis), f"node '{node.name}' (Gemm) adds it to {builder.why(output, axis)}")


@rule("MatMul")
def matmul(node: ir.Node, builder: Coupler) -> None:
    """Y (..., m, n) = A (..., m, k) B (..., k, n); the axes before are broadcast."""
    _product(node, builder, False, False)


def _product(node: ir.Node, builder: Coupler, trans_a: bool, trans_b: bool) -> None:
    a, b, output = node.inputs[0], node.inputs[1], node.outputs[0]
    dims_a, dims_b = builder.dims(a), builder.dims(b)
    if a is None or b is None or dims_a is None or dims_b is None:
        builder.freeze_inputs(node, f"the shapes at node '{node.name}' ({node.op_type}) are not known")
        return
    rank_a, rank_b = len(dims_a), len(dims_b)
    rank = max(rank_a, rank_b, 2)
    # Axes of (m, k) and (k, n) in the operands, None where a vector has none.
    m, k_a = (None, 0) if rank_a == 1 else (rank_a - 2 + trans_a, rank_a - 1 - trans_a)
    k_b, n = (0, None) if rank_b == 1 else (rank_b - 2 + trans_b, rank_b - 1 - trans_b)
    out_rank = rank - (m is None) - (n is None)
    _contract(node, builder, k_a, k_b)
    for operand, axis, place in ((0, m, out_rank - 1 - (n is not None)), (1, n, out_rank - 1)):
        if axis is None:
            continue
        if builder.is_constant(node.inputs[operand]) and not builder.is_constant(node.inputs[1 - operand]):
            size = builder.size(node.inputs[operand], axis) or 1  # type: ignore[arg-type]
            _makes(builder, output, place, size, [builder.constant(node, operand, axis, "out")])
        else:
            builder.merge(node, output, place, [(operand, axis)])
    for batch in range(rank - 2):
        sources = [(i, batch - rank + r) for i, r in ((0, rank_a), (1, rank_b)) if r > 2 and batch - rank + r >= 0]
        builder.merge(node, output, batch, sources, any_zero=True)


def _contract(node: ir.Node, builder: Coupler, k_a: int, k_b: int) -> None:
    a, b = node.inputs[0], node.inputs[1]
    assert a is not None and b is not None
    constants = builder.is_constant(a), builder.is_constant(b)
    if all(constants):
        one, two = builder.constant(node, 0, k_a), builder.constant(node, 1, k_b)
        builder.freeze(one, f"node '{node.name}' ({node.op_type}) multiplies constants")
        builder.freeze(two, f"node '{node.name}' ({node.op_type}) multiplies constants")
    elif constants[1]:
        _reads(builder, node, a, k_a, 1, k_b)
    elif constants[0]:
        _reads(builder, node, b, k_b, 0, k_a)
    else:
        one, two = builder.get(a, k_a), builder.get(b, k_b)
        if one is not None and two is not None:
            builder.equal(one, two)
            if not (one.zero or two.zero):
                builder.caveat(one, f"node '{node.name}' ({node.op_type}) sums over it")
        for found, value, axis in ((one, b, k_b), (two, a, k_a)):
            if found is not None and builder.get(value, axis) is None:
                builder.freeze(
                    found, f"node '{node.name}' ({node.op_type}) multiplies it with {builder.why(value, axis)}"
                )


@rule("Gather")
def gather(node: ir.Node, builder: Coupler) -> None:
    """An embedding makes channels of its table's columns; a constant choice among channels is followed index by index.

    A channel that is picked alone (by a scalar, or by a table of indices) cannot be removed.
    """
    data, indices, output = node.inputs[0], node.inputs[1], node.outputs[0]
    dims, chosen = builder.dims(data), builder.dims(indices)
    if data is None or dims is None or chosen is None:
        builder.freeze_inputs(node, f"the shapes at node '{node.name}' (Gather) are not known")
        return
    axis = ir.attribute(node, "axis", 0) % max(len(dims), 1)
    where = {other: other if other < axis else other - 1 + len(chosen) for other in range(len(dims)) if other != axis}
    picks = ir.constant(indices)
    if builder.is_constant(data) and picks is None:
        for other, place in where.items():
            size = dims[other]
            _makes(
                builder, output, place, size if isinstance(size, int) else 1, [builder.constant(node, 0, other, "out")]
            )
        return
    builder.passes(node, output, 0, {place: other for other, place in where.items()})
    found = builder.constant(node, 0, axis) if builder.is_constant(data) else builder.get(data, axis)
    if found is None:
        return
    what = f"node '{node.name}' (Gather)"
    if picks is None:
        builder.freeze(found, f"{what} picks from it by computed indices")
    elif picks.ndim == 1 and picks.size > 1:
        made = builder.track(output, axis, picks.size, found.zero)
        builder.link(made, found, np.arange(picks.size), picks % found.size)
        if builder.is_constant(data):
            builder.derived.add(output)
    else:
        builder.freeze(found, f"{what} picks single channels", np.unique(picks.reshape(-1) % found.size))
        for place in range(axis, axis + picks.ndim):
            builder.untracked(output, place, f"{what} picks single channels")


@rule("Einsum")
def einsum(node: ir.Node, builder: Coupler) -> None:
    """Axes of one letter are equal; a letter that only a constant has makes channels."""
    equation = "".join(str(ir.attribute(node, "equation", "")).split())
    if "." in equation:
        builder.freeze_inputs(node, f"node '{node.name}' (Einsum) has an ellipsis")
        return
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        right = "".join(sorted(letter for letter in set(left) if letter.isalpha() and left.count(letter) == 1))
    if any(len(set(term)) != len(term) for term in terms) or len(terms) != len(node.inputs):
        builder.freeze_inputs(node, f"node '{node.name}' (Einsum) takes a diagonal")
        return
    for letter in dict.fromkeys(left.replace(",", "")):
        places = [(index, term.index(letter)) for index, term in enumerate(terms) if letter in term]
        _einsum_letter(node, builder, letter, places, right)


def _einsum_letter(node: ir.Node, builder: Coupler, letter: str, places: list[tuple[int, int]], right: str) -> None:
    constants = [(i, a) for i, a in places if builder.is_constant(node.inputs[i])]
    others = [(i, a) for i, a in places if (i, a) not in constants]
    if letter in right:
        if not others:
            size = max(builder.size(node.inputs[i], a) or 1 for i, a in constants)  # type: ignore[arg-type]
            _makes(
                builder,
                node.outputs[0],
                right.index(letter),
                size,
                [builder.constant(node, i, a, "out") for i, a in constants],
            )
        else:
            builder.merge(node, node.outputs[0], right.index(letter), places, any_zero=True)
        return
    found = [axis for i, a in others if (axis := builder.get(node.inputs[i], a)) is not None]
    for axis in found:
        builder.equal(found[0], axis)
        if len(found) < len(others):
            builder.freeze(axis, f"node '{node.name}' (Einsum) sums over '{letter}' with what carries no channels")
    for i, a in constants if found else []:
        builder.equal(found[0], builder.constant(node, i, a, "in"))
    if found and not constants and not any(axis.zero for axis in found):
        builder.caveat(found[0], f"node '{node.name}' (Einsum) sums over it")
