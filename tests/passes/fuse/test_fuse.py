"""The rounding passes: before and after, the count of rewrites, and the twins that must not match."""

from __future__ import annotations

import pytest

from tests.passes.fuse.fusing import model, rewritten

NORM = "BatchNormalization(c, s, t, m, v)"
PARAMETERS = "float[4] s, float[4] t, float[4] m, float[4] v"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"g (float[N,3,8,8] x) => (float[N,4,a,b] y) <float[4,3,3,3] w, {PARAMETERS}> "
            f"{{ c = Conv(x, w)  y = {NORM} }}",
            "1: Conv",
        ),
        (
            f"g (float[N,3,8,8] x) => (float[N,4,a,b] y) <float[4,3,3,3] w, float[4] b, {PARAMETERS}> "
            f"{{ c = Conv<pads=[1,1,1,1]>(x, w, b)  y = {NORM} }}",
            "1: Conv",
        ),
        (
            f"g (float[N,4,8] x) => (float[N,4,a] y) <float[4,2,3] w, {PARAMETERS}> "
            f"{{ c = Conv<group=2>(x, w)  y = {NORM} }}",
            "1: Conv",
        ),
        (
            f"g (float[N,6,8,8] x) => (float[N,4,a,b] y) <float[6,2,3,3] w, {PARAMETERS}> "
            f"{{ c = ConvTranspose<group=2, strides=[2,2]>(x, w)  y = {NORM} }}",
            "1: ConvTranspose",
        ),
        (
            f"g (float[N,5] x) => (float[N,4] y) <float[5,4] w, float[4] b, {PARAMETERS}> "
            f"{{ c = Gemm<alpha=0.5, beta=2.0>(x, w, b)  y = {NORM} }}",
            "1: Gemm",
        ),
        (
            f"g (float[N,5] x) => (float[N,4] y) <float[4,5] w, {PARAMETERS}> "
            f"{{ c = Gemm<transB=1>(x, w)  y = {NORM} }}",
            "1: Gemm",
        ),
        (
            f"g (float[N,5] x) => (float[N,4] y) <float[5,4] w, float[N,4] c, {PARAMETERS}> "
            f"{{ c = MatMul(x, w)  y = {NORM} }}",
            "1: MatMul Add",
        ),
        (
            f"g (float[N,4,8,8] c) => (float[N,3,a,b] y) <float[3,4,3,3] w, {PARAMETERS}> "
            f"{{ n = {NORM}  y = Conv(n, w) }}",
            "1: Conv",
        ),
    ],
)
def test_batch_norm_is_folded(text: str, expected: str) -> None:
    assert rewritten(model(text), "fold-batch-norm")[0] == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # the convolution's output is used elsewhere
        (
            f"g (float[N,3,8,8] x) => (float[N,4,a,b] y, float[N,4,a,b] z) <float[4,3,3,3] w, {PARAMETERS}> "
            f"{{ c = Conv(x, w)  y = {NORM}  z = Relu(c) }}",
            None,
        ),
        # the statistics are not constant
        (
            "g (float[N,3,8,8] x, float[4] m) => (float[N,4,a,b] y) "
            "<float[4,3,3,3] w, float[4] s, float[4] t, float[4] v> "
            f"{{ c = Conv(x, w)  y = {NORM} }}",
            None,
        ),
        # before a padded convolution
        (
            f"g (float[N,4,8,8] c) => (float[N,3,a,b] y) <float[3,4,3,3] w, {PARAMETERS}> "
            f"{{ n = {NORM}  y = Conv<pads=[1,1,1,1]>(n, w) }}",
            "padding",
        ),
        # a product of three axes is normalized along its middle one
        (
            f"g (float[N,4,5] x) => (float[N,4,4] y) <float[5,4] w, float[N,4,4] c, {PARAMETERS}> "
            f"{{ c = MatMul(x, w)  y = {NORM} }}",
            "two axes",
        ),
    ],
)
def test_batch_norm_stays(text: str, reason: str | None) -> None:
    before = model(text)
    after, reasons = rewritten(before, "fold-batch-norm")
    assert after == "0: " + " ".join(n.op_type for n in before.graph)
    if reason is not None:
        assert any(reason in r for r in reasons)


