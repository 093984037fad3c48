"""ONNX Runtime's static quantization to QDQ: MODEL FEEDS OUT OPTIONS, options: per_channel, op_types, method.

The model is pre-processed first, as ONNX Runtime's documentation asks; where that fails, it is quantized as it is.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Reader(CalibrationDataReader):
    """The samples of a folder, one after another."""

    def __init__(self, folder: str) -> None:
        self.files = iter(sorted(pathlib.Path(folder).glob("*.npz")))

    def get_next(self) -> dict[str, np.ndarray] | None:
        file = next(self.files, None)
        return None if file is None else dict(np.load(file))


model, feeds, out, given = sys.argv[1:]
options = json.loads(given)
with tempfile.TemporaryDirectory() as scratch:
    ready = f"{scratch}/ready.onnx"
    try:
        quant_pre_process(model, ready, skip_symbolic_shape=False)
    except Exception as error:
        print(f"pre-processing failed: {error}")
        ready = model
    quantize_static(
        ready,
        out,
        Reader(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=options["per_channel"],
        op_types_to_quantize=options.get("op_types"),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=getattr(CalibrationMethod, options.get("method", "MinMax")),
    )
