"""early-stride and early-pool: what is thrown away or averaged is not computed first."""

from __future__ import annotations

import pytest

from tests.passes.fuse.fusing import model, rewritten

W = "<float[4,3,3,3] w, float[4] b, float[5,4,1,1] v, float[5] d>"
IN = "g (float[N,3,11,14] x) => (float[N,q,r,s] y)"
SLICE = "int64[2] starts = {0, 0}, int64[2] ends = {9223372036854775807, 2147483647}, int64[2] axes = {2, 3}"
SLICED = f"<float[4,3,3,3] w, float[4] b, {SLICE}, int64[2] steps = {{2, 3}}>"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # behind a convolution
        (f"{W} {{ c = Conv<pads=[1,0,0,1]>(x, w, b)  y = MaxPool<kernel_shape=[1,1], strides=[2,3]>(c) }}", "1: Conv"),
        (
            f"{W} {{ c = Conv<strides=[1,2], dilations=[2,1]>(x, w)  r = Relu(c) "
            "y = AveragePool<kernel_shape=[1,1], strides=[2,2]>(r) }",
            "1: Conv Relu",
        ),
        (f'{SLICED} {{ c = Conv<auto_pad="VALID">(x, w, b)  y = Slice(c, starts, ends, axes, steps) }}', "1: Conv"),
        # between two
        (
            f"{W} {{ c = Conv<pads=[1,1,1,1]>(x, w, b)  r = LeakyRelu<alpha=0.3>(c)  y = Conv<strides=[2,3]>(r, v, d) }}",
            "1: Conv LeakyRelu Conv",
        ),
        # before a 1 x 1 convolution
        (
            "<float[4,3,1,1] w, float[4] b> { p = MaxPool<kernel_shape=[1,1], strides=[2,3]>(x) "
            "y = Conv<strides=[1,2]>(p, w, b) }",
            "1: Conv",
        ),
        # twins: other windows, other places, other users
        (f"{W} {{ c = Conv(x, w, b)  y = MaxPool<kernel_shape=[2,1], strides=[2,2]>(c) }}", "0: Conv MaxPool"),
        (
            f"{W} {{ c = Conv(x, w, b)  y = MaxPool<kernel_shape=[1,1], strides=[2,2], ceil_mode=1>(c) }}",
            "0: Conv MaxPool",
        ),
        (
            SLICED.replace("{0, 0}", "{0, 1}") + " { c = Conv(x, w, b)  y = Slice(c, starts, ends, axes, steps) }",
            "0: Conv Slice",
        ),
        (
            SLICED.replace("9223372036854775807", "5")
            + " { c = Conv(x, w, b)  y = Slice(c, starts, ends, axes, steps) }",
            "0: Conv Slice",
        ),
        (
            SLICED.replace("{2, 3}, int64[2] steps", "{1, 3}, int64[2] steps")
            + " { c = Conv(x, w, b)  y = Slice(c, starts, ends, axes, steps) }",
            "0: Conv Slice",
        ),
        (f"{W} {{ p = MaxPool<kernel_shape=[1,1], strides=[2,2]>(x)  y = Conv(p, w, b) }}", "0: MaxPool Conv"),
        (f"{W} {{ c = Conv(x, w, b)  y = Conv<strides=[2,2], pads=[1,1,1,1]>(c, v, d) }}", "0: Conv Conv"),
        (f"{W} {{ c = Conv(x, w, b)  y = Conv(c, v, d) }}", "0: Conv Conv"),
        (
            f"{W} {{ c = Conv(x, w, b)  p = Conv<strides=[2,2]>(c, v, d)  q = Conv(c, v)  m = GlobalMaxPool(q) "
            "y = Add(p, m) }",
            "0: Conv Conv Conv GlobalMaxPool Add",
        ),
    ],
)
def test_early_stride(body, expected):
    assert rewritten(model(f"{IN} {body}"), "early-stride")[0] == expected


