"""An ONNX graph as a torch.nn.Module whose parameters are the graph's float initializers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx.inliner
import torch

from lwgraph import ir
from lwgraph.errors import ModelError
from lwgraph.runtime.interface import named_values, requested
from lwgraph.runtime.torch_ops.quantize import codes, spread
from lwgraph.runtime.torch_ops.roles import is_trainable, stays_soft, weight_dequantizer
from lwgraph.runtime.torch_ops.table import LIMITS, OPERATORS, Compute, Mode, Op, Tensor, known, to_numpy, to_torch

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class _TorchInstruction:
    """One node: the function, its input and output slots (-1: not given), and the slots that are dead after it."""

    node: ir.Node
    compute: Compute
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    frees: tuple[int, ...]


class GraphModule(torch.nn.Module):  # type: ignore[misc]
    """The main graph of a model, runnable and differentiable; the structure is the model's and never changes.

    Parameters are the float initializers that the outputs need, under positional keys (`initializer(key)` tells the
    name). Those that carry weights (convolution and matrix weights, biases, scales of normalizations, embeddings,
    recurrent weights ...) require gradients; bounds, exponents, sizes and running statistics do not. An integer
    initializer that only a DequantizeLinear reads is a parameter too: a float shadow, rounded to its grid on every
    use with the gradient passed straight through, so that a quantized model can be trained as it is.

    Args:
        model: not changed. Model-local functions are inlined.
        outputs: names of main-graph values to compute; None: the graph's outputs.
        precise: compute in float64 what the model computes in float32.
        scales: let scales of QuantizeLinear and DequantizeLinear require gradients, too.

    Raises:
        ModelError: control flow, an operator or an option that cannot be run.
    """

    def __init__(
        self, model: ir.Model, outputs: Sequence[str] | None = None, *, precise: bool = False, scales: bool = False
    ) -> None:
        super().__init__()
        model = _expanded(model)
        self.outputs = requested(model, outputs)
        self.mode = Mode()
        self.precise = precise
        graph = model.graph
        known_values = named_values(graph)
        self._wanted = [known_values[name] for name in self.outputs]
        nodes = _needed(graph, self._wanted)
        self._slots: dict[ir.Value, int] = {}
        self.inputs = [value.name or "" for value in graph.inputs]
        for value in graph.inputs:
            self._slots[value] = len(self._slots)
        self._input_values = list(graph.inputs)
        self._initializers: dict[str, str] = {}  # key of a parameter or buffer -> name of the initializer
        self._shadows: dict[str, tuple[ir.DataType, Tensor]] = {}  # key -> the integers' type, the values at start
        self._sources: list[tuple[int, str]] = []  # (slot, key) of what every run starts with
        used = {v for node in nodes for v in node.inputs if v is not None} | set(self._wanted)
        shadowed = {}
        for value in graph.initializers.values():
            if value not in used:
                continue
            if (reader := weight_dequantizer(value)) is not None and reader in nodes:
                shadowed[reader] = value
            self._add_source(value, reader if reader in shadowed else None, scales)
        self._kinds = {value: value.dtype for value in self._wanted}
        self._steps = self._build(nodes, shadowed)

    # ------------------------------------------------------------------ building

    def _slot(self, value: ir.Value) -> int:
        return self._slots.setdefault(value, len(self._slots))

    def _add_source(self, value: ir.Value, reader: ir.Node | None, scales: bool) -> None:
        assert value.const_value is not None
        key = f"p{len(self._initializers)}"
        tensor = to_torch(value.const_value.numpy())
        if reader is not None:
            assert value.dtype is not None
            op = self._op(reader)
            tensor = OPERATORS["DequantizeLinear"](op)(tensor, *_scale_and_zero(reader))
            self._shadows[key] = (value.dtype, tensor.clone())
        if self.precise and tensor.dtype == torch.float32:
            tensor = tensor.double()
        self._initializers[key] = value.name or ""
        if tensor.is_floating_point():
            learns = reader is not None or (not value.is_graph_input() and is_trainable(value, scales))
            self.register_parameter(key, torch.nn.Parameter(tensor, requires_grad=learns))
        else:
            self.register_buffer(key, tensor)
        self._sources.append((self._slot(value), key))

    def _op(self, node: ir.Node) -> Op:
        return Op(node, ir.opset(node), self.precise, stays_soft(node, set(self._wanted)), self.mode)

    def _build(self, nodes: list[ir.Node], shadowed: Mapping[ir.Node, ir.Value]) -> list[_TorchInstruction]:
        last: dict[int, int] = {}
        for index, node in enumerate(nodes):
            last.update({self._slot(v): index for v in (*node.inputs, *node.outputs) if v is not None})
        keep = {self._slot(v) for v in self._wanted}
        steps = []
        for index, node in enumerate(nodes):
            op = self._op(node)
            compute = _fake_quantize(op, shadowed[node]) if node in shadowed else OPERATORS[node.op_type](op)
            touched = {self._slot(v) for v in (*node.inputs, *node.outputs) if v is not None}
            steps.append(
                _TorchInstruction(
                    node,
                    compute,
                    tuple(-1 if v is None else self._slot(v) for v in node.inputs),
                    tuple(self._slot(v) for v in node.outputs),
                    tuple(sorted(s for s in touched - keep if last[s] == index)),
                )
            )
        return steps

    # ------------------------------------------------------------------ running

    def forward(
        self, feeds: Mapping[str, Tensor], replace: Mapping[str, Tensor | None] | None = None
    ) -> dict[str, Tensor]:
        """The outputs by name.

        Args:
            feeds: the graph's inputs.
            replace: for requested values, what their users see in their place: another tensor, or (None) the same one
                without gradients. What is returned under the name is the computed value.

        Raises:
            ModelError: a node failed; the message names it.
        """
        values: list[Any] = [None] * len(self._slots)
        computed: dict[str, Tensor] = {}
        swaps = {self._slots[self._wanted[self.outputs.index(n)]]: (n, t) for n, t in (replace or {}).items()}
        for slot, key in self._sources:
            values[slot] = self._parameters.get(key)
            if values[slot] is None:
                values[slot] = self._buffers[key]
        for value in self._input_values:
            if (fed := feeds.get(value.name or "")) is not None:
                values[self._slots[value]] = fed.double() if self.precise and fed.dtype == torch.float32 else fed
        for step in self._steps:
            try:
                result = step.compute(*(None if i < 0 else values[i] for i in step.inputs))
            except (RuntimeError, IndexError, ValueError, TypeError, AttributeError) as error:
                text = " ".join(str(error).split())[:200]
                raise ModelError(f"node '{step.node.name}' ({step.node.op_type}) failed: {text}") from error
            if isinstance(result, tuple):
                for slot, tensor in zip(step.outputs, result, strict=False):
                    values[slot] = tensor
            else:
                values[step.outputs[0]] = result
            for slot in swaps.keys() & set(step.outputs):
                name, other = swaps[slot]
                computed[name] = values[slot]
                values[slot] = values[slot].detach() if other is None else other
            for slot in step.frees:
                values[slot] = None
        found = {name: values[self._slots[value]] for name, value in zip(self.outputs, self._wanted, strict=True)}
        return {**found, **computed}

    def kind(self, name: str) -> ir.DataType | None:
        """The recorded element type of a requested output."""
        return self._kinds[self._wanted[self.outputs.index(name)]]

    # ------------------------------------------------------------------ weights

    def initializer(self, key: str) -> str:
        """The name of the initializer behind a parameter's key."""
        return self._initializers[key]

    def weights(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """(initializer name, parameter) of what requires gradients."""
        for key, parameter in self.named_parameters(recurse=False):
            if parameter.requires_grad:
                yield self._initializers[key], parameter

    def state(self) -> dict[str, Tensor]:
        """A copy of every parameter by initializer name."""
        return {self._initializers[key]: p.detach().clone() for key, p in self.named_parameters(recurse=False)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the parameters from `state()` of a module over the same model.

        Raises:
            ModelError: a name is missing, or a shape differs.
        """
        with torch.no_grad():
            for key, parameter in self.named_parameters(recurse=False):
                name = self._initializers[key]
                if name not in state or state[name].shape != parameter.shape:
                    raise ModelError(
                        f"the saved state does not fit the model: initializer '{name}' of shape "
                        f"{list(parameter.shape)} is missing from it or has another shape"
                    )
                parameter.copy_(state[name])

    def store(self, model: ir.Model) -> int:
        """Write the parameters that changed back into the same initializers of `model`; how many were written."""
        written = 0
        for key, parameter in self.named_parameters(recurse=False):
            value = model.graph.initializers[self._initializers[key]]
            assert value.const_value is not None and value.dtype is not None
            tensor = parameter.detach()
            new = self._quantized(key, value, tensor) if key in self._shadows else to_numpy(tensor, value.dtype)
            old = value.const_value.numpy()
            if new.tobytes() != old.tobytes():
                ir.set_constant(value, new)
                written += 1
        return written

    def _quantized(self, key: str, value: ir.Value, tensor: Tensor) -> Any:
        kind, start = self._shadows[key]
        reader = value.consumers()[0]
        scale, zero = _scale_and_zero(reader)
        assert value.const_value is not None
        axis, block = ir.attribute(reader, "axis", 1), ir.attribute(reader, "block_size", 0)
        scale = self._learned(reader.inputs[1], scale)
        step = spread(scale, tensor, axis, block)
        low, high = LIMITS[kind]
        if kind == ir.DataType.INT32:  # a bias: float32 cannot hold its codes, so the change is what is rounded
            old = to_torch(value.const_value.numpy()).to(torch.int64)
            moved = torch.round((tensor.double() - start.double()) / step.double()).to(torch.int64)
            return to_numpy((old + moved).clamp(low, high).to(torch.int32))
        found = codes(tensor, step, None if zero is None else spread(zero, tensor, axis, block), (low, high))
        return to_numpy(found.to(torch.int32), kind)

    def _learned(self, value: ir.Value | None, default: Tensor) -> Tensor:
        for key, name in self._initializers.items():
            if value is not None and name == value.name:
                return self._parameters[key].detach().to(default.dtype)
        return default


def _scale_and_zero(reader: ir.Node) -> tuple[Tensor, Tensor | None]:
    zero = ir.constant(reader.inputs[2]) if len(reader.inputs) > 2 else None
    return to_torch(ir.constant(reader.inputs[1])), None if zero is None else to_torch(zero)


def _fake_quantize(op: Op, value: ir.Value) -> Compute:
    """The DequantizeLinear of an integer initializer as quantize-dequantize of its float shadow."""
    assert value.dtype is not None
    limits, axis, block = LIMITS[value.dtype], op.attr("axis", 1), op.attr("block_size", 0)
    if value.dtype == ir.DataType.INT32:
        return lambda w, scale, zero=None: w  # the grid is finer than float32

    def compute(w: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        step = spread(scale, w, axis, block)
        zero = None if zero is None else spread(zero, w, axis, block)
        found = codes(w, step, zero, limits)
        return (found if zero is None else found - zero.to(found.dtype)) * step

    return compute


def _needed(graph: ir.Graph, wanted: Sequence[ir.Value]) -> list[ir.Node]:
    """The nodes that the wanted values depend on, in the graph's order.

    Raises:
        ModelError: one of them cannot be run.
    """
    found: set[ir.Node] = set()
    stack = [value.producer() for value in wanted]
    while stack:
        node = stack.pop()
        if node is None or node in found:
            continue
        found.add(node)
        stack += [value.producer() for value in node.inputs if value is not None]
    nodes = [node for node in graph if node in found]
    for node in nodes:
        if ir.subgraphs_of(node):
            raise ModelError(
                f"node '{node.name}' ({node.op_type}) is control flow, which the torch executor does not "
                f"run; simplify the model first, so that constant conditions are resolved"
            )
        if not known(node):
            where = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise ModelError(f"operator '{where}' of node '{node.name}' is not supported by the torch executor")
    return nodes


def _expanded(model: ir.Model) -> ir.Model:
    """The model with its functions inlined, and operators that the table lacks replaced by their ONNX definition."""
    missing = {("", n.op_type) for n in model.graph if n.domain in ("", "ai.onnx") and not known(n)}
    foreign = {n.domain for n in model.graph} - {"", "ai.onnx"}
    defined = {(d, name) for d, name in missing if _has_definition(name)}
    if not defined and not (model.functions and foreign):
        return model
    proto = ir.to_proto(model)
    try:
        if model.functions:
            proto = onnx.inliner.inline_local_functions(proto)
        if defined:
            proto = onnx.inliner.inline_selected_functions(proto, sorted(defined), inline_schema_functions=True)
    except Exception as error:
        raise ModelError(f"the model's functions cannot be inlined: {' '.join(str(error).split())[:200]}") from error
    return ir.load(proto)


def _has_definition(name: str) -> bool:
    try:
        schema = onnx.defs.get_schema(name)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]
