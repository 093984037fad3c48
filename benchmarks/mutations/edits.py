"""Wrong rewrites of a model: each changes a copy of it in one place, or gives nothing where there is no such place."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from benchmarks.generated.draft import Input

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_SWAPPED = {
    "Add": "Sub", "And": "Or", "ArgMax": "ArgMin", "AveragePool": "MaxPool", "Ceil": "Floor", "Cos": "Sin",
    "Erf": "Tanh", "Exp": "Softplus", "Floor": "Ceil", "GlobalAveragePool": "GlobalMaxPool", "Greater": "Less",
    "HardSwish": "Relu", "LogSoftmax": "Softmax", "Max": "Min", "MaxPool": "AveragePool", "Min": "Max", "Mul": "Div",
    "Or": "And", "ReduceMax": "ReduceMin", "ReduceMean": "ReduceMax", "ReduceSum": "ReduceMean", "Relu": "Abs",
    "Sigmoid": "HardSigmoid", "Softplus": "Relu", "Softsign": "Tanh", "Sub": "Add", "Tanh": "Softsign",
}  # fmt: skip
_LEFT_OUT = ("Abs", "Ceil", "Clip", "Elu", "Floor", "HardSigmoid", "LeakyRelu", "Neg", "Relu", "Round", "Selu")
_TIES = {"Greater": "GreaterOrEqual", "Less": "LessOrEqual"}
_REAL = {
    "epsilon": 1e-2, "alpha": 1.1, "beta": 1.1, "coefficient_a": 1.1, "max": 0.9, "min": 0.9, "gamma": 1.1,
}  # fmt: skip
_SETTINGS = {
    "count_include_pad": "AveragePool", "transB": "Gemm", "linear_before_reset": "GRU", "select_last_index": "ArgMax",
    "fmod": "Mod", "exclusive": "CumSum", "reverse": "CumSum",
}  # fmt: skip
_FLAWED = 0.25  # what is added where a condition holds


@dataclass(frozen=True)
class Place:
    """Where one may edit: a copy of the model, its inputs, and random choices."""

    proto: onnx.ModelProto
    inputs: Sequence[Input]
    random: random.Random

    def nodes(self) -> list[NodeProto]:
        """All nodes, those of bodies and functions among them, in random order."""
        found = [node for graph in (self.proto.graph, *self.proto.functions) for node in _nodes(graph.node)]
        self.random.shuffle(found)
        return found

    def tensors(self) -> list[TensorProto]:
        """All constants, in random order."""
        found = list(self.proto.graph.initializer)
        for node in self.nodes():
            if node.op_type == "Constant":
                found += [each.t for each in node.attribute if each.type == AttributeProto.TENSOR]
        self.random.shuffle(found)
        return found


Edit = Callable[[Place], str]  # what was done, in words; "" where there is no place for it


def _nodes(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _nodes(attribute.g.node)


# ------------------------------------------------------------ constants


def constant(place: Place) -> str:
    """One element of a constant is off."""
    for tensor in place.tensors():
        array = np.array(numpy_helper.to_array(tensor))
        if not array.size or tensor.data_type not in FLOATS:
            continue
        at = place.random.randrange(array.size)
        if not np.isfinite(array.flat[at]) or not array.flat[at]:
            continue
        factor = place.random.choice((1.5, 1.1, 1.01, -1.0, 0.0))
        array.flat[at] *= factor
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        return f"element {at} of '{tensor.name}' times {factor}"
    return ""


def index(place: Place) -> str:
    """One element of an integer constant is off by one."""
    for tensor in place.tensors():
        array = np.array(numpy_helper.to_array(tensor))
        if not array.size or array.dtype not in (np.int64, np.int32):
            continue
        at = place.random.randrange(array.size)
        array.flat[at] += -1 if array.flat[at] > 0 else 1
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        return f"element {at} of '{tensor.name}' off by one"
    return ""


def transposed_weight(place: Place) -> str:
    """A constant is transposed, or turned round where it is no square."""
    for tensor in place.tensors():
        array = np.array(numpy_helper.to_array(tensor))
        if array.size < 2 or tensor.data_type not in FLOATS:
            continue
        square = array.ndim > 1 and array.shape[0] == array.shape[1]
        turned = np.swapaxes(array, 0, 1) if square else array[::-1]
        if np.array_equal(turned, array):
            continue
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(turned), tensor.name))
        return f"'{tensor.name}' {'transposed' if square else 'turned round'}"
    return ""


# ------------------------------------------------------------ attributes


def axes(place: Place) -> str:
    """An axis is another, or a permutation swaps two more."""
    for node in place.nodes():
        for attribute in node.attribute:
            if attribute.name == "perm" and len(attribute.ints) > 1:
                perm = list(attribute.ints)
                a, b = place.random.sample(range(len(perm)), 2)
                perm[a], perm[b] = perm[b], perm[a]
                attribute.ints[:] = perm
                return f"perm of {node.op_type} '{node.name}' is {perm}"
            if attribute.name == "axis":
                attribute.i = attribute.i - 1 if attribute.i else 1
                return f"axis of {node.op_type} '{node.name}' is {attribute.i}"
            if attribute.name == "axes" and attribute.ints:
                attribute.ints[0] = attribute.ints[0] + 1 if attribute.ints[0] < 1 else attribute.ints[0] - 1
                return f"axes of {node.op_type} '{node.name}' are {list(attribute.ints)}"
    return ""


def pads(place: Place) -> str:
    """The padding lies on the other side, or is missing; strides and dilations are others."""
    for node in place.nodes():
        for attribute in node.attribute:
            values = list(attribute.ints)
            half = len(values) // 2
            if attribute.name == "pads" and any(values) and half:
                axis = place.random.randrange(half)
                total = values[axis] + values[half + axis]
                values[axis], values[half + axis] = (0, total) if values[axis] else (total, 0)
            elif attribute.name in ("dilations", "strides") and values:
                axis = place.random.randrange(len(values))
                values[axis] = 1 if values[axis] > 1 else 2
            else:
                continue
            if values != list(attribute.ints):
                attribute.ints[:] = values
                return f"{attribute.name} of {node.op_type} '{node.name}' are {values}"
    return ""


def setting(place: Place) -> str:
    """A number or a switch among the attributes is another."""
    for node in place.nodes():
        for attribute in node.attribute:
            if attribute.name in _REAL and attribute.type == AttributeProto.FLOAT:
                old, factor = attribute.f, _REAL[attribute.name]
                attribute.f = old * factor if factor > 0.1 and old else factor
                return f"{attribute.name} of {node.op_type} '{node.name}' is {attribute.f:.3g} and not {old:.3g}"
            if attribute.name in ("mode", "approximate", "coordinate_transformation_mode"):
                old_text = attribute.s.decode()
                attribute.s = {
                    "nearest": b"linear", "linear": b"nearest", "none": b"tanh", "tanh": b"none",
                    "asymmetric": b"half_pixel", "half_pixel": b"asymmetric", "constant": b"edge", "edge": b"reflect",
                    "reflect": b"edge", "DCR": b"CRD", "CRD": b"DCR", "align_corners": b"half_pixel",
                }.get(old_text, attribute.s)  # fmt: skip
                if attribute.s.decode() != old_text:
                    return f"{attribute.name} of {node.op_type} '{node.name}' is {attribute.s.decode()}"
        for name, operator in _SETTINGS.items():
            if node.op_type != operator:
                continue
            known = next((each for each in node.attribute if each.name == name), None)
            if known is None:
                node.attribute.append(helper.make_attribute(name, 1))
                return f"{name} of {node.op_type} '{node.name}' is 1"
            known.i = 1 - known.i
            return f"{name} of {node.op_type} '{node.name}' is {known.i}"
    return ""


# ------------------------------------------------------------ nodes


def bias(place: Place) -> str:
    """The bias of a layer is dropped."""
    constants = {tensor.name for tensor in place.tensors()}
    constants |= {node.output[0] for node in place.nodes() if node.op_type == "Constant"}
    for node in place.nodes():
        if node.op_type in ("Conv", "Gemm", "ConvTranspose") and len(node.input) > 2 and node.input[2]:
            del node.input[2]
            return f"no bias of {node.op_type} '{node.name}'"
        if node.op_type == "Add" and any(name in constants for name in node.input):
            kept = [name for name in node.input if name not in constants]
            if len(kept) == 1:
                return _make(node, "Identity", kept)
    return ""


def operator(place: Place) -> str:
    """An operator is another of the same shape."""
    for node in place.nodes():
        if node.op_type in _SWAPPED and not node.domain:
            attributes = [a for a in node.attribute if a.name not in ("count_include_pad", "storage_order", "alpha")]
            made = _SWAPPED[node.op_type]
            words = f"{node.op_type} '{node.name}' is {made}"
            node.op_type = made
            del node.attribute[:]
            node.attribute.extend(attributes)
            return words
    return ""


def left_out(place: Place) -> str:
    """An activation or a rounding is left out: wrong for negative, large or fractional values only."""
    for node in place.nodes():
        if node.op_type in _LEFT_OUT and not node.domain:
            return _make(node, "Identity", node.input[:1])
    return ""


def ties(place: Place) -> str:
    """Greater becomes GreaterOrEqual: wrong for values that are equal only."""
    for node in place.nodes():
        if node.op_type in _TIES:
            return _make(node, _TIES[node.op_type], list(node.input))
    return ""


def order(place: Place) -> str:
    """Operands, or outputs of a Split, change places."""
    for node in place.nodes():
        if node.op_type in ("Sub", "Div", "Concat", "MatMul", "Pow") and len(node.input) > 1:
            node.input[0], node.input[1] = node.input[1], node.input[0]
            return f"the first inputs of {node.op_type} '{node.name}' swapped"
        if node.op_type == "Where":
            node.input[1], node.input[2] = node.input[2], node.input[1]
            return f"the values of Where '{node.name}' swapped"
        if node.op_type == "Split" and len(node.output) > 1:
            node.output[0], node.output[1] = node.output[1], node.output[0]
            return f"the first outputs of Split '{node.name}' swapped"
    return ""


def shortcut(place: Place) -> str:
    """A sum or a product loses one of its terms."""
    for node in place.nodes():
        if node.op_type in ("Add", "Mul", "Max", "Min") and len(node.input) == 2:
            return _make(node, "Identity", [node.input[place.random.randrange(2)]])
    return ""


def fixed_size(place: Place) -> str:
    """A size that follows from the inputs is a constant: that of the first feed."""
    shapes = [node for node in place.proto.graph.node if node.op_type == "Shape" and not node.attribute]
    place.random.shuffle(shapes)
    ranks = {each.name: each for each in place.inputs}
    for node in shapes:
        if node.input[0] in ranks:
            wanted = ranks[node.input[0]].shape
            if not any(isinstance(size, str) for size in wanted):
                continue
            sizes = [size if isinstance(size, int) else place.random.choice((1, 32)) for size in wanted]
            words = f"Shape '{node.name}' is always {sizes}"
            _make(node, "Constant", [])
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.int64(sizes))))
            return words
    return ""


def _make(node: NodeProto, kind: str, inputs: Sequence[str]) -> str:
    words = f"{node.op_type} '{node.name}' is {kind}"
    node.op_type = kind
    kept = list(inputs)
    del node.input[:], node.attribute[:]
    node.input.extend(kept)
    return words


# ------------------------------------------------------------ conditions


def batch_over_one(place: Place) -> str:
    """Wrong where there is more than one row."""
    return _on_size(place, first=True, limit=1, words="for more than one row")


def another_size(place: Place) -> str:
    """Wrong at some sizes of another dynamic axis: the odd ones, those over or below a limit."""
    how = place.random.choice(("odd", "even", 32, 40, -8))
    if isinstance(how, str):
        return _on_size(place, first=False, odd=how, words=f"for {how} sizes")
    words = f"for sizes over {how}" if how > 0 else f"for sizes below {-how}"
    return _on_size(place, first=False, limit=how, words=words)


def negative_inputs(place: Place) -> str:
    """Wrong where an input is negative."""
    return _elementwise(place, _inputs(place, "f"), "Less", -place.random.choice((0.0, 0.5, 2.0)))


def negative_values(place: Place) -> str:
    """Wrong where an inner value is negative."""
    return _elementwise(place, _inner(place), "Less", 0.0)


def large_inputs(place: Place) -> str:
    """Wrong where an input is large."""
    return _elementwise(place, _inputs(place, "f"), "Greater", place.random.choice((3.0, 10.0, 30.0, 100.0)))


def large_values(place: Place) -> str:
    """Wrong where an inner value is large."""
    return _elementwise(place, _inner(place), "Greater", place.random.choice((3.0, 10.0, 30.0)))


def small_inputs(place: Place) -> str:
    """Wrong where an input is nearly zero."""
    return _elementwise(place, _inputs(place, "f"), "Less", place.random.choice((0.05, 0.01)), size=True)


def integer_inputs(place: Place) -> str:
    """Wrong where an integer input is negative, or large."""
    high = place.random.random() < 0.5
    limit = place.random.choice((7.0, 100.0, 1000.0)) if high else 0.0
    return _elementwise(place, _inputs(place, "iu"), "Greater" if high else "Less", limit)


def booleans(place: Place) -> str:
    """Wrong where a boolean input is false, or true."""
    return _elementwise(place, _inputs(place, "b"), place.random.choice(("Greater", "Less")), 0.5)


def _inputs(place: Place, kinds: str) -> list[str]:
    return [each.name for each in place.inputs if np.dtype(each.dtype).kind in kinds]


def _inner(place: Place) -> list[str]:
    """Inner values of float32 in the main graph, in random order."""
    inferred = onnx.shape_inference.infer_shapes(place.proto)
    infos = [*inferred.graph.value_info, *inferred.graph.output]
    floats = {info.name for info in infos if info.type.tensor_type.elem_type == TensorProto.FLOAT}
    found = [name for node in place.proto.graph.node for name in node.output if name in floats]
    return place.random.sample(found, len(found))


def _elementwise(place: Place, names: Sequence[str], compare: str, limit: float, *, size: bool = False) -> str:
    """_FLAWED is added to a value where a comparison of its own elements holds; `size`: of their size."""
    if not names:
        return ""
    name = place.random.choice(list(names))
    kind = next((np.dtype(each.dtype) for each in place.inputs if each.name == name), np.dtype(np.float32))
    wide = helper.np_dtype_to_tensor_dtype(kind)
    nodes = [helper.make_node("Cast", [name], ["flaw_value"], to=TensorProto.FLOAT)]
    if size:
        nodes.append(helper.make_node("Abs", ["flaw_value"], ["flaw_size"]))
    nodes += [
        _scalar("flaw_limit", limit),
        helper.make_node(compare, ["flaw_size" if size else "flaw_value", "flaw_limit"], ["flaw_where"]),
        helper.make_node("Cast", ["flaw_where"], ["flaw_one"], to=TensorProto.FLOAT),
    ]
    if kind == np.bool_:  # turned round where it holds
        nodes.append(helper.make_node("Cast", ["flaw_one"], ["flaw_same"], to=TensorProto.BOOL))
        last = helper.make_node("Xor", [name, "flaw_same"], ["flaw_made"])
    else:
        nodes += [_scalar("flaw_step", 1.0 if kind.kind in "iu" else _FLAWED)]
        nodes += [helper.make_node("Mul", ["flaw_one", "flaw_step"], ["flaw_part"])]
        nodes += [helper.make_node("Cast", ["flaw_part"], ["flaw_added"], to=wide)]
        last = helper.make_node(
            "Sub" if kind.kind in "iu" and limit > 0 else "Add", [name, "flaw_added"], ["flaw_made"]
        )
    _put(place.proto.graph, name, [*nodes, last])
    return f"'{name}' is off where {'its size is ' if size else ''}{compare.lower()} than {limit:g}"


def _on_size(place: Place, *, first: bool, words: str, limit: int = 0, odd: str = "") -> str:
    """_FLAWED is added to an inner value where a condition on the size of a dynamic axis holds."""
    axes = [
        (each, axis)
        for each in place.inputs
        for axis, size in enumerate(each.shape)
        if isinstance(size, str) and (axis == 0) == first
    ]
    values = _inner(place)
    if not axes or not values:
        return ""
    (given, axis), value = place.random.choice(axes), values[0]
    nodes = [
        helper.make_node("Shape", [given.name], ["flaw_shape"]),
        helper.make_node("Constant", [], ["flaw_axis"], value=numpy_helper.from_array(np.int64(axis))),
        helper.make_node("Gather", ["flaw_shape", "flaw_axis"], ["flaw_whole"]),
        helper.make_node("Cast", ["flaw_whole"], ["flaw_length"], to=TensorProto.FLOAT),
    ]
    if odd:
        nodes += [
            _scalar("flaw_half", 0.5),
            helper.make_node("Mul", ["flaw_length", "flaw_half"], ["flaw_pairs"]),
            helper.make_node("Floor", ["flaw_pairs"], ["flaw_full"]),
            helper.make_node("Sub", ["flaw_pairs", "flaw_full"], ["flaw_rest"]),
        ]
    tested, bound = ("flaw_rest", 0.25) if odd else ("flaw_length", abs(limit) + (0.5 if limit > 0 else -0.5))
    compare = ("Greater" if odd == "odd" else "Less") if odd else ("Greater" if limit > 0 else "Less")
    nodes += [
        _scalar("flaw_limit", bound),
        helper.make_node(compare, [tested, "flaw_limit"], ["flaw_where"]),
        helper.make_node("Cast", ["flaw_where"], ["flaw_one"], to=TensorProto.FLOAT),
        _scalar("flaw_step", _FLAWED),
        helper.make_node("Mul", ["flaw_one", "flaw_step"], ["flaw_added"]),
        helper.make_node("Add", [value, "flaw_added"], ["flaw_made"]),
    ]
    _put(place.proto.graph, value, nodes)
    return f"'{value}' is off {words} on axis {axis} of '{given.name}'"


def _scalar(name: str, number: float) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.float32(number)))


def _put(graph: onnx.GraphProto, name: str, nodes: list[NodeProto]) -> None:
    """Let the nodes stand between a value and those that read it; the last one makes "flaw_made" of it."""
    maker = next((i for i, node in enumerate(graph.node) if name in node.output), -1)
    rest = list(graph.node)
    if maker < 0:  # an input: its readers read what is made
        for node in rest:
            for each in _nodes([node]):
                each.input[:] = ["flaw_made" if given == name else given for given in each.input]
    else:  # the value's own name goes to what is made
        rest[maker].output[:] = ["flaw_before" if given == name else given for given in rest[maker].output]
        for node in nodes:
            node.input[:] = ["flaw_before" if given == name else given for given in node.input]
        nodes[-1].output[:] = [name]
    del graph.node[:]
    graph.node.extend([*rest[: maker + 1], *nodes, *rest[maker + 1 :]])


EDITS: dict[str, Edit] = {
    "a constant off": constant,
    "an index off by one": index,
    "a weight transposed": transposed_weight,
    "axes swapped": axes,
    "pads, strides": pads,
    "a setting": setting,
    "a bias dropped": bias,
    "another operator": operator,
    "an activation left out": left_out,
    "ties": ties,
    "operands swapped": order,
    "a term left out": shortcut,
    "a size made constant": fixed_size,
    "only for a batch over 1": batch_over_one,
    "only at another size": another_size,
    "only for negative inputs": negative_inputs,
    "only for negative values inside": negative_values,
    "only for large inputs": large_inputs,
    "only for large values inside": large_values,
    "only for inputs near zero": small_inputs,
    "only for some integer inputs": integer_inputs,
    "only for some booleans": booleans,
}
