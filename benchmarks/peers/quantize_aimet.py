"""AIMET's post-training quantization, exported to QDQ: MODEL FEEDS OUT OPTIONS."""

import pathlib
import sys

import numpy as np
import onnx
from aimet_onnx.quantsim import QuantizationSimModel

model, feeds, out, _ = sys.argv[1:]
samples = [dict(np.load(file)) for file in sorted(pathlib.Path(feeds).glob("*.npz"))]
simulated = QuantizationSimModel(
    onnx.load(model), param_type="int8", activation_type="int8", providers=["CPUExecutionProvider"]
)
simulated.compute_encodings(samples)
onnx.save(simulated.to_onnx_qdq(), out)
