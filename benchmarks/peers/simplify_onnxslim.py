"""onnxslim: MODEL FEEDS OUT OPTIONS."""

import sys

import onnx
import onnxslim

model, _, out, _ = sys.argv[1:]
onnx.save(onnxslim.slim(model), out)
