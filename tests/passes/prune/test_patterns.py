"""Every pattern is pruned by half: it runs in both executors, gets as small as it should, and zeros leave no trace."""

from __future__ import annotations

import numpy as np
import pytest

from lwgraph import ir
from lwgraph.measure.work import count
from lwgraph.views.coupling import couple_channels
from tests.passes.prune.networks import PATTERNS, dense_concat, resnet18, squeeze_excite
from tests.passes.prune.pruning import assert_same, cut, feeds, parameters, run, some, with_zeros

# Parameters kept when every group that can loses half of its channels. The first eight patterns are those on which
# other pruners break or stop (kept by the best of them, on networks of the same kind: 0.26, 0.43, 0.26, 0.26, 0.34,
# none, 0.27, none).
KEPT = {
    "plain": 0.26,
    "flatten_gemm": 0.27,
    "residual": 0.26,
    "dense_concat": 0.29,
    "mobile": 0.34,
    "shuffle": 0.38,
    "squeeze_excite": 0.28,
    "conv_gru": 0.28,
    "conv_lstm": 0.28,
    "conv_rnn": 0.32,
    "c2f": 0.28,
    "unet": 0.27,
    "decoder": 0.31,
    "resnext": 0.29,
    "attention": 0.29,
    "attention_qkv": 0.29,
    "two_inputs": 0.46,
    "shared_bias": 0.29,
    "shared_weights": 0.31,
    "pixel_shuffle": 0.27,
}


@pytest.mark.parametrize("name", PATTERNS)
def test_half(name):
    model, rng = ir.load(PATTERNS[name]()), np.random.default_rng(0)
    choice = {group.number: some(group, rng) for group in couple_channels(model).prunable}
    pruned = cut(model, choice)
    assert round(parameters(pruned) / parameters(model), 2) <= KEPT[name]
    data = feeds(model)
    assert_same(run(pruned, data), run(pruned, data, "reference"))
    assert run(pruned, feeds(model, batch=3))[0].shape == run(model, feeds(model, batch=3))[0].shape


@pytest.mark.parametrize(("make", "kept"), [(lambda: dense_concat(32, 32), 0.26), (lambda: squeeze_excite(48), 0.27)])
def test_half_of_wider_networks(make, kept):
    """In the small ones, biases and the layers at both ends, which lose half and not three quarters, weigh more."""
    model, rng = ir.load(make()), np.random.default_rng(0)
    pruned = cut(model, {group.number: some(group, rng) for group in couple_channels(model).prunable})
    assert parameters(pruned) / parameters(model) <= kept


@pytest.mark.parametrize("name", PATTERNS)
def test_zeros_leave_no_trace(name):
    model, rng = ir.load(PATTERNS[name]()), np.random.default_rng(1)
    choice = {group.number: some(group, rng, 0.6) for group in couple_channels(model).prunable if not group.caveats}
    data = feeds(model)
    assert_same(run(cut(model, choice), data), run(with_zeros(model, choice), data))


def test_resnet18_by_half():
    """Torch-Pruning leaves 486 of 1,819 million multiply-accumulates."""
    model = ir.load(resnet18())
    coupling = couple_channels(model)
    choice = {group.number: np.arange(group.width // 2) for group in coupling.prunable}
    pruned = cut(model, choice)
    data = {"x": np.zeros((1, 3, 224, 224), np.float32)}
    before, after = macs(model), macs(pruned)
    assert 1_810e6 < before < 1_825e6 and after <= 486e6
    assert run(pruned, data)[0].shape == (1, 1000)


def macs(model: ir.Model) -> int:
    shapes = {
        value.name: [size if isinstance(size, int) else None for size in dims]
        for value, dims in ir.infer_shapes(model).items()
    }
    return count(model, shapes).macs
