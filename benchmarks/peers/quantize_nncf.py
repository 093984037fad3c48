"""NNCF's post-training quantization: MODEL FEEDS OUT OPTIONS, options: preset."""

import json
import os
import pathlib
import sys

os.environ["NNCF_CI"] = "1"  # no telemetry

import nncf
import numpy as np
import onnx

model, feeds, out, given = sys.argv[1:]
options = json.loads(given)
samples = [dict(np.load(file)) for file in sorted(pathlib.Path(feeds).glob("*.npz"))]
preset = nncf.QuantizationPreset.MIXED if options.get("preset") == "mixed" else None
quantized = nncf.quantize(onnx.load(model), nncf.Dataset(samples), preset=preset, subset_size=len(samples))
onnx.save(quantized, out)
