"""Every built-in form keeps its promises over the grid of layers, at sizes on and off its menu."""

from dataclasses import replace

import numpy as np
import pytest

from lwgraph import registry
from lwgraph.errors import UsageError
from lwgraph.layers.form import parse_form
from lwgraph.layers.moments import Moments
from lwgraph.passes.forms.cp import Cp
from lwgraph.passes.forms.depthwise import Depthwise
from lwgraph.passes.forms.fire import Fire
from lwgraph.passes.forms.ghost import Ghost
from lwgraph.passes.forms.grouped import Grouped
from lwgraph.passes.forms.low_rank import LowRank
from lwgraph.passes.forms.octave import Octave
from lwgraph.passes.forms.shift import Shift, pursue
from lwgraph.passes.forms.shuffle import Shuffle
from lwgraph.passes.forms.smaller_kernel import SmallerKernel
from lwgraph.passes.forms.tucker import Tucker
from lwgraph.testing.forms import check_form
from lwgraph.testing.layers import SampleLayer, layers, make_layer, moments_on
from tests.passes.forms.sampled import sampled

LAYERS = {layer.name: layer for layer in layers()}
SIZES = {
    "cp": [Cp(5), Cp(20)],
    "depthwise": [Depthwise(1, "pw-dw"), Depthwise(2), Depthwise(4, "pw-dw"), Depthwise(4, "dw-pw")],
    "fire": [Fire(5), Fire(9, share=0.2), Fire(9, share=1.0)],
    "ghost": [Ghost(5), Ghost(11), Ghost(5, cheap="depthwise"), Ghost(12, cheap="depthwise")],
    "grouped": [Grouped(2, 4), Grouped(2, 9), Grouped(2, pointwise=False), Grouped(4, 3), Grouped(99, 2)],
    "low-rank": [LowRank(5, split=split) for split in ("spatial", "vertical", "horizontal", "output", "input")],
    "octave": [Octave(), Octave(0.0, 0.3), Octave(0.2, 0.2)],
    "shift": [Shift(kind, columns) for kind in ("per-channel", "free", "joint") for columns in (7, 40)]
    + [Shift("free", 18, penalty=0.5), Shift("per-channel", 1, penalty=1.0)],
    "shuffle": [Shuffle(), Shuffle(2, 3), Shuffle(4, 1), Shuffle(99, ratio=2.0)],
    "smaller-kernel": [SmallerKernel(), SmallerKernel("1"), SmallerKernel("2x3"), SmallerKernel(cross=True)],
    "tucker": [Tucker(5, 7), Tucker(12, 16)],
}


def test_every_registered_form_is_here():
    built_in = {name for name in registry.names("forms") if registry.form_class(name).__module__.startswith("lwgraph.")}
    assert built_in == set(SIZES)


# The geometry of emission is common to all; low-rank meets every layer, the others those that differ for them.
FEW = ("plain", "strided", "dilated", "same-upper", "oblong", "one-dimensional")
GRID = [(name, layer) for name in SIZES for layer in LAYERS if name == "low-rank" or layer in FEW]
GRID += [("tucker", layer) for layer in ("grouped", "transposed", "transposed-grouped")]
GRID += [("smaller-kernel", layer) for layer in ("same-lower", "valid", "row", "grouped")]
GRID += [("shuffle", layer) for layer in ("pointwise", "pointwise-strided")]
GRID += [("octave", layer) for layer in ("same-lower", "valid", "pointwise", "pointwise-strided")]
GRID += [("ghost", layer) for layer in ("pointwise", "gemm", "matmul", "transposed")]


@pytest.mark.parametrize(("name", "layer"), GRID)
def test_keeps_its_promises(name, layer):
    form = registry.form_class(name)
    # onnx's reference ConvTranspose cannot do groups, so those layers are run by ONNX Runtime.
    runner = registry.executor("ort" if layer.startswith("transposed") else "reference")
    check_form(form, on=[LAYERS[layer]], sizes=lambda site: [size.at(site) for size in SIZES[name]], reference=runner)


@pytest.mark.parametrize("name", SIZES)
def test_what_a_form_cannot_take_it_refuses_with_a_reason(name):
    form = registry.form_class(name)
    for layer in LAYERS.values():
        site = layer.site
        if form.refusal(site):
            assert name != "low-rank" and (site.group > 1 or site.kind != "conv" or site.taps == 1)
        elif name == "ghost":
            assert site.group == 1
        elif name in ("octave", "shuffle"):
            assert site.group == 1 and site.kind == "conv"
        elif name == "smaller-kernel":
            assert site.kind == "conv" and site.taps > 1
        elif name not in ("low-rank", "tucker"):
            assert site.group == 1 and site.kind == "conv" and site.taps > 1


TEXTS = [str(size) for sizes in SIZES.values() for size in sizes] + ["shift{kind=free,ratio=0.5}"]


@pytest.mark.parametrize("text", TEXTS)
def test_blank_weights_have_the_shapes_of_fitted_ones(text):
    site, moments = sampled()
    form = parse_form(text).at(site)
    fitted, blank = form.fit(site, moments), form.blank(site)
    if fitted.form == blank.form:  # "auto" and "spatial" may settle on another order
        assert {k: v.shape for k, v in fitted.arrays.items()} == {k: v.shape for k, v in blank.arrays.items()}


