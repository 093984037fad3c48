"""Two convolutions in a row, inputs for them, and their statistics by brute force."""

import numpy as np

from lwgraph import ir, registry
from lwgraph.layers.moments import Pooled
from lwgraph.testing.layers import patches

ORT = registry.executor("ort")


FEEDS = {"x": np.random.default_rng(1).standard_normal((4, 32, 12, 12)).astype(np.float32)}


class Measured:
    """Statistics by brute force."""

    def __init__(self, model, feeds):
        self.model, self.feeds, self.asked = model, feeds, []

    def prefetch(self, sites):
        self.asked += [site.name for site in sites]

    def knows(self, site):
        return True

    def exact(self, site):
        return True

    def unfit(self, site):
        return ""

    def sample(self, site):
        return ORT.prepare(self.model, [site.input.name])(self.feeds)[site.input.name]

    def gram(self, site):
        found = patches(site, self.sample(site))
        return Pooled(found.swapaxes(1, 2) @ found / found.shape[1], found.mean(1), found.shape[1])


def chain(*, shared=False, outputs=("y",)):
    """x -> conv a -> relu -> conv b -> y, of 32 channels."""
    random = np.random.default_rng(0)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", 32, "h", "w"]))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 17}, name="chain")
    weights = (random.standard_normal((2, 32, 32, 3, 3)) / 17).astype(np.float32)
    w = ir.add_initializer(graph, weights[0], "w")
    v = w if shared else ir.add_initializer(graph, weights[1], "v")
    b = ir.add_initializer(graph, random.standard_normal(32).astype(np.float32), "b")
    first = ir.make_node("Conv", [x, w, b], {"pads": (1, 1, 1, 1)})
    relu = ir.make_node("Relu", first.outputs)
    second = ir.make_node("Conv", [relu.outputs[0], v, b], {"pads": (1, 1, 1, 1)})
    for node, name in ((first, "a"), (relu, "r"), (second, "y")):
        node.name = node.outputs[0].name = name
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.extend([first, relu, second])
    values = {"a": first.outputs[0], "y": second.outputs[0]}
    graph.outputs.extend(values[name] for name in outputs)
    return ir.Model(graph, ir_version=9)
