"""Half the resolution where it is enough."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.calibrate.statistics import Statistics
from lwgraph.check import verify
from lwgraph.errors import DataError
from lwgraph.layers.moments import Moments, Pooled
from lwgraph.layers.substitute import formed, small_model
from lwgraph.passes.forms._halved import HalvedPatches, halve
from lwgraph.passes.forms.octave import Octave
from lwgraph.rewrite import Context, Pass
from lwgraph.testing.layers import SampleLayer, make_layer, moments_on, patches

GEOMETRIES = [
    {"pads": (1, 1, 1, 1)}, {}, {"strides": (2, 1), "pads": (0, 1, 2, 0)}, {"dilations": (2, 3), "strides": (3, 2)},
    {"auto_pad": "SAME_UPPER"},
]  # fmt: skip


def layer(shape=(2, 32, 12, 12), weight=(32, 32, 3, 3), **attributes):
    return SampleLayer("layer", make_layer("Conv", shape, weight, **attributes), shape)


@pytest.mark.parametrize("attributes", GEOMETRIES)
def test_moments_of_white_inputs(attributes):
    made = layer((4000, 1, 22, 20), (2, 1, 3, 3), **attributes)
    seen = HalvedPatches.at(made.site)
    x = np.random.default_rng(0).standard_normal(made.shape)
    grid = seen.grid(x.shape)
    # Whole pairs, far from the padding.
    inner = [range(4, 4 + 2 * ((size - 8) // 2)) if size > 10 else range(2, 4) for size in grid]
    at = np.arange(np.prod((4000, *grid))).reshape(4000, *grid)[:, inner[0]][:, :, inner[1]].reshape(-1)
    rows = seen.rows(x, at)[:, 0]
    assert np.allclose(rows.T @ rows / len(rows), seen.white(1), atol=0.05)


def test_halved_images_average_what_there_is():
    x = np.arange(15.0).reshape(1, 1, 3, 5)
    assert np.array_equal(halve(x)[0, 0], [[3, 5, 6.5], [10.5, 12.5, 14]])


def test_low_frequency_channels_are_low():
    made, random = layer((20, 32, 12, 12)), np.random.default_rng(0)
    site, smooth = made.site, np.arange(0, 32, 2)
    noise = random.standard_normal(made.shape)
    slopes = random.standard_normal((2, 20, 16, 1, 1))
    x = noise.copy()
    x[:, smooth] = slopes[0] * np.linspace(-2, 2, 12) + slopes[1] * np.linspace(-2, 2, 12)[:, None]
    found = Octave(0.5).fit(site, moments_on(site, x))
    assert list(found.arrays["inputs"].astype(int)) == list(smooth) and found.error < 0.03
    assert Octave(0.5).fit(site, moments_on(site, noise)).error > 0.1


def test_smooth_outputs_are_low():
    made = layer(pads=(1, 1, 1, 1))
    site, flat = made.site, np.arange(1, 32, 2)
    site = site.with_weight(site.weight.copy(), site.bias)
    site.weight[flat] = site.weight[flat].mean((2, 3), keepdims=True)  # blurred
    found = Octave(0.0, 0.5).fit(site, moments_on(site, made.samples()))
    assert list(found.arrays["outputs"].astype(int)) == list(flat)


def test_nothing_is_cut_where_sizes_are_even():
    site = layer(pads=(1, 1, 1, 1)).site
    fitted = Octave(0.5, 0.5).fit(site, Moments(site))
    for size, cut in ((12, False), (13, True), (None, True)):
        kinds = [node.op_type for node in small_model(site, formed(fitted), (1, 32, size, size), 17).graph]
        assert ("Slice" in kinds) == cut


def test_moments_of_the_patches_alone_do_not_do():
    made = layer()
    site = made.site
    found = patches(site, made.samples())
    gram = Pooled(found.swapaxes(1, 2) @ found / found.shape[1], found.mean(1), found.shape[1])
    with pytest.raises(DataError, match="only the moments of its own input patches"):
        Octave().fit(site, Moments(site, gram))


def test_as_a_pass_with_statistics():
    model = layer((4, 32, 15, 12), pads=(1, 1, 1, 1)).model
    feeds = [{"x": layer((4, 32, 15, 12)).samples(seed)} for seed in range(4)]
    executor = registry.executor("ort")
    before = executor.prepare(model)(feeds[0])["y"]
    runs = []
    statistics = Statistics(model, feeds, executor, progress=lambda what, done, total: runs.append(done))
    context = Context(statistics=statistics, reference=registry.executor("reference"))
    assert Pass.parse("octave{inputs=0.5,outputs=0.25}").run(model, context) == 1, context.skipped
    assert "Resize" in [node.op_type for node in model.graph] and runs == [1, 2, 3, 4]  # one run over the data
    after = executor.prepare(ir.clone(model))(feeds[0])["y"]
    assert 0 < np.square(after - before).sum() / np.square(before - before.mean()).sum() < 0.3


@pytest.mark.parametrize("opset", [11, 12, 13])
def test_a_resize_has_the_region_that_its_opset_asks_for(opset: int) -> None:
    weight = np.random.default_rng(0).standard_normal((32, 32, 3, 3)).astype(np.float32) / 17
    sizes = [2, 32, 12, 12]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1, 1, 1, 1])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, sizes)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7))
    run = registry.executor("ort").prepare
    x = np.random.default_rng(1).standard_normal(sizes).astype(np.float32)
    assert Pass.parse("octave").run(model, Context(reference=registry.executor("ort"))) == 1
    verify(model)
    assert np.isfinite(run(model)({"x": x})["y"]).all()
