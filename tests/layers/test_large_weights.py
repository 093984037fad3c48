"""What is done with a large weight makes no copies of it in float64: peaks, in multiples of what the model holds."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import arrays, ir
from lwgraph.calibrate.sketch import FactoredGram
from lwgraph.calibrate.statistics import Statistics
from lwgraph.layers import factored as factored_module
from lwgraph.layers.moments import Moments
from lwgraph.layers.site import Site, find_sites
from lwgraph.layers.weights import transform, write
from lwgraph.passes.prune.compensate import compensate
from lwgraph.passes.prune.readers import PruneView
from lwgraph.passes.quantize.graph.quantizer import mean_error
from lwgraph.passes.quantize.grids.grid import Grid
from lwgraph.plan.search.integer_error import integer_error
from lwgraph.plan.search.site_sensitivity import rounded
from lwgraph.rewrite import Context
from tests.layers.chain import ORT

SHAPE = (512, 128, 33)  # (o, c, k)
BYTES = 4 * int(np.prod(SHAPE))
WIDTH = SHAPE[1] * SHAPE[2]


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs that are small beside the weight, as they are beside the largest."""
    monkeypatch.setattr(arrays, "SLAB", 1 << 16)
    monkeypatch.setattr(factored_module, "STRIP", 64)
    monkeypatch.setattr(factored_module, "OUTPUTS", 1 << 16)


@pytest.fixture(scope="module")
def model() -> ir.Model:
    """x (n, 4, 40) -> a 1-D convolution, Relu, and one whose weight is large."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((SHAPE[1], 4, 1), np.float32),
        "b1": np.zeros(SHAPE[1], np.float32),
        "w2": rng.standard_normal(SHAPE, np.float32),
        "b2": np.zeros(SHAPE[0], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w2", "b2"], ["y"], "second"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 4, 40]), ("y", None)))
    held = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], held)
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


@pytest.fixture
def site(model: ir.Model) -> Site:
    return find_sites(ir.clone(model))[1]


def peak(work: Callable[[], Any]) -> float:
    """The most that was allocated at once, its result included, as a multiple of the weight."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / BYTES
    finally:
        tracemalloc.stop()


def moments(site: Site) -> Moments:
    rng = np.random.default_rng(1)
    factor = rng.standard_normal((1, 4, WIDTH)).astype(np.float32)
    gram = FactoredGram(factor, np.ones((1, WIDTH)), rng.standard_normal((1, WIDTH)), 1000, np.zeros(1))
    return Moments(site, gram)


def test_a_copy_in_float64_lives_as_long_as_somebody_holds_it(site: Site) -> None:
    held = site.weight
    assert site.weight is held
    gone = weakref.ref(held)
    del held
    gc.collect()
    assert gone() is None


def test_errors_of_another_weight_take_it_strip_by_strip(site: Site) -> None:
    found, other = moments(site), rounded(site.stored)
    assert peak(lambda: (found.error(other), found.expected(other), found.shift(other))) < 0.3
    assert peak(lambda: integer_error(found, -1.0, 1.0)) < 0.3
    exact = (site.weight - other).reshape(SHAPE[0], -1) @ found.mean[0]
    np.testing.assert_allclose(found.shift(other), exact, rtol=1e-9, atol=1e-9)


def test_other_weights_are_made_in_the_type_of_the_model(site: Site) -> None:
    assert peak(lambda: rounded(site.stored)) < 1.3
    scale, shift = np.linspace(0.5, 2, SHAPE[0]), np.ones(SHAPE[0])
    assert peak(lambda: transform(site, scale, shift)) < 1.3
    weight, _ = transform(site, scale, shift)
    assert weight.dtype == np.float32
    np.testing.assert_allclose(weight, site.weight * scale[:, None, None], rtol=1e-6)
    assert peak(lambda: write(site, weight, None)) < 0.3


def test_what_makes_up_for_removed_channels_takes_a_few_copies_in_the_type_of_the_model(model: ir.Model) -> None:
    data = [{"x": np.random.default_rng(i).standard_normal((1, 4, 40)).astype(np.float32)} for i in range(4)]
    copy = ir.clone(model)
    statistics = Statistics(copy, data, ORT, memory_bytes=4 << 20)
    context = Context(executor=ORT, data=data, statistics=statistics)
    view = PruneView(copy, context)
    group = next(each for each in view.coupling.groups if each.width == SHAPE[1])
    (reader,) = view.readers(group)
    assert not view.moments(reader).exact
    assert peak(lambda: compensate(view, {group: np.arange(8)})) < 2.7


def test_integers_of_a_weight_take_a_byte_each(site: Site) -> None:
    weight = site.stored
    scale = (np.abs(weight).max(axis=(1, 2)) / 127).astype(np.float32)
    grid = Grid("int8", scale, np.zeros(SHAPE[0], np.int64), 0)
    assert peak(lambda: grid.encode(weight)) < 0.5
    integers, mean = grid.encode(weight), np.random.default_rng(2).standard_normal(SHAPE[1])
    assert integers.dtype == np.int8
    assert np.array_equal(integers, np.rint(site.weight / grid.scale[:, None, None].astype(np.float64)))
    assert peak(lambda: mean_error(site.node, weight, grid, integers, mean)) < 0.3
    lost = (weight - grid.decode(integers)).sum(2)
    np.testing.assert_allclose(mean_error(site.node, weight, grid, integers, mean), lost @ mean, rtol=1e-9, atol=1e-9)
