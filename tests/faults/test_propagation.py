"""ONNX's shape inference writes out integer vectors: those of terabytes are not asked for, others are followed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from lwgraph import check, ir

LONG = 1 << 40


def model(body: str, **constants: Any) -> onnx.ModelProto:
    made = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3] x) => (float[m, k] y) {{ {body} }}'
    )
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    return made


TAIL = "c = Cast <to = 1> (q) s = ReduceMax(c) y = Mul(x, s)"


@pytest.mark.parametrize(
    "proto",
    [
        model(f"q = Range(a, b, one) {TAIL}", a=0, b=LONG, one=1),
        model(f"q = Range(a, b, one) {TAIL}", a=np.int32(-(2**31)), b=np.int32(0), one=np.int32(1)),
        model(f"q = Range(a, b, one) {TAIL}", a=np.float32(0), b=np.float32(1e12), one=np.float32(1)),
        model(f"q = Range(a, b, one) {TAIL}", a=np.float32(0), b=np.float32(np.inf), one=np.float32(1)),
        model(f"t = Mul(a, b) q = Range(z, t, one) {TAIL}", a=1 << 20, b=1 << 20, z=0, one=1),
        model(f"b = Constant <value_int = {LONG}> () q = Range(z, b, one) {TAIL}", z=0, one=1),
        model(f"q = ConstantOfShape <value = int64[1] {{3}}> (a) {TAIL}", a=[LONG]),
        model(f"u = Unsqueeze(a, z) q = Expand(o, u) {TAIL}", a=LONG, z=[0], o=[1]),
        model(f"q = Tile(o, a) {TAIL}", a=[LONG], o=[1]),
        model(
            "t = Cast <to = 9> (one) y = If (t) <then_branch = g () => (float[m, k] u) "
            f"{{ q = Range(z, b, one) {TAIL.replace('y =', 'u =')} }}, else_branch = h () => (float[n, 3] v) "
            "{ v = Identity(x) }>",
            z=0,
            b=LONG,
            one=1,
        ),
    ],
)
def test_long_vectors_are_not_written_out(proto: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, original = [], onnx.shape_inference.infer_shapes

    def infer(proto: onnx.ModelProto, *, strict_mode: bool, data_prop: bool) -> onnx.ModelProto:
        asked.append(data_prop)
        return original(proto, strict_mode=strict_mode, data_prop=False)  # would take all memory

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", infer)
    loaded = ir.load(proto)
    check.verify(loaded)
    ir.infer_shapes(loaded)
    ir.record_shapes(loaded)
    floats = any(tensor.data_type == onnx.TensorProto.FLOAT for tensor in proto.graph.initializer)
    assert asked == [False, False, floats]  # the last one is not given floats


def test_shapes_are_followed() -> None:
    """Sizes that are computed of a shape, with a far end of a Slice."""
    proto = model(
        "s = Shape(x) t = Slice(s, one, end) v = Concat <axis = 0> (rest, t) w = Expand(x, twice) "
        "a = Reshape(w, v) y = Relu(a)",
        one=[1],
        end=[2**63 - 1],
        rest=[-1],
        twice=[2, 1, 1],
    )
    shapes = {value.name: dims for value, dims in ir.infer_shapes(ir.load(proto)).items()}
    assert shapes["a"][1:] == (3,)
