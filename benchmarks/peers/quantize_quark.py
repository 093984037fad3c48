"""AMD Quark's post-training quantization for processors: MODEL FEEDS OUT OPTIONS."""

import pathlib
import sys

import numpy as np
from onnxruntime.quantization import CalibrationDataReader
from quark.onnx import ModelQuantizer
from quark.onnx.quantization.config import Config, get_default_config


class Reader(CalibrationDataReader):
    """The samples of a folder, one after another."""

    def __init__(self, folder: str) -> None:
        self.files = sorted(pathlib.Path(folder).glob("*.npz"))
        self.rewind()

    def rewind(self) -> None:
        """Begin again."""
        self.left = iter(self.files)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sample; None at the end."""
        file = next(self.left, None)
        return None if file is None else dict(np.load(file))


model, feeds, out, _ = sys.argv[1:]
config = Config(global_quant_config=get_default_config("U8S8_AAWS"))
ModelQuantizer(config).quantize_model(model, out, Reader(feeds))
