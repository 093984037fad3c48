"""Data readers, streaming capture of layer inputs, and their statistics."""

from lwgraph.calibrate.capture import capture, measured_shapes
from lwgraph.calibrate.generate import generate
from lwgraph.calibrate.gram import CrossAccumulator, CrossMoments, Gram, GramAccumulator
from lwgraph.calibrate.patches import Layer, Patches
from lwgraph.calibrate.preprocess import Preprocess
from lwgraph.calibrate.readers import Batch, Reader, open_data, split
from lwgraph.calibrate.statistics import Statistics, cross_moments

__all__ = [
    "Batch",
    "CrossAccumulator",
    "CrossMoments",
    "Gram",
    "GramAccumulator",
    "Layer",
    "Patches",
    "Preprocess",
    "Reader",
    "Statistics",
    "capture",
    "cross_moments",
    "generate",
    "measured_shapes",
    "open_data",
    "split",
]
