"""half: weights, and optionally activations, in 16-bit floating point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.calibrate.ranges import Observed, collect
from lwgraph.check import verify
from lwgraph.errors import LwgraphError, UsageError, did_you_mean
from lwgraph.executor import Executor
from lwgraph.measure.compare import compare
from lwgraph.passes.quantize.graph.half_graph import HalfGraph
from lwgraph.passes.quantize.graph.raise_opset import OpsetError, raise_opset
from lwgraph.passes.quantize.graph.shapes import infer
from lwgraph.passes.quantize.placing.already_quantized import quantized_already
from lwgraph.rewrite import Context, Contract, Pass

BFLOAT16_OPSET = 22  # from which convolutions and pools are defined for it
_LOST = 1e-2  # ||w - half(w)|| / ||w|| from which a weight stays float32; a normal number loses at most 2^-9
_OBSERVED = 64  # feeds whose ranges are looked at
DTYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
LARGEST = {"float16": 65504.0, "bfloat16": 3.38e38}
SMALLEST = {"float16": 2.0**-14, "bfloat16": 2.0**-126}  # normal numbers: below, precision goes
_ACCUMULATE = (
    "CumSum",
    "Exp",
    "Log",
    "NonMaxSuppression",
    "Pow",
    "Range",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceProd",
    "ReduceSumSquare",
    "Softplus",  # which runtimes expand into Exp and Log
)


@dataclass(frozen=True)
class Half(Pass):
    """Store weights in 16-bit floating point, half the file; optionally compute in it, for hardware that does."""

    name: ClassVar[str] = "half"
    contract: ClassVar[Contract] = Contract.APPROXIMATE
    spares: ClassVar[str] = "nodes_to_exclude"

    type: Annotated[
        Literal["float16", "bfloat16"], "float16: 11 bits up to 65504; bfloat16: 8 bits, float32's range"
    ] = "float16"
    activations: Annotated[
        bool,
        "also compute in 16 bits, for hardware that does: OpenVINO computes each layer in the type "
        "that it has. ONNX Runtime's processor kernels run float16 in float32 with Casts between, and have no bfloat16",
    ] = False
    keep_io: Annotated[bool, "with activations: inputs and outputs of the model stay float32"] = True
    minimum: Annotated[int, "weights of fewer elements stay float32, unless activations are 16-bit, too"] = 256
    op_types_to_exclude: Annotated[tuple[str, ...], "operators that compute in float32"] = _ACCUMULATE
    nodes_to_exclude: Annotated[tuple[str, ...], "names of nodes that compute in float32"] = ()

    def __post_init__(self) -> None:
        self.check_option("minimum", self.minimum >= 1, self.minimum, "1 or more")

    def run(self, model: ir.Model, context: Context) -> int:
        """The number of weights stored in 16 bits, and of nodes that compute in them.

        Raises:
            UsageError: a node name that the model does not have.
        """
        known = quantized_already(model)
        if known is not None:
            context.skip(self.name, model.graph.name or "the model", f"already quantized: {known}; left as it is")
            return 0
        names = [node.name or "" for node in model.graph]
        for excluded in self.nodes_to_exclude:
            if excluded not in names:
                raise UsageError(
                    f"option 'nodes_to_exclude' names '{excluded}', which the model does not have"
                    f"{did_you_mean(excluded, names)}"
                )
        if not self.activations:
            return self._store(model, context)
        return self._compute(model, context)

    def _store(self, model: ir.Model, context: Context) -> int:
        """Weights as 16-bit constants with one Cast each, which a runtime folds when it loads the model."""
        done, dtype = 0, DTYPES[self.type]
        for scope in ir.scopes(model):
            if not isinstance(scope, ir.Graph):
                continue
            for value in list(scope.initializers.values()):
                shape = ir.constant_shape(value)
                if (
                    ir.constant_dtype(value) != ir.DataType.FLOAT
                    or shape is None
                    or value.is_graph_output()
                    or int(np.prod(shape)) < self.minimum
                    or not value.uses()
                ):
                    continue
                weight = ir.constant(value)
                assert weight is not None
                reason = objection(weight, self.type)
                if reason:
                    context.skip(self.name, value.name or "", reason)
                    continue
                if not context.allow(self.name, value.name or ""):
                    return done
                stored = ir.add_initializer(scope, narrow(weight, self.type), f"{value.name}_{self.type}", dtype=dtype)
                cast = ir.make_node("Cast", [stored], {"to": int(ir.DataType.FLOAT)})
                cast.name = ir.fresh_name(scope, f"{value.name}_float32_node")
                wide = cast.outputs[0]
                wide.name = ir.fresh_name(scope, f"{value.name}_float32")
                wide.type, wide.shape = value.type, value.shape
                for use in list(value.uses()):
                    use.node.replace_input_with(use.idx, wide)
                scope.insert_before(scope[0], cast)
                ir.sweep_values([value])
                done += 1
        return done

    asks: ClassVar[bool] = True

    def _compute(self, model: ir.Model, context: Context) -> int:
        executor = context.executor or registry.executor("ort", threads=context.threads)
        working = self._raised(model, executor, context)
        infer(working)
        seen: dict[str, Observed] = {}
        if context.data:
            seen = collect(working, list(context.data[:_OBSERVED]), executor, seed=context.seed, samples=256)
        else:
            context.warn(
                f"half: without data, activations that leave the range of {self.type} go unnoticed; give --data"
            )
        kept: dict[str, str] = {}
        for node in working.graph:
            reason = self._keeps(node, seen)
            if reason:
                kept[node.outputs[0].name or ""] = reason
        made = HalfGraph(working, DTYPES[self.type], kept, self.keep_io)
        done = made.run()
        for node_name, reason in made.reasons.items():
            context.skip(self.name, node_name, reason)
        if not done:
            return 0
        try:
            verify(working)
        except LwgraphError as error:
            context.skip(self.name, model.graph.name or "the model", f"it cannot be converted: {error}")
            return 0
        if context.executor is not None and (refusal := _refusal(context.executor, working)):
            context.skip(
                self.name,
                model.graph.name or "the model",
                f"the target cannot compute in {self.type} ({refusal}); activations=false stores weights in it",
            )
            return 0
        if self.type == "bfloat16":
            if context.executor is None:  # else it runs the model
                context.warn("half: ONNX Runtime's processor kernels do not compute in bfloat16; OpenVINO's do")
        else:
            context.warn(
                "half: ONNX Runtime's processor kernels compute float16 in float32 with Casts between: slower "
                "here; activations=false keeps the speed and the file as small"
            )
        if not context.allow(self.name, "the whole model"):
            return 0
        ir.replace_contents(model, working)
        return done

    def _raised(self, model: ir.Model, executor: Executor, context: Context) -> ir.Model:
        """A copy, at the opset in which convolutions and pools have bfloat16 where it is older and can be raised."""
        copy = ir.clone(model)
        if self.type != "bfloat16" or ir.opset(next(iter(model.graph))) >= BFLOAT16_OPSET:
            return copy
        try:
            raise_opset(copy, BFLOAT16_OPSET)
            if context.feeds:
                feed = context.feeds[0]
                found = compare(executor.prepare(model)(feed), executor.prepare(copy)(feed), Contract.ROUNDING)
                if not found.ok:
                    raise OpsetError(f"the outputs changed at opset {BFLOAT16_OPSET}: {found.first_failure}")
        except LwgraphError as error:
            place = model.graph.name or "the model"
            context.skip(self.name, place, f"convolutions and pools have no bfloat16 before opset 22: {error}")
            return ir.clone(model)
        return copy

    def _keeps(self, node: ir.Node, seen: dict[str, Observed]) -> str:
        """Why a node computes in float32; empty when it need not."""
        if node.name in self.nodes_to_exclude:
            return "excluded by nodes_to_exclude"
        if node.op_type in self.op_types_to_exclude:
            return f"{node.op_type} is kept in float32 (op_types_to_exclude)"
        for value in (*node.inputs, *node.outputs):
            if value is None:
                continue
            weight = ir.constant(value) if ir.constant_dtype(value) == ir.DataType.FLOAT else None
            if weight is not None and (reason := objection(weight, self.type)):
                return f"'{value.name}': {reason}"
            found = seen.get(value.name or "")
            if found is not None and found.unfit:
                return f"'{value.name}' {found.rangeless}, so its range is not known"
            if found is None or not found.runs:
                continue
            reach = max(abs(found.histogram.low), abs(found.histogram.high))
            if reach > LARGEST[self.type] / 2:
                return f"'{value.name}' reaches {reach:.3g} on the data; {self.type} ends at {LARGEST[self.type]:g}"
            if 0 < reach < SMALLEST[self.type]:
                return f"'{value.name}' stays below {reach:.3g}, where {self.type} has few bits"
        return ""


def _refusal(executor: Executor, model: ir.Model) -> str:
    """The error of a runtime that cannot run the model; empty if it can."""
    try:
        executor.prepare(model)
    except LwgraphError as error:
        return str(error)[:160]
    return ""


def objection(weight: Array, type: str) -> str:
    """Why a weight must stay float32; empty when 16 bits hold it. O(elements)."""
    if not weight.size:
        return ""
    reach = float(np.abs(weight).max())
    if not np.isfinite(reach):
        return "it holds infinity or NaN"
    if reach > LARGEST[type]:
        return f"it reaches {reach:.3g}; {type} ends at {LARGEST[type]:g}"
    total = float(np.linalg.norm(weight))
    lost = float(np.linalg.norm(weight - narrow(weight, type).astype(np.float32)))
    if lost > _LOST * total:
        return f"it would lose {100 * lost / total:.2g} % of its norm: its values are too small for {type}"
    return ""


def narrow(weight: Array, type: str) -> Array:
    """The nearest 16-bit numbers (ties to even)."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(weight.astype(DTYPES[type].numpy()))


__all__ = ["DTYPES", "LARGEST", "SMALLEST", "Half", "narrow", "objection"]
