"""Passes of lwgraph as passes of onnx_ir, and passes of onnx_ir as passes of lwgraph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import onnx_ir
from onnx_ir.passes import InPlacePass, PassBase, PassResult

from lwgraph import ir
from lwgraph.contract import Contract
from lwgraph.errors import CheckError, UsageError
from lwgraph.objects import load_object
from lwgraph.rewrite import Context, Pass, Pipeline


class PipelinePass(InPlacePass):
    """Passes of lwgraph, as one pass of onnx_ir: `PipelinePass("clean,fuse")(model)`.

    A failure leaves the model as it was.

    Args:
        passes: a pipeline, or its text.
        context: what passes may use besides the model; None: nothing, as without data.

    Raises:
        UsageError: the text names what there is not.
    """

    def __init__(self, passes: Pipeline | str, context: Context | None = None) -> None:
        super().__init__()
        self.passes = Pipeline.parse(passes) if isinstance(passes, str) else passes
        self.context = context

    def call(self, model: onnx_ir.Model) -> PassResult:
        """Rewrite the model in place.

        Raises:
            ModelError: lwgraph cannot read the model.
            CheckError: a pass failed.
        """
        copy = ir.load(model)
        steps = self.passes.rewrite(copy, self.context)
        changed = any(step.count for step in steps)
        if changed:
            ir.replace_contents(model, copy)
        return PassResult(model, changed)


@dataclass(frozen=True)
class OnnxIrPass(Pass):
    """Run a pass of onnx_ir, such as onnx_ir.passes.common:CommonSubexpressionEliminationPass.

    On the command line `lwgraph.adapters.onnx_ir:OnnxIrPass{of="module:Class"}`. It counts as one rewrite.
    """

    name = "onnx-ir"
    contract = Contract.ROUNDING

    of: Annotated[str, "module:Class of the pass, which is made without arguments"]

    def __post_init__(self) -> None:
        made = load_object(self.of, "pass of onnx_ir")
        if not (isinstance(made, type) and issubclass(made, PassBase)):
            raise UsageError(f"'{self.of}' is no pass of onnx_ir; allowed: a class derived from PassBase")

    def run(self, model: ir.Model, context: Context) -> int:
        """Run it on a copy, so that a failure leaves the model as it was."""
        copy = ir.clone(model)
        try:
            result = load_object(self.of, "pass of onnx_ir")()(copy)
        except Exception as error:
            words = " ".join(str(error).split())
            raise CheckError(f"pass '{self.of}' failed: {type(error).__name__}: {words}") from error
        if result.modified:
            ir.replace_contents(model, ir.load(result.model))
        return int(result.modified)


__all__ = ["OnnxIrPass", "PipelinePass"]
