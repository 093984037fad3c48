"""Small models of one or more layers, and the layers as statistics see them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir


@dataclass
class FakeLayer:
    """The part of a Site that statistics use."""

    name: str
    kind: str
    input: ir.Value
    outputs: int
    fan_in: int
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"
    group: int = 1
    output_padding: tuple[int, ...] = field(default=())


def build(nodes, inputs, outputs, initializers, opset=17):
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in inputs.items()]
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    graph = helper.make_graph(nodes, "g", infos, outs, [numpy_helper.from_array(a, n) for n, a in initializers.items()])
    return ir.load(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)]))


def conv_model(weight, shape, kind="conv", bias=None, **attributes):
    """A model of one convolution x -> y, and its layer; the weight is in ONNX order."""
    op = "Conv" if kind == "conv" else "ConvTranspose"
    arrays = {"w": weight.astype(np.float32)} | ({} if bias is None else {"b": bias.astype(np.float32)})
    model = build([helper.make_node(op, ["x", *arrays], ["y"], "layer", **attributes)], {"x": shape}, ["y"], arrays)
    group, rank = attributes.get("group", 1), weight.ndim - 2
    outputs = weight.shape[0] if kind == "conv" else weight.shape[1] * group
    per_group = weight.shape[1] if kind == "conv" else weight.shape[0] // group
    value = next(v for v in model.graph.inputs if v.name == "x")
    layer = FakeLayer(
        "layer",
        kind,
        value,
        outputs,
        per_group * int(np.prod(weight.shape[2:])),
        weight.shape[2:],
        tuple(attributes.get("strides", (1,) * rank)),
        tuple(attributes.get("dilations", (1,) * rank)),
        tuple(attributes.get("pads", (0,) * 2 * rank)),
        attributes.get("auto_pad", "NOTSET"),
        group,
        tuple(attributes.get("output_padding", ())),
    )
    return model, layer


def canonical(weight, kind, group):
    """(G, o/g, D): the weight in the order of the patches."""
    if kind == "conv_transpose":
        per = weight.shape[0] // group
        weight = weight.reshape(group, per, *weight.shape[1:]).swapaxes(1, 2)
        return weight.reshape(group, weight.shape[1], -1)
    return weight.reshape(group, weight.shape[0] // group, -1)
