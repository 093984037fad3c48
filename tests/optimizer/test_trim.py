"""Passes that were asked for do not leave a file larger than it was, but for what was the point of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import lwgraph

FUNCTION = """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
g (float[n, 64] x) => (float[n, 64] y) {{ a = f.F(x) b = f.F(a) i = Identity(b) y = f.F(i) }}
<domain: "f", opset_import: ["" : 17]>
F (x) => (y) {{ c = Constant <value = float[64] {{{0}}}> () d = Add(x, c) y = Relu(d) }}"""


def saved(path: Path, text: str, **weights: np.ndarray) -> Path:
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items())
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize(
    "pipeline", ["inline-functions", "inline-functions,identities", "inline-functions,unshare-initializers"]
)
def test_what_keeps_the_outputs_and_makes_the_file_larger_is_left_out(tmp_path: Path, pipeline: str) -> None:
    source = saved(tmp_path / "m.onnx", FUNCTION.format(", ".join(["0.5"] * 64)))
    result = lwgraph.optimize(source, pipeline=pipeline)
    result.save(tmp_path / "out.onnx")
    written = tmp_path / "out.onnx"
    assert written.stat().st_size <= source.stat().st_size
    assert result.report.stages[-1].facts.bytes == written.stat().st_size
    assert [note for note in result.report.notes if note.startswith("inline-functions was left out: it made the file ")]
    assert "inline-functions" not in result.report.recipe
    operators = [node.op_type for node in onnx.load(written).graph.node]
    assert operators.count("F") == 3 and ("Identity" in operators) is ("identities" not in pipeline)  # the rest is done


def test_what_others_make_up_for_stays(tmp_path: Path) -> None:
    source = saved(
        tmp_path / "m.onnx",
        FUNCTION.format(", ".join(["0.5"] * 64)).replace("i = Identity(b)", "z = Mul(w, w) i = Add(b, z)"),
        w=np.ones((400, 64)),
    )
    proto = onnx.load(source)
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((400, 64), np.float32), "unused"))
    onnx.save(proto, source)
    result = lwgraph.optimize(source, pipeline="inline-functions,dead-code")
    assert "inline-functions" in result.report.recipe and not any("left out" in note for note in result.report.notes)


def test_integers_that_take_more_than_they_save_were_asked_for(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 4] x) => (float[n, 4] y) { y = MatMul(x, w) }'
    source = saved(tmp_path / "m.onnx", text, w=np.eye(4))
    x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    result = lwgraph.optimize(source, pipeline="quantize{keep=none}", data={"x": x})
    told = [note for note in result.report.notes if "made the file" in note]
    assert len(told) == 1 and told[0].startswith("quantize{") and "asked for" in told[0]
    assert any(node.op_type == "QuantizeLinear" for node in result.model.graph)
