"""simplify: onnxsim as a pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx

from lwgraph import ir
from lwgraph.errors import CheckError
from lwgraph.rewrite import Context, Contract, Pass, Step
from lwgraph.rewrite.instruments.verify import Verify, interface_difference

_LARGEST = 1 << 31  # bytes that a protobuf message may have
_ROUNDS = 4


@dataclass(frozen=True)
class Simplify(Pass):
    """Run onnxsim; undo it, with a warning, where it fails or changes the outputs.

    It is compared with the model before it on generated inputs by this pass itself, since onnxsim may rewrite anything;
    a pipeline's own Verify comes on top.
    """

    name = "simplify"
    contract = Contract.ROUNDING
    guarded = True

    def run(self, model: ir.Model, context: Context) -> int:
        """See Pass.run. The count is the number of nodes that went, or 1 when the model changed otherwise."""
        import onnxsim

        size = sum(tensor.nbytes for tensor in ir.tensors(model))
        if size >= _LARGEST:
            raise CheckError(f"the model has {size} bytes of data; onnxsim takes less than {_LARGEST}")
        before = ir.to_proto(model)
        try:
            after = _simplified(before, onnxsim.simplify)
        except Exception as error:  # a C++ library's own
            raise CheckError(f"onnxsim failed: {' '.join(str(error).split())[:300]}") from error
        if not after.graph.output:
            raise CheckError("onnxsim returned a model without outputs")
        made = ir.load(after)
        _restore_open_sizes(model, made)
        changed = interface_difference(model, made) or _shape_difference(model, made)
        if changed:
            raise CheckError(f"onnxsim changed the interface of the model: {changed}")
        removed = sum(len(ir.graph_of(s)) for s in ir.scopes(model)) - sum(len(ir.graph_of(s)) for s in ir.scopes(made))
        if removed < 0 or (removed == 0 and after.graph.ByteSize() >= before.graph.ByteSize()):
            return 0
        made.ir_version, made.producer_name, made.producer_version = (
            model.ir_version,
            model.producer_name,
            model.producer_version,
        )
        made.metadata_props.clear()
        made.metadata_props.update(model.metadata_props)
        self._check(model, made, context)
        ir.replace_contents(model, made)
        return max(removed, 1)

    def _check(self, before: ir.Model, after: ir.Model, context: Context) -> None:
        """Structure and outputs, by the instrument that checks every pass."""
        verify = Verify()
        verify.begin(before, [self], context)
        verify.before(self, before, context)
        verify.after(Step(0, self, 1, 0.0), after, context)


def _simplified(model: onnx.ModelProto, simplify: Callable[..., Any]) -> onnx.ModelProto:
    """What onnxsim makes of a model; releases before 0.8 find more to do in their own results, and are asked again."""
    for _ in range(_ROUNDS):
        after: onnx.ModelProto = simplify(model, check_n=0, **_unchecked(simplify))[0]
        if len(after.graph.node) >= len(model.graph.node):
            return after
        model = after
    return model


def _unchecked(simplify: Callable[..., Any]) -> dict[str, bool]:
    """The option that spares onnxsim its own proof, which newer releases give at great cost; older ones have none."""
    return {"certify": False} if "certify" in inspect.signature(simplify).parameters else {}


def _restore_open_sizes(before: ir.Model, after: ir.Model) -> None:
    """Give outputs back the open sizes that they declare, where onnxsim wrote what follows from the model anyway."""
    inferred = ir.infer_shapes(before)
    for a, b in zip(before.graph.outputs, after.graph.outputs, strict=False):
        known = inferred.get(a, ())
        if (
            a.name == b.name
            and a.shape is not None
            and b.shape is not None
            and len(a.shape) == len(b.shape) == len(known)
        ):
            b.shape = ir.Shape([p if q == size else q for p, q, size in zip(a.shape, b.shape, known, strict=True)])


def _shape_difference(before: ir.Model, after: ir.Model) -> str:
    """Declared shapes of outputs that contradict each other; a size that was dynamic must stay so."""
    for a, b in zip(before.graph.outputs, after.graph.outputs, strict=True):
        if a.shape is None or b.shape is None:
            continue
        if len(a.shape) != len(b.shape) or any(
            isinstance(q, int) and p != q for p, q in zip(a.shape, b.shape, strict=True)
        ):
            return f"output '{a.name}' had shape {a.shape} and has {b.shape}"
    return ""
