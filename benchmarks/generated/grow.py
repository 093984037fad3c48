"""A network for every seed: which family, how many pieces, what is wrapped in bodies and functions, which opset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from benchmarks.generated import ends, images, oddities, sequences
from benchmarks.generated.draft import Draft, Input, Value, element_type
from lwgraph.arrays import Array
from lwgraph.testing import random_model

OLDEST, NEWEST = 7, min(onnx.defs.onnx_opset_version(), 26)
_IR = {7: 3, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7}  # the version that came with the opset; newer ones after
SIZES = {"N": (2, 3, 1, 0), "S": (5, 9, 1, 0), "H": (8, 12, 7), "W": (8, 10, 9)}
PIECES = 6
ODD = 0.35  # share of pieces that an oddity follows


@dataclass
class Network:
    """A generated network.

    Attributes:
        proto: the model.
        inputs: what its inputs may hold.
        kinds: what it has, in words.
        family: which.
    """

    seed: int
    proto: onnx.ModelProto
    inputs: list[Input]
    family: str
    kinds: set[str] = field(default_factory=set)

    def sizes(self) -> list[dict[str, int]]:
        """Sizes of the dynamic axes: those of the first feed, then each other one of each axis alone, then together."""
        names = sorted({size for each in self.inputs for size in each.shape if isinstance(size, str)})
        first = {name: SIZES[name][0] for name in names}
        least = 1 if self.kinds & {"LSTM", "GRU", "RNN"} else 0  # ONNX Runtime dies of a recurrent layer without a row
        alone = [{**first, name: size} for name in names for size in SIZES[name][1:] if size >= least]
        together = [{name: SIZES[name][1] for name in names}] if len(names) > 1 else []
        return [first, *alone, *together]

    def feeds(self, sizes: dict[str, int], seed: int, scale: float = 1.0) -> dict[str, Array]:
        """Inputs at some sizes; floats times `scale`."""
        rng = np.random.default_rng((self.seed, seed))
        made = {each.name: each.sample(sizes, rng) for each in self.inputs}
        return {name: (a * np.asarray(scale, a.dtype)) if a.dtype.kind == "f" else a for name, a in made.items()}


def network(seed: int, pieces: int = PIECES) -> Network:
    """The network of a seed, of about `pieces` pieces; the same bytes each time."""
    if seed % 16 == 15:
        return _plain(seed)
    start = np.random.default_rng((seed, 7))
    opset = int(start.choice([*range(OLDEST, NEWEST + 1), 11, 13, 17, 17]))
    d = Draft(seed, opset)
    family = d.pick(*FAMILIES, "convolutional", "convolutional", "attention", "recurrent", "mixed")
    outputs = FAMILIES[family](d, d.random.randint(1, pieces))
    outputs = _outputs(d, outputs)
    graph = _graph(d, outputs)
    proto = _model(d, graph)
    return Network(seed, proto, d.inputs, family, d.kinds | {f"opset {opset}"})


def _plain(seed: int) -> Network:
    """One of the public kit's random models."""
    from lwgraph import ir

    proto = ir.to_proto(random_model(seed, nodes=10))
    (given,) = proto.graph.input
    dims = given.type.tensor_type.shape.dim
    shape = tuple(d.dim_param or d.dim_value for d in dims)
    return Network(seed, proto, [Input(given.name, shape)], "random model", {f"opset {proto.opset_import[0].version}"})


def _grow(d: Draft, x: Value, pieces: tuple[Callable[[Draft, Value], Value], ...], count: int) -> list[Value]:
    """x and what came of it."""
    values = [x]
    for _ in range(count):
        source = values[-1] if d.chance(0.85) else d.random.choice(values)
        y = d.pick(*pieces)(d, source)
        if d.chance(ODD):
            y = d.pick(*oddities.PIECES)(d, y)
        same = [each for each in values if each.shape == y.shape and each.name != y.name]
        if same and d.chance(0.2):
            y = d.like(y, d.pick("Add", "Mul", "Max"), y, d.random.choice(same))
        values.append(y)
    return values


def _convolutional(d: Draft, count: int) -> list[Value]:
    values = _grow(d, ends.image(d), images.PIECES, count)
    end = values[-1]
    return ends.classifier(d, ends.pooled(d, end)) if d.chance(0.5) else [end]