def test_batch_norm_keeps_a_shared_weight_for_the_other_user() -> None:
    before = model(
        f"g (float[N,3,8,8] x) => (float[N,4,a,b] y, float[N,4,a,b] z) "
        f"<float[4,3,3,3] w, float[4] b, {PARAMETERS}> "
        f"{{ c = Conv(x, w, b)  y = {NORM}  d = Conv(x, w, b)  z = Relu(d) }}"
    )
    assert rewritten(before, "fold-batch-norm")[0] == "1: Conv Conv Relu"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "g (float[N,3,8,8] x) => (float[N,4,a,b] y) <float[4,3,3,3] w, float[1,4,1,1] k> "
            "{ c = Conv(x, w)  y = Mul(k, c) }",
            "1: Conv",
        ),
        (
            "g (float[N,3,8,8] x) => (float[N,4,a,b] y) <float[4,3,3,3] w, float[4] b, float[4,1,1] k> "
            "{ c = Conv(x, w, b)  y = Sub(k, c) }",
            "1: Conv",
        ),
        (
            "g (float[N,3,8,8] x) => (float[N,4,a,b] y) <float[4,3,3,3] w, float k> { c = Conv(x, w)  y = Div(c, k) }",
            "1: Conv",
        ),
        (
            "g (float[N,3,8,8] x) => (float[N,4,a,b] y) <float[4,3,3,3] w, float[1,4,1,1] k, float[1,4,1,1] l> "
            "{ c = Conv(x, w)  d = Mul(c, k)  y = Add(d, l) }",
            "2: Conv",
        ),
        ("g (float[N,5] x) => (float[N,4] y) <float[5,4] w, float[4] k> { c = Gemm(x, w)  y = Mul(c, k) }", "1: Gemm"),
        (
            "g (float[N,7,5] x) => (float[N,7,4] y) <float[5,4] w, float[4] k> { c = MatMul(x, w)  y = Mul(c, k) }",
            "1: MatMul",
        ),
        (
            "g (float[N,3,8,8] x) => (float[N,4,a,b] y) <float[4,3,3,3] w, float[1,3,1,1] k> "
            "{ c = Mul(x, k)  y = Conv<pads=[1,1,1,1]>(c, w) }",
            "1: Conv",
        ),
        (
            "g (float[N,3,8,8] x) => (float[N,4,a,b] y) <float[4,3,3,3] w, float[1,3,1,1] k> "
            "{ c = Sub(k, x)  y = Conv(c, w) }",
            "1: Conv",
        ),
    ],
)
def test_scale_is_folded(text: str, expected: str) -> None:
    assert rewritten(model(text), "fold-scale")[0] == expected


