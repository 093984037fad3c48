import numpy as np
import pytest

from lwgraph.errors import UsageError
from lwgraph.layers.form import parse_form
from lwgraph.layers.moments import Moments, Pooled
from lwgraph.passes.forms.low_rank import LowRank
from lwgraph.testing.layers import SampleLayer, layers, make_layer, patches

LAYERS = {layer.name: layer for layer in layers()}


def moments(layer: SampleLayer, seed: int = 0) -> Moments:
    found = patches(layer.site, layer.samples(seed))
    gram = Pooled(found.swapaxes(1, 2) @ found / found.shape[1], found.mean(1), found.shape[1])
    return Moments(layer.site, gram)


def test_text_and_sizes():
    site = LAYERS["plain"].site
    assert str(parse_form("low-rank{rank=32,split=output}")) == "low-rank{rank=32,split=output}"
    assert LowRank(ratio=0.5).at(site) == LowRank(16, split="spatial")
    assert LowRank(ratio=0.9).at(LAYERS["pointwise"].site) == LowRank(40, split="output")  # 48 is more than the rank
    assert LowRank(rank=500).at(site).rank == LowRank.full(site).rank == 60
    for text in ("low-rank{rank=-1}", "low-rank{ratio=0}", "low-rank{split=diagonal}", "low-rank{size=3}", "low-rnk"):
        with pytest.raises(UsageError):
            parse_form(text)


def test_output_split_is_the_optimum_of_reduced_rank_regression():
    layer = LAYERS["pointwise"]
    m = moments(layer)
    block = m.blocks[0]
    values = np.linalg.eigvalsh(block.matrix @ block.moments @ block.matrix.T)  # Zhang et al. 2015, linear case
    fitted = LowRank(16, split="output").fit(layer.site, m)
    assert np.isclose(block.loss(fitted.kernel), values[:-16].sum(), rtol=1e-6)


def test_samples_help_where_inputs_are_correlated():
    layer = LAYERS["plain"]
    m = moments(layer)
    for split in ("spatial", "vertical", "output", "input"):
        form = LowRank(16, split=split)
        plain = m.error(form.fit(layer.site, Moments(layer.site)).kernel)
        assert form.fit(layer.site, m).error < 0.6 * plain


def test_spatial_takes_the_better_order():
    layer = LAYERS["plain"]
    m = moments(layer)
    errors = {split: LowRank(16, split=split).fit(layer.site, m).error for split in ("vertical", "horizontal")}
    best = LowRank(16, split="spatial").fit(layer.site, m)
    assert best.error == min(errors.values()) < max(errors.values())
    assert best.form.split == min(errors, key=errors.get)


def test_zero_weight():
    layer = SampleLayer("zero", make_layer("Conv", (3, 20, 9, 9), (24, 20, 3, 3)), (3, 20, 9, 9))
    site = layer.site
    site = site.with_weight(np.zeros_like(site.weight), site.bias)
    fitted = LowRank(16).fit(site, Moments(site))
    assert not fitted.kernel.any() and fitted.error == 0
