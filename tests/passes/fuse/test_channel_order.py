"""fold-channel-order: a Gather of channels vanishes into the weights around it."""

from __future__ import annotations

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.layers.form import parse_form
from lwgraph.layers.moments import Moments
from lwgraph.layers.site import find_sites
from lwgraph.layers.substitute import substitute
from lwgraph.passes.fuse.channel_order import channels
from lwgraph.rewrite import Context, Pass
from tests.passes.fuse.fusing import model, rewritten

IN = "g (float[N,3,9,9] x) => (float[N,q,r,s] y)"
C = "float[4,3,3,3] w, float[4] b"
ORDER = "int64[4] o = {2, 0, -1, 1}"
GATHER = "g = Gather<axis=1>"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # into the filters before it
        (f"<{C}, {ORDER}> {{ c = Conv(x, w, b)  y = Gather<axis=1>(c, o) }}", "1: Conv"),
        (f"<{C}, int64[2] o = {{3, 3}}> {{ c = Conv(x, w)  r = Relu(c)  y = Gather<axis=1>(r, o) }}", "1: Conv Relu"),
        # into the weights behind it, past a pool that tells the number of channels
        (
            f"<{C}, {ORDER}, float[5,4,1,1] v, float[5] d> {{ c = Conv(x, w, b)  p = MaxPool<kernel_shape=[2,2]>(c)  {GATHER}(p, o)  "
            "r = LeakyRelu(g)  y = Conv(r, v, d) }",
            "1: Conv MaxPool LeakyRelu Conv",
        ),
        (
            f"<{C}, {ORDER}, float[2,3,1,1] a, float[2,3,1,1] k, float[5,4,1,1] v> {{ p = Conv(x, a)  q = Conv(x, k)  "
            f"c = Concat<axis=1>(p, q)  {GATHER}(c, o)  y = Conv(g, v) }}",
            "1: Conv Conv Concat Conv",
        ),
        # past a depthwise convolution
        (
            f"<{C}, {ORDER}, float[4,1,3,3] k, float[4] d, float[5,4,1,1] v> {{ c = Conv(x, w)  p = MaxPool<kernel_shape=[2,2]>(c)  "
            f"{GATHER}(p, o)  r = Relu(g)  z = Conv<group=4>(r, k, d)  y = Conv(z, v) }}",
            "2: Conv MaxPool Relu Conv Conv",
        ),
        # twins
        (f"<{C}, {ORDER}> {{ c = Conv(x, w, b)  y = Gather<axis=2>(c, o) }}", "0: Conv Gather"),
        (
            "<float[6,1,3,3] w, int64[2] o = {0, 1}> { c = Conv<group=3>(x, w)  y = Gather<axis=1>(c, o) }",
            "0: Conv Gather",
        ),
        (
            f"<{C}, {ORDER}> {{ c = Conv(x, w, b)  {GATHER}(c, o)  m = GlobalMaxPool(c)  y = Add(g, m) }}",
            "0: Conv Gather GlobalMaxPool Add",
        ),
        (
            f"<{C}, {ORDER}, float[4,2,1,1] v> {{ c = Conv(x, w)  p = MaxPool<kernel_shape=[2,2]>(c)  {GATHER}(p, o)  "
            "y = Conv<group=2>(g, v) }",
            "0: Conv MaxPool Gather Conv",
        ),
    ],
)
def test_fold_channel_order(body, expected):
    assert rewritten(model(f"{IN} {body}"), "fold-channel-order")[0] == expected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            f"<{C}, int64[5] o = {{0, 1, 2, 3, 0}}> {{ c = Conv(x, w)  y = Gather<axis=1>(c, o) }}",
            "more would be computed",
        ),
        (
            "<int64[2] o = {0, 1}, float[5,2,1,1] v> { g = Gather<axis=1>(x, o)  y = Conv(g, v) }",
            "leaves out or repeats",
        ),
        (
            "<int64[3] o = {0, 1, 1}, float[5,3,1,1] v> { g = Gather<axis=1>(x, o)  y = Conv(g, v) }",
            "leaves out or repeats",
        ),
        (
            "<int64[3] o = {0, 2, 1}, float[5,3,1,1] v> { t = Mul(x, x)  g = Gather<axis=1>(t, o)  y = Conv(g, v) }",
            "is not known",
        ),
        (
            "<int64[1,2] o = {0, 1}, float[3,3,1,1] v> { c = Conv(x, v)  q = Gather<axis=1>(c, o) "
            " m = ReduceMax<axes=[1], keepdims=0>(q) y = Relu(m) }",
            "does not pick channels",
        ),
    ],
)
def test_refusals(body, reason):
    _, refused = rewritten(model(f"{IN} {body}"), "fold-channel-order")
    assert any(reason in text for text in refused)


@pytest.mark.parametrize(
    "text", ["grouped{groups=2,pointwise=false}", "ghost{primary=16,order=pivoted}", "fire{squeeze=16}"]
)
def test_reordered_forms_cost_nothing_within_a_block(text):
    body = (
        "g (float[N,32,9,9] x) => (float[N,q,r,s] y) <float[32,32,1,1] a, float[32,32,3,3] w, float[32,32,1,1] v> "
        "{ c = Conv(x, a)  r = Relu(c)  d = Conv<pads=[1,1,1,1]>(r, w)  e = Relu(d)  y = Conv(e, v) }"
    )
    before = model(body)
    site = find_sites(before)[1]
    assert site.taps == 9
    substitute(parse_form(text).fit(site, Moments(site)))
    assert "Gather" in [node.op_type for node in before.graph]
    assert "Gather" not in rewritten(before, "fold-channel-order")[0]


def test_channels_of_what_was_not_inferred():
    graph = model(f"{IN} <{C}> {{ c = Conv(x, w)  r = Relu(c)  y = Concat<axis=1>(r, x) }}").graph
    for node in graph:
        node.outputs[0].shape = None
    assert [channels(node.outputs[0]) for node in graph] == [4, 4, 7]


def test_weights_used_elsewhere_stay():
    before = model(
        f"{IN} <{C}, {ORDER}> {{ c = Conv(x, w, b)  g = Gather<axis=1>(c, o)  d = Conv(x, w, b)  y = Add(g, d) }}"
    )
    after = ir.clone(before)
    assert Pass.parse("fold-channel-order").run(after, Context()) == 1
    x = {"x": np.random.default_rng(0).standard_normal((1, 3, 9, 9)).astype(np.float32)}
    one, other = (registry.executor("ort").prepare(m)(x)["y"] for m in (before, after))
    assert np.allclose(one, other, rtol=1e-5)
