"""A model whose weights lie in a file of their own is planned a layer at a time, and comes out as any other."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.ir.tensors import MappedTensor
from lwgraph.plan.choices import Precision
from lwgraph.plan.precision import DYNAMIC, FLOAT
from lwgraph.plan.search.planner import open_planner
from lwgraph.rewrite import Context, Pipeline
from tests.passes.prune.encoders import encoder
from tests.passes.quantize.quantize_models import Net
from tests.plan.search.by_work import ByWork

ORT = registry.executor("ort")
PASSES = 'clean,prune-channels{widths="feed-forward=0.5",multiple=1},quantize{activations=dynamic,keep=none}'
WIDTH = 128
LAYER = 4 * WIDTH**2  # bytes
RUNNING = Precision(("quantize{activations=dynamic,keep=none}",))


def outside(proto: onnx.ModelProto, path: Path) -> ir.Model:
    onnx.save(proto, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    return ir.load(path)


def rewritten(model: ir.Model) -> ir.Model:
    data = [{"x": np.random.default_rng(i).standard_normal((1, 5, 24)).astype(np.float32)} for i in range(12)]
    Pipeline.parse(PASSES).rewrite(model, Context(executor=ORT, data=data, statistics=Statistics(model, data, ORT)))
    return model


def run(model: ir.Model) -> np.ndarray[Any, Any]:
    feed = {"x": np.random.default_rng(99).standard_normal((2, 5, 24)).astype(np.float32)}
    return np.asarray(next(iter(ORT.prepare(model)(feed).values())))


def test_the_same_comes_of_it(tmp_path: Path) -> None:
    made, same = rewritten(outside(encoder(norm="many"), tmp_path / "m.onnx")), rewritten(ir.load(encoder(norm="many")))
    assert sum(node.op_type == "MatMulInteger" for node in made.graph) == 6
    np.testing.assert_array_equal(run(made), run(same))
    ir.save(made, tmp_path / "made.onnx", external=True)
    np.testing.assert_array_equal(run(ir.load(tmp_path / "made.onnx")), run(made))


def planned(layers: int, folder: Path) -> int:
    """The most bytes that planning a chain of products takes, whose weights are external."""
    net = Net()
    x = net.input("x", [4, WIDTH])
    for _ in range(layers):
        x = net.op("MatMul", x, net.constant(net.rng.normal(size=(WIDTH, WIDTH)).astype("f") / WIDTH**0.5))
    model = outside(ir.to_proto(net.model(x)), folder / f"{layers}.onnx")
    feeds = [{"x": np.random.default_rng(i).standard_normal((4, WIDTH)).astype(np.float32)} for i in range(4)]
    given = Context(executor=ORT, data=feeds, memory_bytes=2 * LAYER)
    context = given.beside(statistics=given.statistics_of(model))
    shapes, prices = layer_shapes(model, feeds[0], ORT), ByWork(folder)
    tracemalloc.start()
    try:
        planner = open_planner(model, context, prices, shapes=shapes, forms=[], precisions=(FLOAT,), dynamic=RUNNING)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(planner.items) == layers and all(planner.uniform(DYNAMIC))
    weights = [value.const_value for value in model.graph.initializers.values()]
    assert len(weights) == layers and all(isinstance(weight, MappedTensor) for weight in weights)
    return peak


def test_planning_holds_neither_weights_nor_moments_of_all_layers(tmp_path: Path) -> None:
    """Twelve more products take less room than their weights, of which second moments take twice as much."""
    few, many = (planned(layers, tmp_path) for layers in (4, 16))
    assert many - few < 12 * LAYER
