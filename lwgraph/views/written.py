"""What a model's file holds: each layer with its precision and form. What reports say of a result is read here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lwgraph import ir, registry
from lwgraph.layers.coded_weights import Coded, find_coded
from lwgraph.layers.site import layer_name
from lwgraph.measure.kernels import is_integer_kernel
from lwgraph.measure.work import node_macs
from lwgraph.report import Layer
from lwgraph.rewrite.provenance import FROM_KEY, PASS_KEY

INT8 = "int8"
_BYTES = (ir.DataType.INT8, ir.DataType.UINT8)
_MICROSOFT = ("com.microsoft", "com.ms.internal.nhwc")
# Where the weight of a layer stands among the inputs, of operators that take integers as they are.
_INTEGERS = {
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "ConvInteger": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "DynamicQuantizeLSTM": 1,
    "QGemm": 3,
    "QAttention": 1,
}
_FLOATS = ir.LINEAR | ir.RECURRENT | {"FusedConv", "FusedGemm", "FusedMatMul"}
_WIDE = {ir.DataType.FLOAT: "float32", ir.DataType.DOUBLE: "float64"}
_SHIFTED = 2  # powers of two in a weight up to which products with it count as shifts
_UNPACKS = ("DequantizeLinear", "Cast", "Mul", "Div", "Sub")
_MOVED = ir.RESHAPES | {"Transpose", "Identity"}


def layers(model: ir.Model, ran: Mapping[str, str] | None = None) -> list[Layer]:
    """A row for each node that multiplies by constant weights, in graph order, those of subgraphs and functions too.

    A layer counts as computed in integers only where its activations and its weights are 8-bit integers and the runtime
    has a kernel for that: the one that `ran` names, where it does, else as ONNX Runtime's rules are.

    Args:
        model: as it is written.
        ran: what the runtime runs in the place of each node, by name; see `lwgraph.measure.kernels.kernels`.
    """
    forms, found, nodes, taken = registry.names("forms"), [], list[ir.Node](), set[str]()
    for scope in ir.scopes(model):
        coded = dict(find_coded(ir.graph_of(scope)))
        for node in scope:
            if (stored := _weight(node, coded)) is None:
                continue
            name = layer_name(node, scope, taken)
            taken.add(name)
            dtype, shape, packed = stored
            form, stands_for = _form(node, name, forms)
            precision = _precision(node, dtype, (ran or {}).get(node.name or ""))
            layer = Layer(name, node.op_type, "x".join(map(str, shape)), precision, form, stands_for)
            if packed is not None:
                layer.codes, layer.shifts = packed.words, packed.terms if packed.terms <= _SHIFTED else 0
            found.append(layer)
            nodes.append(node)
    if any(layer.shifts for layer in found):
        shapes = {
            value.name or "": [size if isinstance(size, int) else None for size in dims]
            for value, dims in ir.infer_shapes(model).items()
        }
        for layer, node in zip(found, nodes, strict=True):
            layer.macs = node_macs(node, shapes)
    return found


def put_out(model: ir.Model) -> dict[str, ir.Dims]:
    """The sizes of what each layer of the main graph puts out, a form as a whole, as far as they are known.

    Args:
        model: as it is written.

    Returns:
        by `Layer.stands_for`.
    """
    shapes, forms, found, taken = ir.infer_shapes(model), registry.names("forms"), dict[str, ir.Dims](), set[str]()
    coded = dict(find_coded(model.graph))
    for node in model.graph:
        is_layer = _weight(node, coded) is not None
        name = layer_name(node, model.graph, taken) if is_layer else node.name or ""
        form, stands_for = _form(node, name, forms)
        if is_layer or form:  # the last node of a form gives what it puts out
            taken.add(name)
            found[stands_for] = shapes.get(node.outputs[0], ())
    return found


def _weight(node: ir.Node, coded: Mapping[ir.Value, Coded]) -> tuple[ir.DataType, tuple[int, ...], Coded | None] | None:
    """Type and shape of a layer's weight, and its codes where it has some; None for a node that is no layer."""
    if node.op_type == "MatMulNBits" and node.domain in _MICROSOFT:
        bits, sizes = ir.attribute(node, "bits", 4), [ir.attribute(node, name, 0) for name in ("N", "K")]
        return (ir.DataType.UINT4 if bits == 4 else ir.DataType.UINT8), tuple(sizes), None
    if node.domain not in ("", "ai.onnx", *_MICROSOFT):
        return None
    index = _INTEGERS.get(node.op_type, 1 if node.op_type in _FLOATS else 0)
    value = node.inputs[index] if index and len(node.inputs) > index else None
    for _ in range(8):  # a weight is unpacked, scaled and turned round in a few steps
        dtype, shape = ir.constant_dtype(value), ir.constant_shape(value)
        if dtype is not None and shape is not None:
            return dtype, shape, None
        packed = coded.get(value) if value is not None else None
        if packed is not None:
            return ir.DataType.from_numpy(packed.tables.dtype), packed.shape, packed
        maker = value.producer() if value is not None else None
        if maker is None or ir.operator(maker) not in (*_UNPACKS, *_MOVED):
            return None
        # Of a weight that is scaled by hand, the scale is the constant.
        value = next((each for each in maker.inputs if ir.constant_dtype(each) is None), maker.inputs[0])
    return None


