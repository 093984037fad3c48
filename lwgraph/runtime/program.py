"""A graph as a flat list of steps over numbered values, each freed after its last use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.errors import DataError, ModelError
from lwgraph.runtime.delegate import Delegates, plain_attributes
from lwgraph.runtime.interface import one_line
from lwgraph.runtime.ops import BUILDERS, Function, Options, Spec, Unsupported

_FOLDED = 1 << 16  # bytes: constants computed from constants are kept up to this size, larger ones recomputed
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


@dataclass
class Instruction:
    """One operator: what it computes, from which values, into which, and which die afterwards."""

    function: Function
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]  # -1: nobody wants it
    label: str
    dead: tuple[int, ...] = ()


class Program:
    """The steps that compute some values of a main graph."""

    def __init__(
        self, model: ir.Model, names: Sequence[str], options: Options, replace: dict[ir.Node, Replacement] | None = None
    ) -> None:
        self._slots: dict[ir.Value | None, int] = {None: 0}
        self._start: list[Any] = [None]
        self._delegates: list[Delegates] = []
        self._model, self._options = model, options
        self.ours = 0
        known = {value.name: value for node in model.graph for value in node.outputs}
        known.update(model.graph.initializers)
        known.update({value.name: value for value in model.graph.inputs})
        wanted = [known[name] for name in names]
        self._inputs = {value.name or "": self._slot(value) for value in model.graph.inputs}
        self._overridable = {
            value.name: value for value in model.graph.inputs if value.name in model.graph.initializers
        }
        steps = self._steps(model.graph, wanted, replace or {})
        self._wanted = [self._slot(value) for value in wanted]
        self._names = list(names)
        self._free(steps)
        self.steps = steps

    def _slot(self, value: ir.Value | None) -> int:
        if value not in self._slots:
            self._slots[value] = len(self._start)
            self._start.append(_held(value) if value is not None else None)
        return self._slots[value]

    def _steps(
        self, graph: ir.Graph, wanted: Sequence[ir.Value], replace: dict[ir.Node, Replacement]
    ) -> list[Instruction]:
        needed = _needed(wanted, replace)
        by_name: dict[str, ir.Value] = {}
        steps: list[Instruction] = []
        for name, value in graph.initializers.items():
            by_name[name] = value
        by_name.update({value.name or "": value for value in graph.inputs})
        for node in graph:
            if node in needed:
                step = self._replaced(node, replace[node]) if node in replace else self._step(node, by_name)
                if not self._folds(node, step):
                    steps.append(step)
            by_name.update({value.name: value for value in node.outputs if value.name})
        return steps

    def _replaced(self, node: ir.Node, other: Replacement) -> Instruction:
        inputs = tuple(self._slot(value) for value in other.inputs)
        return Instruction(other.function, inputs, (self._slot(other.output),), _label(node))

    def _step(self, node: ir.Node, by_name: dict[str, ir.Value]) -> Instruction:
        inputs = [self._slot(value) for value in node.inputs]
        outputs = tuple(self._slot(value) if value.name else -1 for value in node.outputs)
        function = self._own(node, [self._start[i] for i in inputs])
        if function is None:
            function, outer = self._onnx_function(node)
            inputs += [self._slot(by_name[name]) for name in outer]
        return Instruction(function, tuple(inputs), outputs, _label(node))

    def _own(self, node: ir.Node, constants: list[Any]) -> Function | None:
        builder = BUILDERS.get(ir.operator(node))
        attributes = plain_attributes(node.attributes)
        if builder is None or attributes is None:
            return None
        named = [i for i, value in enumerate(node.outputs) if value.name]
        spec = Spec(
            node.op_type,
            ir.opset(node),
            attributes,
            tuple(value is not None for value in node.inputs),
            max(named, default=-1) + 1,
            tuple(constants),
            self._options,
        )
        try:
            function = builder(spec)
        except Unsupported:
            return None
        self.ours += 1
        theirs: list[Callable[..., Any]] = []

        def run(*inputs: Any) -> Any:
            if not theirs:
                try:
                    return function(*inputs)
                except Unsupported:
                    theirs.append(self._onnx_function(node)[0])
            return theirs[0](*inputs)

        return run

    def _onnx_function(self, node: ir.Node) -> tuple[Function, list[str]]:
        if not self._delegates:
            self._delegates.append(Delegates(self._model, self._options))
        try:
            return self._delegates[0].operator(node)
        except Exception as error:  # onnx raises many kinds
            raise ModelError(
                f"the reference executor cannot run {_label(node)}, opset {_version(node)}: {one_line(error, 160)}"
            ) from error

    def _folds(self, node: ir.Node, step: Instruction) -> bool:
        """Compute now what depends on constants only, when it is small."""
        if any(self._start[i] is None for i in step.inputs if i) or node.op_type in _RANDOM or not step.outputs:
            return False
        if any(self._start[i].nbytes > _FOLDED for i in step.inputs if i and isinstance(self._start[i], np.ndarray)):
            return False
        if plain_attributes(node.attributes) is None:
            return False
        try:
            with np.errstate(all="ignore"):
                results = step.function(*(self._start[i] for i in step.inputs))
        except ModelError:
            raise
        except Exception:  # the error is reported when the model runs
            return False
        results = results if isinstance(results, tuple) else (results,)
        if any(not isinstance(result, np.ndarray) or result.nbytes > _FOLDED for result in results):
            return False
        for slot, result in zip(step.outputs, results, strict=False):
            if slot >= 0:
                self._start[slot] = result
        return True

    def _free(self, steps: list[Instruction]) -> None:
        keep = set(self._wanted) | {0} | {i for i, value in enumerate(self._start) if value is not None}
        seen = set(keep)
        for step in reversed(steps):
            last = [i for i in dict.fromkeys((*step.inputs, *step.outputs)) if i >= 0 and i not in seen]
            seen.update(last)
            step.dead = tuple(last)

    def run(self, feeds: dict[str, Any]) -> dict[str, Array]:
        """The wanted values by name.

        Raises:
            DataError: an operator cannot compute with these feeds; the message names the node.
        """
        values = list(self._start)
        for name, slot in self._inputs.items():
            if name in feeds:
                values[slot] = feeds[name]
            elif name in self._overridable:
                values[slot] = _constant(self._overridable[name])
        with np.errstate(all="ignore"):
            for step in self.steps:
                try:
                    results = step.function(*[values[i] for i in step.inputs])
                except (ModelError, MemoryError):
                    raise
                except Exception as error:  # onnx's operators raise many kinds
                    raise DataError(f"the reference executor fails at {step.label}: {one_line(error)}") from error
                if not isinstance(results, tuple):
                    results = (results,)
                for slot, result in zip(step.outputs, results, strict=False):
                    if slot >= 0:
                        values[slot] = np.asarray(result) if isinstance(result, np.generic) else result
                for slot in step.dead:
                    values[slot] = None
        return {name: _own(values[slot]) for name, slot in zip(self._names, self._wanted, strict=True)}


@dataclass
class Replacement:
    """A function of earlier values that computes `output` instead of its node."""

    function: Function
    inputs: Sequence[ir.Value | None]
    output: ir.Value


def _needed(wanted: Sequence[ir.Value], replace: dict[ir.Node, Replacement]) -> set[ir.Node]:
    """The nodes that the wanted values depend on."""
    needed: set[ir.Node] = set()
    pending = [node for value in wanted if (node := value.producer()) is not None]
    while pending:
        node = pending.pop()
        if node in needed:
            continue
        needed.add(node)
        if node in replace:
            used: list[ir.Value | None] = list(replace[node].inputs)
        else:
            used = [*node.inputs, *(v for graph in _nested(node) for inner in graph for v in inner.inputs)]
            used += [v for graph in _nested(node) for v in graph.outputs]
        pending += [producer for value in used if value is not None and (producer := value.producer()) is not None]
    return needed


def _nested(node: ir.Node) -> list[ir.Graph]:
    found = list(ir.subgraphs_of(node))
    for graph in found:
        found.extend(sub for inner in graph for sub in ir.subgraphs_of(inner))
    return found


def _held(value: ir.Value) -> Array | None:
    return None if value.is_graph_input() else _constant(value)


def _constant(value: ir.Value) -> Array | None:
    if not value.is_initializer() or value.const_value is None:
        return None
    try:
        array = value.const_value.numpy()
        # Texts are held as bytes, and everything that computes with them has them as str.
        return np.vectorize(bytes.decode, "O")(array) if array.dtype.kind in "OS" and array.size else array
    except (OSError, ValueError) as error:
        raise ModelError(f"initializer '{value.name}' cannot be read: {one_line(error)}") from error


def _own(value: Any) -> Any:
    """Results belong to the caller: a view or a constant is copied."""
    if isinstance(value, np.ndarray) and (
        value.base is not None or not value.flags.owndata or not value.flags.writeable
    ):
        return value.copy()
    return value


def _label(node: ir.Node) -> str:
    domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
    named = next((value.name for value in node.outputs if value.name), "")
    return f"{domain}{node.op_type} '{node.name or named}'"


def _version(node: ir.Node) -> str:
    try:
        return str(ir.opset(node))
    except ModelError:
        return "unknown"


__all__ = ["Instruction", "Program", "Replacement"]
