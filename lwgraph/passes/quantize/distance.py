"""How far a quantized model's outputs are from the float model's: `lwgraph.measure.distance`."""

from lwgraph.measure.distance import Distance

__all__ = ["Distance"]
