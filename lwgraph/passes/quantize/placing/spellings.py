"""Asks the runtime which nodes it computes in integers as they are spelled: a small model for each, remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.calibrate.capture import main_values, measured_shapes
from lwgraph.calibrate.thresholds import Range
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor, Feeds, untimed
from lwgraph.passes.quantize.graph.emit import FLOAT, IntegerConstants, QdqWriter
from lwgraph.passes.quantize.grids.grid import Grid, activation_grid
from lwgraph.passes.quantize.grids.weight_grid import weight_grid
from lwgraph.passes.quantize.placing.placement import Placement
from lwgraph.passes.quantize.placing.roles import Role, roles_of, weight_axis
from lwgraph.passes.quantize.placing.target import Target

_STEPS = 4  # of the grid that integers may be off by, after three kernels; a wrong one is off by dozens
_NAME = "node"
_known: dict[str, tuple[str, str]] = {}


def refusals(
    model: ir.Model, target: Target, executor: Executor, refused: Collection[str], feeds: Feeds
) -> dict[str, str]:
    """Names of the nodes for which the runtime has no integer kernel in this spelling -> what it says.

    Each node that `target` has a role for runs between integer convolutions that change nothing, and must give what
    the float operator gives; a layer is only loaded. Where that fails although the node is in float, since the runtime
    turns the images around it into its own layout, the model's convolutions are refused.

    Args:
        model: with the shapes of its values inferred, and a name for every node.
        executor: the target.
        refused: names of the nodes that stay in float anyway.
        feeds: one sample, for the sizes that the model leaves open and for what is not float, such as computed shapes.
    """
    roles, _ = roles_of(model.graph, target, {}, model.graph.opset_imports.get("", 1))
    asked = {
        node: role
        for node, role in roles.items()
        if role.kind in ("compute", "convert", "keep") and all(map(ir.is_finite, node.inputs))
    }
    read = [v for node in asked for v in node.inputs if v is not None and v.name and ir.constant_tensor(v) is None]
    known = main_values(model)
    names = list(dict.fromkeys(v.name or "" for v in read if v.name in known))
    shapes = measured_shapes(model, names, feeds, executor)
    others = list(dict.fromkeys(v.name or "" for v in read if v.name in shapes and v.dtype != ir.DataType.FLOAT))
    values = untimed(executor).prepare(model, others)(feeds) if others else {}
    found: dict[str, str] = {}
    for node, role in asked.items():
        key = _question(model, node, role, shapes, values, target)
        if key not in _known:
            alone, fed = _alone(model, node, role, shapes, values)
            _known[key] = _refusal(alone, fed, role, target, executor)
        inside, beside = _known[key]
        if inside and (node.name or "") not in refused:
            found[node.name or ""] = f"the runtime has no integer kernel for this {node.op_type}: {inside}"
        if beside:
            why = f"the runtime fails at '{node.name}' ({node.op_type}) beside integer convolutions: {beside}"
            found |= {n.name or "": why for n in asked if n.op_type in ir.CONVOLUTIONS}
    return found


def spell_out(model: ir.Model) -> None:
    """Give every Resize of some axes its factors or sizes for all axes, where they are known. In place; O(nodes).

    ONNX Runtime forgets the axes when it turns the images around integer convolutions into its own layout.
    """
    for node in model.graph:
        if ir.operator(node) != "Resize" or "axes" not in node.attributes:
            continue
        x, index = node.inputs[0], 3 if len(node.inputs) > 3 and node.inputs[3] is not None else 2
        given = ir.constant(node.inputs[index])
        stretched = ir.attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
        cropped = ir.attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
        if given is None or cropped or not stretched or x is None or x.shape is None:
            continue
        whole: list[Any] = [1.0] * len(x.shape) if index == 2 else list(x.shape)
        for axis, number in zip(node.attributes["axes"].value, given.tolist(), strict=True):
            whole[axis] = number
        if all(isinstance(number, int | float) for number in whole):
            array = np.array(whole, given.dtype)
            node.replace_input_with(index, ir.add_initializer(model.graph, array, f"{node.name}_whole"))
            node.attributes.pop("axes")


def _question(
    model: ir.Model, node: ir.Node, role: Role, shapes: Mapping[str, Sequence[int]], values: Feeds, target: Target
) -> str:
    """What tells the node alone, see `_alone`, from any other, without making it: most were asked about before."""
    digest = hashlib.sha256(repr((target, role, model.ir_version, sorted(model.graph.opset_imports.items()))).encode())
    proto = ir.node_proto(node)
    names = list(proto.input)
    told: list[object] = [len(node.outputs), [names.index(name) for name in names]]  # which inputs are the same value
    for field in ("name", "input", "output", "metadata_props", "doc_string"):
        proto.ClearField(field)
    digest.update(proto.SerializeToString(deterministic=True))
    for value in node.inputs:
        array, shape = None, ir.constant_shape(value)
        if shape is not None and role.kind != "compute":
            array = ir.constant(value)
        elif shape is None and value is not None:
            shape = tuple(shapes[value.name or ""])
            array = values.get(value.name or "")
        told.append((None if value is None else str(value.type), shape))
        if array is not None:
            digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(repr(told).encode())
    return digest.hexdigest()


def _alone(
    model: ir.Model, node: ir.Node, role: Role, shapes: Mapping[str, Sequence[int]], values: Feeds
) -> tuple[ir.Model, dict[str, Array]]:
    """The node as a model of its own, with its constants (a layer's are all ones), and what to feed it."""
    graph = ir.Graph([], [], nodes=[], opset_imports=dict(model.graph.opset_imports))
    inputs: list[ir.Value | None] = []
    made: dict[str, ir.Value] = {}
    fed: dict[str, Array] = {}
    rng = np.random.default_rng(0)
    for index, value in enumerate(node.inputs):
        name, shape = (value.name if value is not None else "") or "", ir.constant_shape(value)
        if value is None:
            inputs.append(None)
            continue
        if shape is not None:
            array = ir.constant(value) if role.kind != "compute" else np.broadcast_to(np.float32(1), shape)
            assert array is not None
            made[name] = ir.add_initializer(graph, array, f"c{index}")
        elif name not in made:
            known = np.asarray(values[name]) if name in values else None
            array = rng.uniform(-1, 1, shapes[name]).astype(np.float32) if known is None else known
            made[name] = ir.Value(name=f"x{index}", type=value.type, shape=ir.Shape(array.shape))
            graph.inputs.append(made[name])
            fed[f"x{index}"] = array
        inputs.append(made[name])
    attributes = list(node.attributes.values())
    copy = ir.Node("", node.op_type, inputs, attributes, num_outputs=len(node.outputs), name=_NAME)
    graph.append(copy)
    for index, output in enumerate(copy.outputs):
        output.name, output.type = f"y{index}", ir.TensorType(ir.DataType.FLOAT)
        graph.outputs.append(output)
    return ir.Model(graph, ir_version=model.ir_version), fed


def _refusal(model: ir.Model, feeds: Feeds, role: Role, target: Target, executor: Executor) -> tuple[str, str]:
    """What goes wrong with a model's only node in integers, and with it in float between integers; "" for nothing."""
    if role.kind == "compute":
        return _failure(model, {_NAME: role}, {}, {}, target, executor), ""
    grid = _grid(target)
    # On the grid, so that rounding them is no error, which a node that multiplies by more than one would enlarge.
    feeds = {n: x if x.dtype != np.float32 else grid.decode(grid.encode(x), np.float32) for n, x in feeds.items()}
    wanted = executor.prepare(model)(feeds)
    beside = _between_convolutions(model, role, feeds, wanted)
    inside = _failure(model, {**beside, _NAME: role}, feeds, wanted, target, executor)
    return inside, _failure(model, beside, feeds, wanted, target, executor) if inside and beside else ""


def _between_convolutions(model: ir.Model, role: Role, feeds: Feeds, wanted: Feeds) -> dict[str, Role]:
    """Put a convolution that changes nothing before and after each image of the node; their names with their role."""
    graph, node = model.graph, model.graph[0]
    found = {}

    def convolution(value: ir.Value, channels: int, rank: int) -> ir.Node:
        ones = ir.add_initializer(graph, np.ones((channels, 1, *[1] * (rank - 2)), np.float32), "ones")
        made = ir.make_node("Conv", [value, ones], {"group": channels})
        made.name = f"conv_{value.name}"
        made.outputs[0].name, made.outputs[0].type = f"{value.name}_same", ir.TensorType(ir.DataType.FLOAT)
        found[made.name] = Role("compute", (0,))
        return made

    for value in dict.fromkeys(node.inputs[i] for i in role.data):
        if value is not None and (array := np.asarray(feeds[value.name or ""])).ndim > 2:
            made = convolution(value, array.shape[1], array.ndim)
            for index in [i for i, v in enumerate(node.inputs) if v is value]:
                node.replace_input_with(index, made.outputs[0])
            graph.insert_before(node, made)
    for index, value in enumerate(list(graph.outputs)):
        if (array := np.asarray(wanted[value.name or ""])).ndim > 2 and array.shape[1] > 0:
            made = convolution(value, array.shape[1], array.ndim)
            graph.append(made)
            graph.outputs[index] = made.outputs[0]
    return found


def _failure(
    model: ir.Model, roles: Mapping[str, Role], feeds: Feeds, wanted: Feeds, target: Target, executor: Executor
) -> str:
    """What goes wrong with the named nodes in integers; without anything wanted, the model is only loaded."""
    grid = _grid(target)
    try:
        run = executor.prepare(_quantized(model, roles, target, grid))
        found = list(run(feeds).values()) if wanted else []
    except LwgraphError as error:
        return " ".join(str(error).split())[:200]
    low, high = grid.range()
    for real, got in zip(wanted.values(), found, strict=True):
        y, z = np.asarray(real), np.asarray(got)
        if y.shape != z.shape:
            return f"it gives {list(z.shape)} in place of {list(y.shape)}"
        off = float(np.abs(np.clip(y, low, high) - z).max(initial=0.0)) / float(grid.scale)
        if off > _STEPS:
            return f"its integers are off by {off:.3g} steps"
    return ""


def _grid(target: Target) -> Grid:
    return activation_grid(Range(-4.0, 4.0), target.activation_type, target.activation_symmetric)


def _own_grid(value: ir.Value | None, target: Target) -> Grid:
    """That which a constant will have: of its own range."""
    array = ir.constant(value)
    assert array is not None
    real = Range(min(0.0, float(array.min(initial=0.0))), max(0.0, float(array.max(initial=0.0))))
    return activation_grid(real, target.activation_type, target.activation_symmetric)


def _quantized(model: ir.Model, roles: Mapping[str, Role], target: Target, grid: Grid) -> ir.Model:
    made = ir.clone(model)
    for node in made.graph:
        if node.name == _NAME and _NAME not in roles:
            node.meta[FLOAT] = True
    named = {node: roles[node.name or ""] for node in made.graph if (node.name or "") in roles}
    touched = [v for node, role in named.items() for v in [*(node.inputs[i] for i in role.data), *node.outputs]]
    placement = Placement(made.graph, named, {}, dict.fromkeys(v for v in touched if v is not None))
    weights = {}
    for node in placement.compute:
        if (weight := ir.constant(node.inputs[1])) is not None:
            opset = made.graph.opset_imports.get("", 1)
            by_channel = target.per_channel and opset >= target.per_channel_opset and node.op_type != "ConvTranspose"
            axis = weight_axis(node) if by_channel else None
            steps = weight_grid(weight, axis, target.weight_type, reduced=target.reduced_range, search=False)
            weights[node] = IntegerConstants(steps.encode(weight), steps)
    constants = {
        (node, index): _own_grid(node.inputs[index], target) for node, role in named.items() for index in role.constants
    }
    QdqWriter(
        placement, dict.fromkeys(placement.quantized, grid), weights, constants, target.keep_clips, guard=True
    ).run()
    return made


__all__ = ["refusals", "spell_out"]