@pytest.mark.parametrize(
    "text",
    [
        # along the width, not the channels
        "g (float[N,3,8,4] x) => (float[N,4,8,4] y) <float[4,3,1,1] w, float[4] k> { c = Conv(x, w)  y = Mul(c, k) }",
        # the constant makes the result larger
        "g (float[N,3,8,8] x) => (float[M,N,4,a,b] y) <float[4,3,3,3] w, float[2,1,1,1,1] k> "
        "{ c = Conv(x, w)  y = Mul(c, k) }",
        "g (float[N,3,8,8] x) => (float[N,4,a,b] y) <float[1,3,3,3] w, float[1,4,1,1] k> "
        "{ c = Conv(x, w)  y = Mul(c, k) }",
        # divides by the layer
        "g (float[N,3,8,8] x) => (float[N,4,a,b] y) <float[4,3,3,3] w, float[4] b, float k> "
        "{ c = Conv(x, w, b)  d = Abs(c) y = Div(k, d) }",
        # a shift before a padded layer
        "g (float[N,3,8,8] x) => (float[N,4,a,b] y) <float[4,3,3,3] w, float[1,3,1,1] k> "
        '{ c = Add(x, k)  y = Conv<auto_pad="SAME_UPPER">(c, w) }',
        # the constant makes three channels of one before the layer
        "g (float[N,1,8,8] x) => (float[N,4,a,b] y) <float[4,3,3,3] w, float[1,3,1,1] k> "
        "{ c = Mul(x, k)  y = Conv(c, w) }",
    ],
)
def test_scale_stays(text: str) -> None:
    before = model(text)
    assert rewritten(before, "fold-scale")[0] == "0: " + " ".join(n.op_type for n in before.graph)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "g (float[N,3,8,8] x) => (float[N,4,a,b] y) <float[4,3,3,3] w, int64[8] p = {0,0,1,2,0,0,3,0}> "
            "{ c = Pad(x, p)  y = Conv<pads=[1,0,0,1]>(c, w) }",
            "1: Conv",
        ),
        (
            "g (float[N,3,8,8] x) => (float[N,3,a,b] y) <int64[8] p = {0,0,1,1,0,0,1,1}> "
            "{ c = Pad(x, p)  y = AveragePool<kernel_shape=[3,3], count_include_pad=1>(c) }",
            "1: AveragePool",
        ),
        # twins
        (
            "g (float[N,3,8,8] x) => (float[N,4,a,b] y) <float[4,4,3,3] w, int64[8] p = {0,1,1,2,0,0,3,0}> "
            "{ c = Pad(x, p)  y = Conv(c, w) }",
            "0: Pad Conv",
        ),
        (
            "g (float[N,3,8,8] x) => (float[N,4,a,b] y) <float[4,3,3,3] w, int64[8] p = {0,0,-1,0,0,0,0,0}> "
            "{ c = Pad(x, p)  y = Conv(c, w) }",
            "0: Pad Conv",
        ),
        (
            "g (float[N,3,8,8] x) => (float[N,4,a,b] y) <float[4,3,3,3] w, int64[8] p = {0,0,1,1,0,0,1,1}, "
            "float k = {1.0}> { c = Pad(x, p, k)  y = Conv(c, w) }",
            "0: Pad Conv",
        ),
        (
            "g (float[N,3,8,8] x) => (float[N,4,a,b] y) <float[4,3,3,3] w, int64[8] p = {0,0,1,1,0,0,1,1}> "
            '{ c = Pad<mode="reflect">(x, p)  y = Conv(c, w) }',
            "0: Pad Conv",
        ),
        (
            "g (float[N,3,8,8] x) => (float[N,3,a,b] y) <int64[8] p = {0,0,1,1,0,0,1,1}> "
            "{ c = Pad(x, p)  y = AveragePool<kernel_shape=[3,3]>(c) }",
            "0: Pad AveragePool",
        ),
        (
            "g (float[N,3,8,8] x) => (float[N,4,a,b] y) <float[4,3,3,3] w, int64[8] p = {0,0,1,1,0,0,1,1}> "
            '{ c = Pad(x, p)  y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(c, w) }',
            "0: Pad Conv",
        ),
    ],
)
def test_pad(text: str, expected: str) -> None:
    assert rewritten(model(text), "fuse-pad")[0] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "g (float[N,5] x) => (float[N,4] y) <float[5,4] w, float[4] b> { c = MatMul(x, w)  y = Add(b, c) }",
            "1: Gemm",
        ),
        (
            "g (float[N,7,5] x) => (float[N,7,4] y) <float[5,4] w, float[4] b> { c = MatMul(x, w)  y = Add(c, b) }",
            "0: MatMul Add",
        ),
        (
            "g (float[3,5] x) => (float[3,4] y) <float[5,4] w, float[3,4] b> { c = MatMul(x, w)  y = Add(c, b) }",
            "0: MatMul Add",
        ),
        (
            "g (float[3,5] x) => (float[3,4] y) <float[5,1] w, float[4] b> { c = MatMul(x, w)  y = Add(c, b) }",
            "0: MatMul Add",
        ),
    ],
)
def test_matmul_add(text: str, expected: str) -> None:
    assert rewritten(model(text), "matmul-add-to-gemm")[0] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("g (float[N,4] x) => (float[N,4] y) { a = Relu(x)  y = Relu(a) }", "1: Relu"),
        ("g (float[N,4] x) => (float[N,4] y) <float l = {0.0}> { y = Clip(x, l) }", "1: Relu"),
        (
            "g (float[N,4] x) => (float[N,4] y) <float l = {-1.0}, float h = {1.0}> { a = Relu(x)  y = Clip(a, l, h) }",
            "1: Clip",
        ),
        (
            "g (float[N,4] x) => (float[N,4] y) <float l = {-1.0}, float h = {1.0}, float k = {0.5}> "
            "{ a = Clip(x, l, h)  y = Clip(a, k) }",
            "1: Clip",
        ),
        # the ranges do not overlap: still a Clip, to one point
        (
            "g (float[N,4] x) => (float[N,4] y) <float l = {-2.0}, float h = {-1.0}> { a = Clip(x, l, h)  y = Relu(a) }",
            "1: Clip",
        ),
        # twins
        (
            "g (float[N,4] x) => (float[N,4] y, float[N,4] z) { a = Relu(x)  y = Relu(a)  z = Neg(a) }",
            "0: Relu Relu Neg",
        ),
        ("g (float[N,4] x, float l) => (float[N,4] y) { a = Relu(x)  y = Clip(a, l) }", "0: Relu Clip"),
    ],
)
def test_activations(text: str, expected: str) -> None:
    assert rewritten(model(text), "merge-activations")[0] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("g (float[N,4] x) => (float[N,4] y) <float[4] a, float b> { c = Mul(a, x)  y = Mul(c, b) }", "1: Mul"),
        ("g (float[N,4] x) => (float[N,4] y) <float[4] a, float[1,4] b> { c = Add(x, a)  y = Add(b, c) }", "1: Add"),
        ("g (float[N,4] x) => (float[N,4] y) <float[4] a, float b> { c = Add(x, a)  y = Mul(c, b) }", "0: Add Mul"),
        # the product would be larger than both
        (
            "g (float[N,4,4] x) => (float[N,4,4] y) <float[4,1] a, float[4] b> { c = Mul(x, a)  y = Mul(c, b) }",
            "0: Mul Mul",
        ),
    ],
)
def test_constants(text: str, expected: str) -> None:
    assert rewritten(model(text), "merge-constants")[0] == expected
