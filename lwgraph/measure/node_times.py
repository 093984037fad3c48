"""Times nodes in float and in integers, from the runtime's own profile, and conversions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from lwgraph import ir
from lwgraph.executor import Executor, Feeds, Kernel, Profiles, offered
from lwgraph.measure.kernels import is_integer_kernel, plain_name

_ROUNDS, _BLOCKS = 4, 3  # runs in a row, with a pause between the rows
_CHANNELS = 32
# In the words of ONNX Runtime and of OpenVINO.
_COMPUTING = (
    *("Conv", "FusedConv", "QLinearConv", "MaxPool", "GlobalMaxPool", "LeakyRelu"),
    *("Convolution", "Pooling", "Reduce", "Eltwise"),
)
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Border:
    """Seconds to turn a tensor of n elements into integers or back, with the change of layout: fixed + each * n."""

    enter_fixed: float = 0.0
    enter_each: float = 0.0
    leave_fixed: float = 0.0
    leave_each: float = 0.0

    def enter(self, elements: float) -> float:
        """Floats to integers."""
        return self.enter_fixed + self.enter_each * elements

    def leave(self, elements: float) -> float:
        """Integers to floats."""
        return self.leave_fixed + self.leave_each * elements


def can_profile(executor: Executor) -> bool:
    """Whether the executor shows what each kernel takes."""
    return offered(executor, Profiles) is not None


def node_seconds(executor: Executor, model: ir.Model, feed: Feeds) -> dict[str, float] | None:
    """Node name -> seconds per run of the kernels that run in its place; None when the executor cannot tell.

    A kernel that the runtime made of several nodes counts for the one of them that computes (the convolution), the
    rest counts nothing. A QuantizeLinear that an integer node's output still passes through counts for that node, and a
    DequantizeLinear in front of one counts for it: an operator without an integer kernel is as slow as it really is.
    """
    able = offered(executor, Profiles)
    if able is None:
        return None
    nodes = {node.name or "": node for node in model.graph}
    makers = {v.name or "": node for node in model.graph for v in node.outputs}
    kernels = _undisturbed([able.profile(model, [feed] * _ROUNDS) for _ in range(_BLOCKS)])
    present: dict[str, float] = {}
    fused: list[tuple[ir.Node, float]] = []
    for kernel in kernels:
        told = [nodes[name] for name in kernel.nodes if name in nodes]
        if told:  # the runtime says which nodes it stands for
            most = next((n for n in told if ir.operator(n) in ir.LINEAR), told[0])
            if ir.operator(most) in _CONVERSIONS:
                _convert(most, kernel.seconds, present)
            else:
                present[most.name or ""] = present.get(most.name or "", 0.0) + kernel.seconds
            continue
        name = plain_name(kernel.name)
        if name in nodes and ir.operator(nodes[name]) in _CONVERSIONS:
            _convert(nodes[name], kernel.seconds, present)
        elif name in nodes:
            present[name] = present.get(name, 0.0) + kernel.seconds
        elif name in makers:
            fused.append((makers[name], kernel.seconds))
    ran = {plain_name(k.name) for k in kernels}
    for node, seconds in fused:
        owner = _owner(node, ran).name or ""
        present[owner] = present.get(owner, 0.0) + seconds
    return present


def _undisturbed(profiles: Sequence[Sequence[Kernel]]) -> list[Kernel]:
    """The kernels of the first profile, each with its least seconds: other work on the machine only adds to them."""
    least: dict[tuple[str, str], float] = {}
    for kernels in profiles:
        for k in kernels:
            least[k.name, k.op_type] = min(k.seconds, least.get((k.name, k.op_type), k.seconds))
    return [replace(k, seconds=least[k.name, k.op_type]) for k in profiles[0]]


def _integers(kernel: Kernel) -> bool:
    return is_integer_kernel(f"{kernel.op_type}_{kernel.precision}" if kernel.precision else kernel.op_type)


def _convert(node: ir.Node, seconds: float, present: dict[str, float]) -> None:
    """Count a conversion for the node that it stands between integers for."""
    if ir.operator(node) == "QuantizeLinear":
        source = node.inputs[0]
        owner = source.producer() if source is not None else None
    else:
        users = node.outputs[0].consumers()
        owner = users[0] if len(users) == 1 else None
    if owner is None or ir.operator(owner) in _CONVERSIONS or not _integer(owner):
        return
    present[owner.name or ""] = present.get(owner.name or "", 0.0) + seconds


def _integer(node: ir.Node) -> bool:
    """Whether the node was meant to run in integers: it reads a DequantizeLinear and feeds a QuantizeLinear."""
    reads = any(
        v is not None and (m := v.producer()) is not None and ir.operator(m) == "DequantizeLinear" for v in node.inputs
    )
    return reads and any(ir.operator(u) == "QuantizeLinear" for v in node.outputs for u in v.consumers())


def _owner(node: ir.Node, ran: set[str]) -> ir.Node:
    """The computing node among those fused into the kernel that makes `node`'s output."""
    current, seen = node, 0
    while ir.operator(current) not in ir.LINEAR and seen < 4:
        makers = [
            m
            for v in current.inputs
            if v is not None
            and (m := v.producer()) is not None
            and (m.name or "") not in ran
            and not any((o.name or "") in ran for o in m.outputs)
        ]
        if not makers:
            return node
        current, seen = makers[-1], seen + 1
    return current if ir.operator(current) in ir.LINEAR else node


