"""Local proof: a fit that is not what it claims does not replace its layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.layers.apply import apply_forms, moments_of
from lwgraph.layers.check import error_on, objection
from lwgraph.layers.form import parse_form
from lwgraph.layers.site import find_sites
from lwgraph.rewrite import Context

SHAPES = {"conv": (24, 16, 3, 3), "gemm": (64, 48)}


def network(kind: str) -> ir.Model:
    """x -> one layer -> y."""
    random = np.random.default_rng(0)
    shape = SHAPES[kind]
    dims = ["n", shape[1], "h", "w"] if kind == "conv" else ["n", shape[1]]
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(dims))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 17}, name="one")
    w = ir.add_initializer(graph, (random.standard_normal(shape) / 12).astype(np.float32), "w")
    b = ir.add_initializer(graph, random.standard_normal(shape[0]).astype(np.float32), "b")
    options = {"pads": [1, 0, 1, 2], "strides": [2, 1]} if kind == "conv" else {"transB": 1}
    node = ir.make_node("Conv" if kind == "conv" else "Gemm", [x, w, b], options)
    node.name, node.outputs[0].name = "layer", "y"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.append(node)
    graph.outputs.append(node.outputs[0])
    return ir.Model(graph, ir_version=8)


@pytest.fixture(params=["conv", "gemm"])
def fitted(request: pytest.FixtureRequest):
    model = network(request.param)
    random = np.random.default_rng(1)
    scale = np.geomspace(0.1, 10, SHAPES[request.param][1]).astype(np.float32)  # channels differ, so their order shows
    scale = scale[:, None, None] if request.param == "conv" else scale
    shape = (4, 16, 20, 21) if request.param == "conv" else (64, 48)
    feeds = [{"x": scale * random.standard_normal(shape, np.float32) + 0.5} for _ in range(3)]
    statistics = Statistics(model, feeds, registry.executor("ort"))
    context = Context(reference=registry.executor("reference"), statistics=statistics)
    site = find_sites(model)[0]
    found = parse_form("low-rank{rank=16}").at(site).fit(site, moments_of([site], context))
    return model, context, found


def test_an_honest_fit_passes_and_is_proved_once(fitted) -> None:
    _, context, found = fitted
    assert objection(found, context, True) == ""
    assert context.log.proved
    # A second proof would have to sample again.
    assert objection(found, context.beside(statistics=None, reference=None), True) == ""


def test_nodes_that_compute_something_else_are_named(fitted) -> None:
    _, context, found = fitted
    name = next(iter(found.arrays))
    arrays = found.arrays | {name: found.arrays[name] * 1.01}
    reason = objection(replace(found, arrays=arrays), context, True)
    assert "'layer'" in reason and "not the promised layer" in reason and "at [" in reason


def test_a_wrong_bias_shows_in_the_error(fitted) -> None:
    """The emitted nodes and the promise agree; only the error on real inputs tells that the bias is not centred."""
    _, context, found = fitted
    sample = context.statistics.sample(found.site)
    honest = error_on(found, sample)
    wrong = replace(found, shift=found.shift + 10.0)
    assert error_on(wrong, sample) > 10 * honest


def test_a_wrong_patch_order_is_caught(fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prediction is made from patches; were they not what the layer sees, the measured error would differ."""
    from lwgraph.calibrate.patches import Patches

    _, context, found = fitted
    rows = Patches.rows
    monkeypatch.setattr(Patches, "rows", lambda self, x, at: rows(self, x, at)[..., ::-1])
    assert "relative squared error" in objection(found, context, True)


def test_a_refused_fit_leaves_the_layer(fitted) -> None:
    model, context, found = fitted
    before = ir.fingerprint(model)
    name = next(iter(found.arrays))
    broken = replace(found, arrays=found.arrays | {name: found.arrays[name] * 1.01})
    (record,) = apply_forms([(found.site, found.form)], context, {found.site.name: broken})
    assert not record.done and "not the promised layer" in record.reason
    assert ir.fingerprint(model) == before
    assert [s.place for s in context.skipped] == ["layer"]


def test_a_single_row_does_not_vary_so_another_sample_is_taken() -> None:
    model, random = network("gemm"), np.random.default_rng(1)
    feeds = [{"x": random.standard_normal((1, 48), np.float32)} for _ in range(200)]
    statistics = Statistics(model, feeds, registry.executor("ort"))
    context = Context(reference=registry.executor("reference"), statistics=statistics)
    site = find_sites(model)[0]
    found = parse_form("low-rank{rank=16}").at(site).fit(site, moments_of([site], context))
    assert np.isinf(error_on(found, context.statistics.sample(site)))
    assert objection(found, context, True) == ""
    wrong = replace(found, arrays=found.arrays | {"stage1": found.arrays["stage1"] * 1.01})
    context.log.proved.clear()
    assert "not the promised layer" in objection(wrong, context, True)


def test_a_sample_of_an_empty_image_does_not_vary_so_another_is_taken(fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    _, context, found = fitted
    if found.site.kernel:
        pytest.skip("padding makes the edges of an empty image differ")
    rows = np.repeat(np.random.default_rng(2).standard_normal((1, 48), np.float32), 63, 0)  # the same again and again
    monkeypatch.setattr(context.statistics, "sample", lambda site: rows)
    assert np.isinf(error_on(found, rows)) and np.isfinite(error_on(found, rows + np.eye(63, 48, dtype=np.float32)))
    assert objection(found, context, True) == ""
