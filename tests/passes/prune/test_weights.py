"""Zeros where they were asked for, at less cost than without the refit, and no promise of speed."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.check import verify
from lwgraph.errors import UsageError
from lwgraph.layers.moments import Block
from lwgraph.layers.site import find_sites
from lwgraph.passes.prune.weights import PruneWeights, sparsify
from lwgraph.rewrite.base import Context
from tests.passes.prune.networks import PATTERNS, residual
from tests.passes.prune.pruning import feeds, run


def context(model: ir.Model) -> Context:
    executor = registry.executor("ort")
    data = [feeds(model, batch=32, seed=i) for i in range(4)]
    return Context(executor=executor, data=data, statistics=Statistics(model, data, executor))


def density(model: ir.Model) -> dict[str, float]:
    """For each layer the share of its weights that are not zero."""
    return {site.name: np.count_nonzero(site.weight) / site.weight.size for site in find_sites(model)}


def block(outputs: int = 24, width: int = 150, seed: int = 0) -> Block:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2000, width)) @ (rng.standard_normal((width, width)) / width**0.5 + np.eye(width))
    return Block(rng.standard_normal((outputs, width)), x.T @ x / len(x), 0.0)


def by_size(weight: np.ndarray, count: int) -> np.ndarray:
    copy = weight.copy()
    copy.reshape(-1)[np.argsort(np.abs(weight), axis=None)[:count]] = 0
    return copy


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7])
def test_less_error_than_without_the_smallest_weights(sparsity):
    one = block()
    sparse = sparsify(one, sparsity, "any")
    zeros = np.count_nonzero(sparse == 0)
    assert zeros == pytest.approx(sparsity * sparse.size, rel=0.01)
    assert one.loss(sparse) < 0.7 * one.loss(by_size(one.matrix, zeros))


@pytest.mark.parametrize(("few", "many"), [(2, 4), (1, 4), (4, 8), (3, 7)])
def test_n_of_m(few, many):
    one = block(width=many * 20 + 3)
    sparse = sparsify(one, 0.0, f"{few}:{many}")
    groups = (sparse[:, : many * 20] != 0).reshape(len(sparse), 20, many).sum(2)
    assert groups.max() == few
    assert np.count_nonzero(sparse[:, many * 20 :]) > 0


def test_runs():
    sparse = sparsify(block(width=152), 0.5, "block8")
    runs = (sparse.reshape(len(sparse), -1, 8) != 0).sum(2)
    assert set(np.unique(runs)) == {0, 8} and (runs == 0).mean() == pytest.approx(0.5, abs=0.01)


def test_the_refit_is_the_least_squares_fit():
    one = block(outputs=5, width=40)
    sparse = sparsify(one, 0.5, "any")
    for row, cross in zip(sparse, one.cross, strict=True):
        kept = np.flatnonzero(row)
        np.testing.assert_allclose(row[kept], np.linalg.solve(one.moments[np.ix_(kept, kept)], cross[kept]), atol=0.02)


def test_a_pattern_that_costs_more_freedom_costs_more():
    one = block(width=144)
    losses = [one.loss(sparsify(one, 0.5, pattern)) for pattern in ("any", "2:4", "block4")]
    assert losses == sorted(losses)


def test_the_pass():
    model = ir.load(residual())
    ctx, original = context(model), ir.clone(model)
    assert PruneWeights(sparsity=0.5).run(model, ctx) == len(find_sites(model))
    verify(model)
    assert all(share == pytest.approx(0.5, abs=0.02) for share in density(model).values())
    assert any("no runtime faster" in warning for warning in ctx.warnings)
    plain = ir.clone(original)
    PruneWeights(sparsity=0.5).run(plain, Context())
    data = ctx.data[0]
    errors = [np.square(run(each, data)[0] - run(original, data)[0]).mean() for each in (model, plain)]
    assert errors[0] < errors[1]
    sizes = [len(zlib.compress(ir.to_proto(each).SerializeToString())) for each in (model, original)]
    assert sizes[0] < 0.75 * sizes[1]


@pytest.mark.parametrize("name", ["mobile", "resnext", "decoder", "attention", "shared_weights", "conv_gru"])
def test_layers_of_every_kind(name):
    model = ir.load(PATTERNS[name]())
    PruneWeights(sparsity=0.4, pattern="any").run(model, context(model))
    verify(model)
    assert np.isfinite(run(model, feeds(model))[0]).all()


def test_layers_left_out():
    model = ir.load(residual())
    ctx = Context()
    PruneWeights(ignore="Gemm", only="Conv*,Gemm*").run(model, ctx)
    assert [share for name, share in density(model).items() if "Gemm" in name] == [1.0]
    assert any("Gemm" in skipped.place for skipped in ctx.skipped)


def test_a_weight_shared_with_a_layer_left_out_stays():
    model = ir.load(PATTERNS["shared_weights"]())
    names = [node.name for node in model.graph if node.op_type == "Conv"]
    ctx = Context()
    assert PruneWeights(ignore=names[2]).run(model, ctx) == len(find_sites(model)) - 2
    assert density(model)[names[1]] == 1.0
    assert f"it shares its weight with '{names[2]}', which is excluded" in {each.reason for each in ctx.skipped}


@pytest.mark.parametrize("options", [{"sparsity": 1.0}, {"pattern": "4:2"}, {"pattern": "block0"}, {"pattern": "x"}])
def test_bad_options(options):
    with pytest.raises(UsageError, match=str(next(iter(options)))):
        PruneWeights(**options)
