"""Without data only weights that are redundant in themselves are worth a search."""

from __future__ import annotations

import numpy as np
import pytest
from lwgraph.optimizer.spectrum import redundant

from lwgraph import ir
from lwgraph.layers.site import find_sites


def layer(weight: np.ndarray, group: int = 1) -> ir.Model:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", weight.shape[1] * group, 8, 8]))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 17}, name="one")
    w = ir.add_initializer(graph, weight.astype(np.float32), "w")
    node = ir.make_node("Conv", [x, w], {"group": group})
    node.name, node.outputs[0].name = "layer", "y"
    graph.append(node)
    graph.outputs.append(node.outputs[0])
    return ir.Model(graph, ir_version=8)


@pytest.mark.parametrize("view", ["outputs", "inputs", "spatial", "none"])
def test_each_view_counts(view: str) -> None:
    random = np.random.default_rng(0)
    if view == "outputs":
        weight = (random.standard_normal((32, 4)) @ random.standard_normal((4, 16 * 9))).reshape(32, 16, 3, 3)
    elif view == "inputs":
        weight = np.einsum("ir,rox->oix", random.standard_normal((16, 3)), random.standard_normal((3, 32, 9)))
        weight = weight.reshape(32, 16, 3, 3)
    elif view == "spatial":
        weight = np.einsum("ryi,roz->oiyz", random.standard_normal((6, 3, 16)), random.standard_normal((6, 32, 3)))
    else:
        weight = random.standard_normal((32, 16, 3, 3))
    (site,) = find_sites(layer(weight))
    assert redundant(site) is (view != "none")


def test_groups_and_zero_weights() -> None:
    (grouped,) = find_sites(layer(np.ones((8, 1, 3, 3)), group=8))
    assert not redundant(grouped)
    (zero,) = find_sites(layer(np.zeros((8, 8, 3, 3))))
    assert redundant(zero)