def _attention(d: Draft, count: int) -> list[Value]:
    values = _grow(d, ends.tokens(d), sequences.PIECES, max(1, count // 2))
    return _end_of_sequence(d, values[-1])


def _recurrent(d: Draft, count: int) -> list[Value]:
    values = _grow(d, ends.tokens(d), sequences.RECURRENT, max(1, count // 2))
    return _end_of_sequence(d, values[-1])


def _end_of_sequence(d: Draft, x: Value) -> list[Value]:
    how = d.pick("all", "first", "mean", "logits")
    if how == "first":
        first = d.node("Gather", x, np.int64(0), shape=(x.shape[0], x.shape[2]), axis=1)
        return ends.classifier(d, first)
    if how == "mean":
        return ends.classifier(d, d.reduce("ReduceMean", x, 1, keep=False))
    return [sequences.linear(d, x, 5)] if how == "logits" else [x]


def _detector(d: Draft, count: int) -> list[Value]:
    values = _grow(d, ends.image(d), images.PIECES, count)
    maps = [value for value in values[1:] if len(value.shape) == 4][-2:]
    return ends.detector(d, maps)


def _vision(d: Draft, count: int) -> list[Value]:
    values = _grow(d, ends.image(d), images.PIECES, max(1, count // 2))
    x = ends.patches(d, values[-1])
    if d.chance(0.5):
        x = sequences.class_token(d, x)
    width = x.shape[-1]
    if isinstance(width, int) and width % 4:
        x = sequences.linear(d, x, 8)
    steps = (*sequences.PIECES, sequences.recurrent, sequences.encoder)
    return _end_of_sequence(d, _grow(d, x, steps, max(1, count // 2))[-1])


def _table(d: Draft, count: int) -> list[Value]:
    values = _grow(d, ends.rows(d), (ends.dense,), count)
    return ends.classifier(d, values[-1])


def _integers(d: Draft, count: int) -> list[Value]:
    return ends.integers(d)


def _several(d: Draft, count: int) -> list[Value]:
    """Two inputs of different kinds, joined at the end."""
    d.said("several inputs")
    a = ends.pooled(d, _grow(d, ends.image(d), images.PIECES, max(1, count // 2))[-1])
    b = ends.rows(d)
    a, b = sequences.linear(d, a, 4), sequences.linear(d, b, 4)
    if a.shape == b.shape:
        joined = d.like(a, d.pick("Add", "Mul"), a, b)
        return [joined, a]
    return [a, b]


FAMILIES: dict[str, Callable[[Draft, int], list[Value]]] = {
    "convolutional": _convolutional,
    "attention": _attention,
    "recurrent": _recurrent,
    "detector": _detector,
    "mixed": _vision,
    "table": _table,
    "integers": _integers,
    "several inputs": _several,
}


def _outputs(d: Draft, wanted: list[Value]) -> list[Value]:
    """The outputs: never an input itself or a constant, sometimes with inner values beside."""
    made = {output for node in d.main.nodes for output in node.output}
    outputs = [v if v.name in made else d.like(v, "Identity") for v in wanted]
    if d.chance(0.25):
        inner = [n for node in d.main.nodes for n in node.output if n in d.types and node.op_type != "Constant"]
        if inner:
            name = d.random.choice(inner)
            outputs.append(Value(name, (), d.types[name]))
            d.said("inner outputs")
    d.shaped = wanted
    return list({v.name: v for v in outputs}.values())


def _graph(d: Draft, outputs: list[Value]) -> onnx.GraphProto:
    inputs = []
    for each in d.inputs:
        shape = (
            list(each.shape)
            if d.chance(0.9)
            else [s if isinstance(s, int) and i else None for i, s in enumerate(each.shape)]
        )
        inputs.append(helper.make_tensor_value_info(each.name, element_type(each.dtype), shape))
    nodes = d.main.nodes
    constants = d.main.constants
    if d.opset < 9:  # IR version 3: initializers are inputs, too
        for tensor in constants:
            inputs.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    infos = []
    ranks = d.chance(0.6)  # whether outputs have shapes, as the format asks; inner ones among them are never known here
    for v in outputs:
        known = ranks and v in d.shaped
        shape = [s if isinstance(s, int) and d.chance(0.5) else None for s in v.shape] if known else None
        infos.append(helper.make_tensor_value_info(v.name, element_type(v.dtype), shape))
    graph = helper.make_graph(nodes, f"generated {d.number}", inputs, infos, constants)
    if d.chance(0.2):
        graph.doc_string = "a generated network"
    return graph


def _model(d: Draft, graph: onnx.GraphProto) -> onnx.ModelProto:
    ir_version = _IR.get(d.opset, 8 if d.opset < 19 else 9 if d.opset < 21 else 10)
    functions: list[onnx.FunctionProto] = []
    if ir_version >= 8 and d.chance(0.12):
        functions = _called(d, graph)
    opsets = [helper.make_opsetid("", d.opset)]
    if functions:
        opsets.append(helper.make_opsetid("local", 1))
    proto = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=ir_version)
    if d.chance(0.4):
        d.said("shapes recorded")
        proto = onnx.shape_inference.infer_shapes(proto)
    return proto


def _called(d: Draft, graph: onnx.GraphProto) -> list[onnx.FunctionProto]:
    """A row of nodes becomes a function of the model, which is called in its place."""
    nodes = list(graph.node)
    if len(nodes) < 4:
        return []
    start = d.random.randrange(len(nodes) - 2)
    stop = min(len(nodes), start + d.random.randint(2, 6))
    row = nodes[start:stop]
    made = [output for node in row for output in node.output if output]
    read = list(dict.fromkeys(name for node in row for name in names_read(node) if name and name not in made))
    later = {name for node in nodes[stop:] for name in names_read(node)} | {o.name for o in graph.output}
    given = [name for name in made if name in later]
    if not given:
        return []
    d.said("functions")
    opsets = [helper.make_opsetid("", d.opset)]
    function = helper.make_function("local", "Part", read, given, row, opsets)
    del graph.node[:]
    call = helper.make_node("Part", read, given, "call", domain="local")
    graph.node.extend([*nodes[:start], call, *nodes[stop:]])
    return [function]


def names_read(node: onnx.NodeProto) -> list[str]:
    """The values that a node reads, in its bodies, too; what bodies make themselves is left out."""
    found = list(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            body = attribute.g
            own = {v.name for v in body.input} | {t.name for t in body.initializer}
            own |= {output for inner in body.node for output in inner.output}
            found += [name for inner in body.node for name in names_read(inner) if name not in own]
            found += [v.name for v in body.output if v.name not in own]
    return found


def session(proto: onnx.ModelProto, optimize: bool = True) -> onnxruntime.InferenceSession:
    """The model in ONNX Runtime itself, with nothing of lwgraph between."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
