"""Data readers, streaming capture of layer inputs, and their statistics."""

from lwgraph.calibrate.generate import generate
from lwgraph.calibrate.preprocess import Preprocess
from lwgraph.calibrate.readers import Batch, Reader, open_data, split

__all__ = ["Batch", "Preprocess", "Reader", "generate", "open_data", "split"]