@pytest.mark.parametrize(
    "text",
    [
        "cp{rank=-1}",
        "cp{ratio=0}",
        "depthwise{terms=0}",
        "depthwise{order=pw}",
        "grouped{groups=0}",
        "octave{inputs=1}",
        "octave{outputs=-0.1}",
        "fire{squeeze=-1}",
        "fire{share=2}",
        "fire{ratio=0}",
        "ghost{primary=-1}",
        "ghost{ratio=2}",
        "grouped{rank=-1}",
        "grouped{pointwise=maybe}",
        "shift{columns=-1}",
        "shift{ratio=0}",
        "shift{penalty=2}",
        "shift{kind=bit}",
        "tucker{inputs=-1}",
        "shuffle{groups=0}",
        "shuffle{rank=-1}",
        "shuffle{ratio=0}",
        "smaller-kernel{size=0}",
        "smaller-kernel{size=big}",
        "smaller-kernel{size=2,cross=true}",
        "tucker{ratio=2}",
    ],
)
def test_wrong_options(text):
    with pytest.raises(UsageError):
        parse_form(text)


@pytest.mark.parametrize("name", sorted(SIZES))
@pytest.mark.parametrize("inputs", ["zero", "constant", "rank-deficient"])
def test_degenerate_inputs(name, inputs):
    layer = SampleLayer("plain", make_layer("Conv", (3, 20, 9, 9), (24, 20, 3, 3)), (3, 20, 9, 9))
    x = layer.samples()
    if inputs == "rank-deficient":
        x[:, 10:] = x[:, :10]
    else:
        x[:] = 0 if inputs == "zero" else 2
    m = moments_on(layer.site, x)
    for size in SIZES[name]:
        fitted = size.at(layer.site).fit(layer.site, m)
        assert np.isfinite(fitted.kernel).all() and np.isfinite(fitted.shift).all() and fitted.error >= 0
        assert inputs == "rank-deficient" or fitted.error == 0  # nothing varies


@pytest.mark.parametrize("text", [str(SIZES[name][0]) for name in sorted(SIZES)])
def test_float32_moments_of_wide_layers_lose_nothing(text, monkeypatch):
    site, moments = sampled()
    form = parse_form(text).at(site)
    exact = form.fit(site, moments)
    for module in ("lwgraph.layers.moments", "lwgraph.passes.forms.smaller_kernel"):
        monkeypatch.setattr(f"{module}.WIDE", 1)
    monkeypatch.setattr("lwgraph.layers.moments.RIDGED", 0.0)
    site, moments = sampled()
    fitted = form.fit(site, moments)
    assert moments.blocks[0].working.dtype == np.float32
    assert fitted.error == pytest.approx(exact.error, rel=2e-3)


def test_pursuit_finds_the_columns_that_matter():
    _, moments = sampled()
    block = moments.blocks[0]
    wanted = np.array([4, 13, 17, 100, 200, 285])
    sparse = np.zeros_like(block.matrix)
    sparse[:, wanted] = np.random.default_rng(0).standard_normal((len(sparse), len(wanted)))
    twin = replace(block, weight=sparse.reshape(block.weight.shape), cache={})
    assert set(pursue(twin, 12, 9, 4, 0.0, per_channel=False)) >= set(wanted)


def test_per_channel_pursuit_takes_equally_many_of_each_channel():
    _, moments = sampled()
    picked = pursue(moments.blocks[0], 64, 9, 4, 0.0, per_channel=True)
    assert len(set(picked)) == 64 and (np.bincount(picked // 9) == 2).all()
    still = pursue(moments.blocks[0], 32, 9, 4, 1.0, per_channel=True)
    assert (still % 9 == 4).all()  # moving costs everything, so nothing moves


def test_cp_is_not_worse_than_the_joint_shift_it_starts_from():
    site, moments = sampled()
    for rank in (16, 48):
        assert Cp(rank).fit(site, moments).error <= Shift("joint", rank).fit(site, moments).error * (1 + 1e-9)


def test_depthwise_auto_takes_the_better_order():
    site, moments = sampled()
    errors = [Depthwise(2, order).fit(site, moments).error for order in ("dw-pw", "pw-dw")]
    assert Depthwise(2).fit(site, moments).error == min(errors)


def test_grouped_with_one_channel_per_group_is_depthwise_separable():
    site, moments = sampled()
    a, b = Grouped(32, 1).fit(site, moments).error, Depthwise(1, "dw-pw").fit(site, moments).error
    assert a == pytest.approx(b, rel=0.02)


def test_grouped_without_a_pointwise_layer_deals_channels_by_energy():
    shape = (4, 32, 12, 12)
    model = make_layer("Conv", shape, (32, 32, 3, 3), pads=(1, 1, 1, 1))
    layer = SampleLayer("blocks", model, shape)
    site = layer.site
    random = np.random.default_rng(0)
    groups = random.permutation(32) % 2, random.permutation(32) % 2
    weight = site.weight * (groups[0][:, None] == groups[1])[:, :, None, None]
    site = site.with_weight(weight, site.bias)  # two blocks, hidden by a shuffle
    assert Grouped(2, pointwise=False).fit(site, Moments(site)).error < 1e-12


def test_shuffle_of_a_pointwise_layer_is_a_monarch_projection():
    site, _ = sampled(weight=(32, 32, 1, 1))
    kernel = Shuffle(4, 1).fit(site, Moments(site)).kernel.reshape(4, 8, 4, 8)
    weight = site.weight.reshape(4, 8, 4, 8)
    for j, i in np.ndindex(4, 4):  # every block is the nearest of rank one (Dao et al. 2022)
        u, s, v = np.linalg.svd(weight[j, :, i])
        assert np.allclose(kernel[j, :, i], s[0] * np.outer(u[:, 0], v[0]))
