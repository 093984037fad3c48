"""ONNX Runtime's conversion to float16, inputs and outputs kept in float32: MODEL FEEDS OUT OPTIONS."""

import sys

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

model, _, out, _ = sys.argv[1:]
onnx.save(convert_float_to_float16(onnx.load(model), keep_io_types=True), out)
