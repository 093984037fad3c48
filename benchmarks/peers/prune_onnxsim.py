"""onnxsim's structured pruning: MODEL FEEDS OUT OPTIONS, options: sparsity in 0..1."""

import json
import sys

import onnx
import onnxsim

model, _, out, options = sys.argv[1:]
simplified, _ = onnxsim.simplify(onnx.load(model))
onnx.save(onnxsim.apply_structured_pruning(simplified, sparsity=json.loads(options)["sparsity"]), out)
