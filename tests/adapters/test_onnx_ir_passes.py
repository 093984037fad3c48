"""Passes of onnx_ir and of lwgraph in each other's place."""

from __future__ import annotations

import onnx_ir
import pytest
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import RemoveUnusedNodesPass

from lwgraph import ir
from lwgraph.adapters.onnx_ir import OnnxIrPass, PipelinePass
from lwgraph.errors import CheckError, UsageError
from lwgraph.rewrite import Context, Pass, Pipeline
from lwgraph.rewrite.instruments import Verify
from tests.rewrite.rewrite_models import parse

TWICE = "g (float[2] x) => (float[2] y) { a = Identity(x)  b = Relu(a)  c = Relu(a)  y = Add(b, c) }"
CSE = 'lwgraph.adapters.onnx_ir:OnnxIrPass{of="onnx_ir.passes.common:CommonSubexpressionEliminationPass"}'


class Raises(onnx_ir.passes.InPlacePass):
    """Breaks the model, then fails."""

    def call(self, model):
        model.graph.remove(model.graph[-1], safe=False)
        raise ValueError("no\nway")


def test_lwgraph_in_a_sequence_of_onnx_ir():
    model = onnx_ir.from_proto(ir.to_proto(parse(TWICE)))
    result = Sequential(RemoveUnusedNodesPass(), PipelinePass("clean"))(model)
    assert result.modified and [node.op_type for node in result.model.graph] == ["Relu", "Add"]
    assert not PipelinePass("clean")(result.model).modified


def test_a_failure_leaves_the_model():
    model = parse(TWICE)
    before = ir.fingerprint(model)

    class Broken(Pass):
        name = "broken"
        contract = Pipeline.parse("dead-code").passes[0].contract

        def run(self, model, context):
            model.graph.outputs.clear()
            raise CheckError("no")

    with pytest.raises(Exception, match="no"):
        PipelinePass(Pipeline([Broken()]))(model)
    assert ir.fingerprint(model) == before


def test_onnx_ir_in_a_pipeline_of_lwgraph():
    model = parse(TWICE)
    pipeline = Pipeline.parse(f"identities,{CSE}")
    steps = pipeline.rewrite(model, Context(), [Verify()])
    assert [step.count for step in steps] == [1, 1] and [n.op_type for n in model.graph] == ["Relu", "Add"]
    assert Pipeline.parse(str(pipeline)) == pipeline == Pipeline.from_recipe(pipeline.to_recipe())
    assert pipeline.passes[1].run(model, Context()) == 0


def test_what_is_no_pass_and_what_fails():
    with pytest.raises(UsageError, match="is no pass of onnx_ir"):
        OnnxIrPass(of="onnx_ir:Model")
    with pytest.raises(UsageError, match="has no attribute 'Nothing'"):
        OnnxIrPass(of="onnx_ir.passes.common:Nothing")
    model = parse(TWICE)
    before = ir.fingerprint(model)
    with pytest.raises(CheckError, match=r"failed: \w+: [^\n]*$"):
        OnnxIrPass(of=f"{__name__}:Raises").run(model, Context())
    assert ir.fingerprint(model) == before
