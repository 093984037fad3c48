"""What is in a model, as plain data."""

import json

from lwgraph import ir
from lwgraph.testing.layers import make_layer
from lwgraph.views import inspect


def test_the_work_of_a_layer_of_open_size_is_counted_by_a_run():
    model = make_layer("Conv", (1, 3, 8, 8), (4, 3, 3, 3), pads=(1, 1, 1, 1))
    shapes, why = inspect.sizes(model)
    found = json.loads(json.dumps(inspect.facts(model, shapes)))
    (layer,) = found["layers"]
    assert not why and layer["shape"] == [4, 3, 3, 3] and layer["operator"] == "Conv"
    assert found["macs"] == layer["macs"] == 108 * shapes["y"][2] * shapes["y"][3]


def test_a_model_that_cannot_run_is_described_by_its_file():
    model = make_layer("Conv", (1, 3, 8, 8), (4, 3, 3, 3), dynamic=False)
    node = ir.make_node("Unheard", [model.graph.outputs[0]], domain="nowhere")
    model.graph.append(node)
    node.outputs[0].name = "z"
    model.graph.outputs[0] = node.outputs[0]
    shapes, why = inspect.sizes(model)
    assert shapes == {} and why and "\n" not in why
    assert inspect.facts(model, shapes)["operators"] == {"Conv": 1, "Unheard": 1}
