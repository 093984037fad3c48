"""onnxsim: MODEL FEEDS OUT OPTIONS."""

import sys

import onnx
import onnxsim

model, _, out, _ = sys.argv[1:]
simplified, equal = onnxsim.simplify(onnx.load(model))
if not equal:
    sys.exit("onnxsim's own check of its result failed")
onnx.save(simplified, out)
