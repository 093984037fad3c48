"""A Gelu that is written out stays whole: ONNX Runtime computes it by one kernel."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from lwgraph import ir, registry
from lwgraph.passes.fuse.scale import FoldScale
from lwgraph.rewrite import Context

ERF = "d = Div(x, root) e = Erf(d) a = Add(e, one) m = Mul(x, a)"
TANH = "d = Mul(x, root) e = Tanh(d) a = Add(one, e) m = Mul(a, x)"
OTHER = "d = Div(x, root) e = Sigmoid(d) a = Add(e, one) m = Mul(x, a)"


def before_conv(steps: str) -> ir.Model:
    weights = ", ".join(f"{v:.3f}" for v in np.random.default_rng(0).normal(size=3 * 2 * 9))
    made = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 18]>
        g (float[1,2,4,4] x) => (float[1,3,2,2] y)
        <float[3,2,3,3] w = {{{weights}}}, float root = {{1.41421356}}, float one = {{1.0}}, float half = {{0.5}}>
        {{ {steps} h = Mul(m, half) y = Conv(h, w) }}""")
    return ir.load(onnx.shape_inference.infer_shapes(made))


@pytest.mark.parametrize(("steps", "folds"), [(ERF, 0), (TANH, 0), (OTHER, 1)])
def test_the_last_step_of_a_gelu_is_not_folded(steps: str, folds: int) -> None:
    context = Context(executor=registry.executor("ort"))
    assert FoldScale().run(before_conv(steps), context) == folds
    assert any("the last step of a Gelu" in skip.reason for skip in context.skipped) == (not folds)


def test_the_runtime_still_fuses_it(tmp_path) -> None:
    model = before_conv(ERF)
    FoldScale().run(model, Context(executor=registry.executor("ort")))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "ran.onnx"), 3
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
    assert "Gelu" in {node.op_type for node in onnx.load(tmp_path / "ran.onnx").graph.node}