def test_automatic_padding_is_explained():
    body = f'{W} {{ c = Conv<auto_pad="SAME_UPPER">(x, w, b)  y = MaxPool<kernel_shape=[1,1], strides=[2,3]>(c) }}'
    assert rewritten(model(f"{IN} {body}"), "early-stride") == (
        "0: Conv MaxPool",
        ["auto_pad decides the layer's padding from its stride"],
    )


P = "<float[8,3,1,1] w, float[8] b>"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"{P} {{ c = Conv(x, w, b)  y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(c) }}", "1: AveragePool Conv"),
        (
            f"{P} {{ c = Conv(x, w, b)  y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,0,1,1]>(c) }}",
            "1: AveragePool Conv",
        ),
        (
            f"{P} {{ c = Conv(x, w, b)  y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(c) }}",
            "1: AveragePool Conv",
        ),
        (
            f"{P} {{ c = Conv(x, w)  y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,0,1,1], "
            "count_include_pad=1>(c) }",
            "1: AveragePool Conv",
        ),
        (f"{P} {{ c = Conv(x, w, b)  y = GlobalAveragePool(c) }}", "1: GlobalAveragePool Conv"),
        (f"{P} {{ c = Conv(x, w, b)  y = ReduceMean<axes=[2,-1]>(c) }}", "1: ReduceMean Conv"),
        # fewer channels behind the convolution, and nothing saved by the pool: as it is
        (
            "<float[8,3,1,1] u, float[3,8,1,1] w> { a = Conv(x, u)  t = Tanh(a)  c = Conv(t, w) "
            "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(c) }",
            "0: Conv Tanh Conv AveragePool",
        ),
        # twins
        (f"{W} {{ c = Conv(x, w, b)  y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(c) }}", "0: Conv AveragePool"),
        (f"{P} {{ c = Conv<strides=[2,2]>(x, w, b)  y = GlobalAveragePool(c) }}", "0: Conv GlobalAveragePool"),
        (f"{P} {{ c = Conv<pads=[1,1,1,1]>(x, w, b)  y = GlobalAveragePool(c) }}", "0: Conv GlobalAveragePool"),
        (f"{P} {{ c = Conv(x, w, b)  r = Relu(c)  y = GlobalAveragePool(r) }}", "0: Conv Relu GlobalAveragePool"),
        (f"{P} {{ c = Conv(x, w, b)  y = ReduceMean<axes=[1,2]>(c) }}", "0: Conv ReduceMean"),
        (
            f"{P} {{ c = Conv(x, w, b)  r = ReduceMean<axes=[2,3], keepdims=0>(c)  y = Unsqueeze(r, a) }}".replace(
                "float[8] b", "float[8] b, int64[2] a = {2, 3}"
            ),
            "0: Conv ReduceMean Unsqueeze",
        ),
    ],
)
def test_early_pool(body, expected):
    assert rewritten(model(f"{IN} {body}"), "early-pool")[0] == expected


@pytest.mark.parametrize("how", ["pads=[1,0,1,1]", 'auto_pad="SAME_LOWER"', "ceil_mode=1"])
def test_padding_that_counts_and_a_bias_do_not_commute(how):
    body = f"{P} {{ c = Conv(x, w, b)  y = AveragePool<kernel_shape=[3,3], strides=[2,2], {how}, count_include_pad=1>(c) }}"
    before, refused = rewritten(model(f"{IN} {body}"), "early-pool")
    assert before == "0: Conv AveragePool" and "the bias does not hold there" in refused[0]


def test_a_mean_with_axes_as_input():
    body = "<float[8,3,1,1] w, int64[2] a = {2, 3}> { c = Conv(x, w)  y = ReduceMean(c, a) }"
    assert rewritten(model(f"{IN} {body}", opset=18), "early-pool")[0] == "1: ReduceMean Conv"


def test_more_channels_to_average_are_refused():
    body = "<float[2,64,1,1] w> { c = Conv(x, w)  y = AveragePool<kernel_shape=[8,8]>(c) }"
    before, refused = rewritten(model(f"{IN} {body}".replace("N,3,", "N,64,")), "early-pool")
    assert before == "0: Conv AveragePool" and "64 instead of 2 channels" in refused[0]
