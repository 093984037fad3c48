"""Fits, importances and rounding from factored moments, against exact ones where both fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.calibrate import statistics as statistics_module
from lwgraph.calibrate.patches import Patches
from lwgraph.calibrate.sketch import Sketch
from lwgraph.errors import DataError
from lwgraph.layers import factored as factored_module
from lwgraph.layers import moments as module
from lwgraph.layers.factored import Factored
from lwgraph.layers.linalg import ridges
from lwgraph.layers.moments import Block, Moments, Pooled
from lwgraph.layers.site import Site, find_sites
from lwgraph.passes.prune.compensate import uncentred
from lwgraph.passes.prune.importance import importance
from lwgraph.passes.prune.readers import PruneView
from lwgraph.plan.search.integer_error import integer_error
from lwgraph.rewrite import Pass
from lwgraph.rewrite.base import Context
from lwgraph.testing.layers import make_layer

ORT = registry.executor("ort")
CHANNELS = 40


def patches_of(site: Site, count: int) -> np.ndarray[Any, Any]:
    """(count, 1, D) patches of images whose channels and neighbours resemble each other."""
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((CHANNELS, CHANNELS)) * np.arange(1, CHANNELS + 1) ** -0.7
    x = np.einsum("dc,nchw->ndhw", mix, rng.standard_normal((-(-count // 100), CHANNELS, 12, 12)))
    for axis in (2, 3):
        x = x + 0.8 * np.roll(x, 1, axis)
    geometry = Patches.of(site)
    x = np.maximum(x + 0.3, 0).astype(np.float32)
    return geometry.rows(x, np.sort(rng.permutation(geometry.count(x.shape))[:count]))


def both(capacity: int = 128, count: int = 3000) -> tuple[Site, Moments, Moments]:
    """A layer with exact moments, and with those of a sketch of the same patches."""
    (site,) = find_sites(make_layer("Conv", (1, CHANNELS, 12, 12), (16, CHANNELS, 3, 3)))
    rows = patches_of(site, count)
    wide = rows[:, 0].astype(float)
    sketch = Sketch(1, site.fan_in, capacity=capacity)
    sketch.add(rows)
    exact = Moments(site, Pooled((wide.T @ wide / len(wide))[None], wide.mean(0)[None], len(wide)))
    return site, exact, Moments(site, sketch.result())


def test_the_algebra_is_that_of_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factored_module, "STRIP", 100)
    monkeypatch.setattr(factored_module, "OUTPUTS", 5 * 360)  # neither divides its axis
    _, _, moments = both(count=2000)
    (found,) = moments.losses
    assert isinstance(found, Factored) and not moments.exact
    wide = found.factor.astype(float)
    block = Block(found.weight, wide.T @ wide + np.diag(found.rest + found.ridge), found.ridge)
    rng = np.random.default_rng(0)
    rows, at = rng.standard_normal((5, 360)), np.sort(rng.permutation(360)[:250])
    kernel = found.weight + 0.1 * rng.standard_normal(found.weight.shape)
    for name, given in {"apply": rows, "solve": rows, "chosen": at, "onto": at}.items():
        np.testing.assert_allclose(getattr(found, name)(given), getattr(block, name)(given), rtol=1e-5, atol=1e-7)
    for name in ("diagonal", "variance", "trace", "total", "power"):
        np.testing.assert_allclose(getattr(found, name), getattr(block, name), rtol=1e-5, atol=1e-7)
    assert found.loss(kernel) == pytest.approx(block.loss(kernel), rel=1e-5)
    assert found.error(kernel) == pytest.approx(block.error(kernel), rel=1e-5)
    inverse, columns = np.linalg.inv(block.moments), at[:50].reshape(10, 5)
    for part, some in zip(found.inverse_blocks(columns), columns, strict=True):
        np.testing.assert_allclose(part, inverse[np.ix_(some, some)], rtol=1e-5, atol=1e-6)


def test_the_ridge_is_about_that_of_exact_moments() -> None:
    _, exact, moments = both(capacity=512, count=400)
    (block,), (found,) = exact.blocks, moments.losses
    np.testing.assert_allclose(found.ridge, block.ridge, rtol=0.05)  # from PROBED of 360 entries
    (site,) = find_sites(make_layer("Gemm", (1, 100), (4, 100), transB=1))
    few = Factored.of(site.weight, np.eye(20, 100, dtype=np.float32), np.zeros(100), 50)
    np.testing.assert_allclose(few.ridge, ridges(np.diag(few.variance), 50), rtol=1e-9)  # all entries are probed
    still = Factored.of(site.weight, np.zeros((2, 100), np.float32), np.zeros(100), 50)
    assert (still.ridge == 1).all()


@pytest.mark.parametrize(("capacity", "more"), [(128, 1.5), (256, 1.2)])
def test_errors_and_fits_are_near_those_of_exact_moments(capacity: int, more: float) -> None:
    """Of 360 inputs: errors within 5 %, refits that lose at most `more` times the least, where a cut loses 3 times."""
    site, exact, moments = both(capacity)
    (block,), (found,) = exact.blocks, moments.losses
    rng = np.random.default_rng(0)
    for kernel in (
        site.weight + 0.05 * rng.standard_normal(site.shape),
        np.round(site.weight * 8) / 8,
        np.zeros(site.shape),
    ):
        assert moments.error(kernel) == pytest.approx(exact.error(kernel), rel=0.05)
        assert moments.expected(kernel) == pytest.approx(exact.expected(kernel), rel=0.05)
    np.testing.assert_allclose(moments.shift(0.9 * site.weight), exact.shift(0.9 * site.weight), rtol=1e-4, atol=1e-5)
    assert integer_error(moments, 0.0, 3.0) == pytest.approx(integer_error(exact, 0.0, 3.0), rel=0.05)
    for kept in (np.arange(0, 360, 2), np.arange(90, 360)):
        fits = {"best": block.onto(kept), "found": found.onto(kept), "cut": block.matrix[:, kept]}
        errors = {}
        for name, fit in fits.items():
            whole = np.zeros((16, 360))
            whole[:, kept] = fit
            errors[name] = block.error(whole)
        assert errors["found"] <= more * errors["best"] < 0.5 * errors["cut"]


def network() -> tuple[ir.Model, list[dict[str, np.ndarray[Any, Any]]]]:
    """A Conv of 24 channels that a Conv with 24 * 9 inputs reads."""
    from onnx import helper

    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((24, 3, 3, 3)).astype(np.float32) * np.linspace(0.2, 1, 24)[:, None, None, None],
        "w2": rng.standard_normal((8, 24, 3, 3)) * 0.1,
        "b1": rng.standard_normal(24) * 0.1,
        "b2": rng.standard_normal(8) * 0.1,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w1", "b1"], ["c"], "first", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], "relu"),
            helper.make_node("Conv", ["r", "w2", "b2"], ["y"], "second"),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", 1, ["n", 8, 14, 14])],
        [helper.make_tensor(k, 1, v.shape, v.astype(np.float32).reshape(-1).tolist()) for k, v in weights.items()],
    )
    model = ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    x = rng.standard_normal((6, 1, 3, 16, 16)) + 0.7 * rng.standard_normal((6, 1, 1, 16, 16))
    return model, [{"x": each.astype(np.float32)} for each in x]


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> tuple[ir.Model, Context, Context]:
    """A model, and contexts with exact and with factored moments of its second layer."""
    model, data = network()
    exact = Context(executor=ORT, data=data, statistics=Statistics(model, data, ORT))
    monkeypatch.setattr(statistics_module, "NARROW", 100)
    statistics = Statistics(model, data, ORT, memory_bytes=900_000)
    assert [statistics.exact(site) for site in find_sites(model)] == [True, False]
    return model, exact, Context(executor=ORT, data=data, statistics=statistics)


@pytest.mark.parametrize("name", ["activation", "obs", "fold"])
def test_importances_rank_channels_alike(name: str, scenes: tuple[ir.Model, Context, Context]) -> None:
    model, *contexts = scenes
    places = []
    for context in contexts:
        view = PruneView(ir.clone(model), context)
        (group,) = view.coupling.prunable
        ranking = importance(name).rank(group, view)
        assert np.isfinite(ranking.cost).all() and (np.diff(ranking.cost) >= -1e-9).all()
        places.append(np.argsort(ranking.order))
    assert np.corrcoef(*places)[0, 1] > (0.999 if name == "activation" else 0.9)


def outputs(model: ir.Model, data: Any) -> np.ndarray[Any, Any]:
    run = ORT.prepare(model)
    return np.concatenate([run(feeds)["y"] for feeds in data]).astype(float)


def test_pruned_channels_are_made_up_for(scenes: tuple[ir.Model, Context, Context]) -> None:
    model, *contexts = scenes
    before = outputs(model, contexts[0].data)
    errors = []
    for text in ("", ",compensate=false"):
        for context in contexts:
            pruned = ir.clone(model)
            recipe = f"prune-channels{{scope=group,ratio=0.4,multiple=1,refit=false{text}}}"
            assert Pass.parse(recipe).run(pruned, context) > 0
            errors.append(np.square(outputs(pruned, context.data) - before).sum())
    exact, factored, *cut = errors
    assert factored < 1.2 * exact and factored < 0.7 * min(cut)


def test_a_layer_without_a_bias_is_refitted_on_moments_that_are_not_centred(
    scenes: tuple[ir.Model, Context, Context],
) -> None:
    model, *contexts = scenes
    found = []
    for context in contexts:
        view = PruneView(ir.clone(model), context)
        (reader,) = view.readers(view.coupling.prunable[0])
        found.append(uncentred(view, reader))
        assert found[-1].losses[0].power > 1.1 * view.moments(reader).losses[0].power
    exact, factored = found
    assert factored.losses[0].power == pytest.approx(exact.losses[0].power, rel=0.02)
    np.testing.assert_allclose(factored.losses[0].variance, exact.losses[0].variance, rtol=1e-4)


@pytest.mark.parametrize("text", ["low-rank{rank=4}", "prune-weights{sparsity=0.5}"])
def test_what_needs_exact_moments_says_so(text: str, scenes: tuple[ir.Model, Context, Context]) -> None:
    model, _, context = scenes
    Pass.parse(text).run(model, context)
    (reason,) = [each.reason for each in context.skipped if each.place == "second"]
    assert reason == "it needs exact moments of 216 inputs, which the memory allowance has no room for; allow more"
    (site,) = [site for site in find_sites(network()[0]) if site.name == "second"]
    assert context.statistics is not None
    with pytest.raises(DataError, match="layer 'second': it needs exact moments of 216 inputs"):
        Moments(site, context.statistics.gram(site)).blocks  # noqa: B018


def test_weights_are_rounded_to_nearest_with_a_warning(
    scenes: tuple[ir.Model, Context, Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, exact, _ = scenes
    monkeypatch.setattr(statistics_module, "WIDE", 100)
    before = outputs(model, exact.data)
    assert Pass.parse("round-weights{bits=6}").run(model, exact) == 2
    (warning,) = exact.warnings
    assert warning.startswith("round-weights rounds 'second' to nearest: it needs exact moments of 216 inputs")
    after = outputs(model, exact.data)
    assert 0 < np.square(after - before).mean() < 0.01 * before.var()
    np.testing.assert_allclose(after.mean((0, 2, 3)), before.mean((0, 2, 3)), atol=0.02)  # the biases see to that


def test_white_inputs_of_long_patches_need_no_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    (site,) = find_sites(make_layer("Gemm", (1, 300), (8, 300), transB=1))
    exact = Moments(site)
    monkeypatch.setattr(module, "MOST_UNKNOWNS", 299)
    found = Moments(site)
    assert exact.exact and not found.exact
    kernel = np.round(site.weight, 1)
    assert found.error(kernel) == pytest.approx(exact.error(kernel), rel=1e-9)
    kept = np.arange(100)
    np.testing.assert_allclose(found.losses[0].onto(kept), exact.losses[0].onto(kept), atol=1e-9)