def _precision(node: ir.Node, stored: ir.DataType, kernel: str | None) -> str:
    if node.op_type in _INTEGERS or (_is_dequantized(node, stored) and _has_kernel(node, kernel)):
        return INT8
    if stored in _WIDE:
        return _WIDE[stored]
    kind = stored.name.lower().removeprefix("u")
    return kind if ir.constant_dtype(node.inputs[1]) == stored and stored.is_floating_point() else f"{kind} weights"


def _is_dequantized(node: ir.Node, stored: ir.DataType) -> bool:
    """Whether a float operator reads activations and weights that were 8-bit integers just before."""
    if stored not in _BYTES or len(node.inputs) < 2:
        return False
    makers = [value.producer() if value is not None else None for value in node.inputs[:2]]
    return all(
        maker is not None
        and ir.operator(maker) == "DequantizeLinear"
        and _grid_type(maker) in _BYTES
        and not ir.attribute(maker, "block_size", 0)
        for maker in makers
    )


def _grid_type(node: ir.Node) -> ir.DataType | None:
    """The type of the integers that a DequantizeLinear reads."""
    zero = ir.constant_dtype(node.inputs[2]) if len(node.inputs) > 2 else None
    value = node.inputs[0]
    return zero or ir.constant_dtype(value) or (value.dtype if value is not None else None)


def _has_kernel(node: ir.Node, kernel: str | None) -> bool:
    if kernel is not None:
        return is_integer_kernel(kernel)
    if ir.operator(node) in ir.PRODUCTS:
        return True  # they return floats where nothing quantizes them
    value = node.outputs[0]
    while (use := _only_use(value)) is not None and ir.operator(use) in ("Relu", "Clip"):
        value = use.outputs[0]
    return ir.operator(node) == "Conv" and use is not None and ir.operator(use) == "QuantizeLinear"


def _only_use(value: ir.Value) -> ir.Node | None:
    users = [use.node for use in value.uses()]
    return users[0] if len(users) == 1 and not value.is_graph_output() else None


def _form(node: ir.Node, name: str, forms: Sequence[str]) -> tuple[str, str]:
    """The form that a node is a part of ("" for none), and the layer that it stands for.

    The node's metadata tell; in a file that was to stay small, its name still does.
    """
    made_by = node.metadata_props.get(PASS_KEY, "")
    if made_by.partition("{")[0] in forms:
        return made_by, node.metadata_props.get(FROM_KEY, name)
    for form in forms:
        if (told := re.fullmatch(rf"(.+)_{re.escape(form)}(_\d+)?", name)) is not None:
            return form, told[1]
    return "", name


__all__ = ["INT8", "layers", "put_out"]