def measured_border(executor: Executor) -> Border:
    """Measure conversions and changes of layout in small models float -> integer -> float."""
    able = offered(executor, Profiles)
    if able is None:
        return Border()
    sizes, enters, leaves = [], [], []
    for side in (8, 64):
        feed = {"x": np.random.default_rng(0).standard_normal((1, _CHANNELS, side, side)).astype(np.float32)}
        kernels = able.profile(_sandwich(side), [feed] * (2 * _ROUNDS))
        middle = next((i for i, k in enumerate(kernels) if _integers(k) and k.op_type in _COMPUTING), None)
        if middle is None:
            return Border()
        extra = [(i < middle, k.seconds) for i, k in enumerate(kernels) if k.op_type not in _COMPUTING]
        sizes.append(float(_CHANNELS * side * side))
        enters.append(sum(s for before, s in extra if before))
        leaves.append(sum(s for before, s in extra if not before))
    (fixed_in, each_in), (fixed_out, each_out) = (_line(sizes, y) for y in (enters, leaves))
    return Border(fixed_in, each_in, fixed_out, each_out)


def _sandwich(side: int) -> ir.Model:
    """A float 1x1 convolution, one between Q and DQ, and a float one."""
    shape = [1, _CHANNELS, side, side]
    eye = np.eye(_CHANNELS, dtype=np.float32).reshape(_CHANNELS, _CHANNELS, 1, 1)
    constants = {
        "w": eye,
        "wq": eye.astype(np.int8),
        "s": np.float32(0.05),
        "z": np.uint8(128),
        "zw": np.int8(0),
        "b": np.zeros(_CHANNELS, np.float32),
    }

    def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(op, inputs.split(), [output], **attributes)

    nodes = [
        node("MaxPool", "x", "p", kernel_shape=[1, 1]),
        node("Conv", "p w b", "a"),
        node("LeakyRelu", "a", "al", alpha=1.0),
        node("QuantizeLinear", "al s z", "aq"),
        node("DequantizeLinear", "aq s z", "ad"),
        node("DequantizeLinear", "wq s zw", "wd"),
        node("Conv", "ad wd", "c"),
        node("QuantizeLinear", "c s z", "cq"),
        node("DequantizeLinear", "cq s z", "cd"),
        node("Conv", "cd w b", "d"),
        node("GlobalMaxPool", "d", "y"),
    ]
    graph = helper.make_graph(
        nodes,
        "sandwich",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, _CHANNELS, 1, 1])],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return ir.load(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]))


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    each = max((y[1] - y[0]) / (x[1] - x[0]), 0.0)
    return max(y[0] - each * x[0], 0.0), each


__all__ = ["Border", "can_profile", "measured_border", "node_seconds"]
