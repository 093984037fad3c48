"""ONNX Runtime's tools for transformers: MODEL FEEDS OUT OPTIONS, options: fuse, dynamic, per_channel.

`fuse` runs the transformers optimizer, which finds the number of heads by itself; `dynamic` quantizes with grids that
are taken as the model runs.
"""

import json
import sys
import tempfile

from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.optimizer import optimize_model

model, _, out, given = sys.argv[1:]
options = json.loads(given)
with tempfile.TemporaryDirectory() as scratch:
    fused = f"{scratch}/fused.onnx" if options["dynamic"] else out
    if options["fuse"]:
        optimize_model(model, model_type=options["fuse"]).save_model_to_file(fused)
    else:
        fused = model
    if options["dynamic"]:
        # What its own fused operators give it has no type for shape inference, and it stops without a default.
        more = {"DefaultTensorType": TensorProto.FLOAT}
        quantize_dynamic(
            fused, out, per_channel=options["per_channel"], weight_type=QuantType.QInt8, extra_options=more
        )
