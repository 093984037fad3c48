"""Shapes come from the record, from inference and from the data, whichever says more."""

import onnx

from lwgraph import ir


def test_the_better_of_record_and_inference():
    model = ir.load(
        onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[N,3,8,8] x, float[6,3,3,3] w) => (float[N,6,K,K] y, float[5,M] u)
        <int64[2] to = {-1, 216}, float[A,B,7] c> {
          a = Conv (x, w)
          b = Reshape (a, to)
          c = com.microsoft.Anything (b)
          d = com.microsoft.Anything (c)
          y = Relu (a)
          u = com.microsoft.Anything (d)
        }""")
    )
    shapes = {value.name: dims for value, dims in ir.infer_shapes(model).items()}
    assert shapes["a"] == ("N", 6, 6, 6) and shapes["y"] == ("N", 6, 6, 6)
    assert shapes["b"][1] == 216 and shapes["c"] == ("A", "B", 7) and shapes["u"] == (5, "M")
    assert shapes["to"] == (2,) and "d" not in shapes
    assert model.graph[0].outputs[0].shape is None  # unchanged
