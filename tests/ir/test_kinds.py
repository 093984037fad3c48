"""Every kind of object that holds a model: it is read, rewritten, and given back as the same kind."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir
import pytest

import lwgraph
from lwgraph import ir


@dataclass
class Program:
    """What torch.onnx.export returns, as far as lwgraph looks at it."""

    model: onnx_ir.Model


def model() -> ir.Model:
    x = onnx.helper.make_tensor_value_info("x", 1, ["n", 3])
    y = onnx.helper.make_tensor_value_info("y", 1, ["n", 3])
    nodes = [onnx.helper.make_node("Identity", ["x"], ["a"]), onnx.helper.make_node("Relu", ["a"], ["y"])]
    graph, opsets = onnx.helper.make_graph(nodes, "g", [x], [y]), [onnx.helper.make_opsetid("", 17)]
    return ir.load(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8))


def kinds(tmp_path):
    ir.save(model(), tmp_path / "m.onnx")
    proto = ir.to_proto(model())
    return {
        "path": tmp_path / "m.onnx",
        "text": os.fspath(tmp_path / "m.onnx"),
        "bytes": proto.SerializeToString(),
        "proto": proto,
        "model": model(),
        "program": Program(model()),
    }


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "proto", "model", "program"])
def test_a_pipeline_returns_the_kind_that_it_was_given(kind, tmp_path):
    source = kinds(tmp_path)[kind]
    before = len(ir.load(source).graph)
    made = lwgraph.Pipeline.parse("clean").run(source)
    assert type(made) is (onnx_ir.Model if kind in ("path", "text") else type(source))
    assert (before, len(ir.load(made).graph)) == (2, 1)
    assert (made is source) == (kind == "model")  # rewritten in place; anything else stays as it was
    assert len(ir.load(source).graph) == (1 if kind == "model" else 2)


@pytest.mark.parametrize("kind", ["path", "bytes", "proto", "model", "program"])
def test_every_kind_is_optimized_and_stays_as_it_is(kind, tmp_path):
    source = kinds(tmp_path)[kind]
    result = lwgraph.optimize(source)
    assert [node.op_type for node in result.model.graph] == ["Relu"]
    assert len(ir.load(source).graph) == 2


def test_what_holds_no_model_is_refused_with_what_does():
    with pytest.raises(lwgraph.ModelError, match=r"from a dict; give a path, bytes, .*torch\.onnx\.export"):
        ir.load({"model": 1})
    with pytest.raises(lwgraph.ModelError, match="from a Program"):
        ir.load(Program("text"))


@pytest.mark.filterwarnings("ignore")  # those of the exporter
def test_what_torch_exports_is_read_and_given_back():
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Identity(), torch.nn.ReLU()).eval()
    program = torch.onnx.export(network, (torch.ones(2, 3),), dynamo=True, verbose=False)
    made = lwgraph.Pipeline.parse("clean").run(program)
    assert type(made) is type(program) and made is not program
    (output,) = made(torch.ones(2, 3))
    np.testing.assert_allclose(output.numpy(), network(torch.ones(2, 3)).detach().numpy(), rtol=1e-6)
    assert lwgraph.optimize(program).kept
