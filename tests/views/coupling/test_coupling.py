"""Which channels are found, which are frozen and why, and how axes are followed."""

from __future__ import annotations

import networkx as nx
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from lwgraph import ir
from lwgraph.views.coupling import couple_channels
from lwgraph.views.coupling.components import components
from lwgraph.views.coupling.rules import load
from lwgraph.views.coupling.rules.elementwise import OTHERS, PRODUCTS, SUMS, ZERO_TO_OTHER, ZERO_TO_ZERO
from lwgraph.views.coupling.rules.reshape import completed, segments


def coupling(body: str, constants: str = "", opset: int = 18, inputs: str = "float[N,3,8,8] x", output: str = "y"):
    """Conv a (8 channels) makes `a` from x; `body` goes on."""
    text = f"""<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>
        g ({inputs}) => (float {output}) <float[8,3,1,1] w, float[8] b, float[4,8,1,1] v {", " if constants else ""}
        {constants}> {{ [make] a = Conv (x, w, b) {body} }}"""
    proto = onnx.parser.parse_model(text)
    for name in ("y",):
        for value in proto.graph.output:
            if value.name == name:
                value.type.tensor_type.ClearField("shape")
    shapes = {"w": (8, 3, 1, 1), "b": (8,), "v": (4, 8, 1, 1)}
    known = {tensor.name for tensor in proto.graph.initializer}
    for info in proto.graph.value_info:
        dims = tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
        if info.name in {*shapes, *constants.replace(",", " ").split()} and info.name not in known and 0 not in dims:
            proto.graph.initializer.append(
                onnx.numpy_helper.from_array(
                    np.random.default_rng(0).standard_normal(dims).astype(np.float32), info.name
                )
            )
    del proto.graph.value_info[:]
    return couple_channels(ir.load(proto))


def group(found, name: str = "make"):
    return next(g for g in found.groups if g.name == name)


def test_a_group_knows_its_slices():
    found = coupling("c = Relu (a) [read] y = Conv (c, v)")
    made = group(found)
    assert made.width == 8 and not made.frozen and not made.caveats
    assert {(s.axis.value.name, s.axis.axis, s.axis.role) for s in made.slices} == {
        ("w", 0, "out"),
        ("b", 0, "channel"),
        ("a", 1, "data"),
        ("c", 1, "data"),
        ("v", 1, "in"),
    }
    assert all(s.indices.shape == (8, 1) for s in made.slices)
    assert [n.name for n in made.makers] == ["make"] and [n.name for n in made.readers] == ["read"]
    assert made.parameters == 3 + 1 + 4
    assert group(found, "read").frozen == "output 'y' of the graph"
    assert found.prunable == (made,)


FROZEN = [
    ("y = Relu (a)", "", "output 'y' of the graph"),
    ("[odd] c = com.microsoft.Thing (a) y = Conv (c, v)", "", "operator 'Thing' of node 'odd' is not understood"),
    ("[s] c = Softmax <axis=1> (a) y = Conv (c, v)", "", "node 's' (Softmax) is over it"),
    ("[l] c = LRN <size=3> (a) y = Conv (c, v)", "", "node 'l' (LRN) compares neighbouring channels"),
    ("[m] y = ArgMax <axis=1> (a)", "", "node 'm' (ArgMax) gives indices of it"),
    ("[k] p, y = TopK <axis=1> (a, k)", "int64[1] k = {2}", "operator 'TopK' of node 'k' is not understood"),
    ("[c] c = Concat <axis=0> (a, z) y = Conv (c, v)", "", "node 'c' (Concat) joins it with 'z': input 'z' of the"),
    ("[add] c = Add (a, z) y = Conv (c, v)", "", "node 'add' (Add) joins it with 'z': input 'z' of the graph"),
    ("[g] c = Gather <axis=1> (a, q) y = Conv (c, v)", "", "node 'g' (Gather) picks from it by computed indices"),
    ("[s] c = Slice (a, q, q) y = Conv (c, v)", "", "node 's' (Slice) computes its bounds"),
    ("[r] c = Reshape (a, q) y = Relu (c)", "", "does not split or merge whole axes"),
    (
        "[r] c = Reshape (a, to) y = Relu (c)",
        "int64[3] to = {-1, 3, 4}",
        "node 'r' (Reshape) from [N,8,8,8] to [unk__0,3,4] does not split or merge whole axes",
    ),
    (
        "[n] s = Shape (a) i = Gather (s, one) f = Cast <to=1> (i) c = Mul (a, f) y = Conv (c, v)",
        "int64 one = {1}",
        "node 'n2' (Mul) computes with the number of channels",
    ),
    (
        "[n] s = Size (a) f = Cast <to=1> (s) c = Mul (a, f) y = Conv (c, v)",
        "",
        "node 'n' (Size) computes with the number of channels",
    ),
    (
        "[i] y = If (o) <then_branch = t () => (float p) {p = Abs (a)}, else_branch = e () => (float q) {q = Neg (a)}>",
        "",
        "node 'i' (If) uses it in a subgraph",
    ),
    (
        '[e] e = Einsum <equation = "nchw,nchw->nhw"> (a, z) y = Relu (e)',
        "",
        "node 'e' (Einsum) sums over 'c' with what carries no channels",
    ),
    (
        "[p] c, i = MaxPool <kernel_shape=[2,2]> (a) d = Cast <to=1> (i) y = Add (c, d)",
        "",
        "the indices of node 'p' (MaxPool) are used",
    ),
    ("[u] c = CumSum (a, one) y = Conv (c, v)", "int64 one = {1}", "node 'u' (CumSum) works along it"),
    ("[t] c = Transpose <perm=[0,2,1,3]> (a) [n] y = Conv (c, v)", "", "node 'n' (Conv) works along it"),
    ("c = Conv (a, z) y = Relu (c)", "", "the weight or bias of node '' (Conv) is not constant"),
]


@pytest.mark.parametrize(("body", "constants", "reason"), FROZEN, ids=[b[0][:24] for b in FROZEN])
def test_frozen_with_the_reason(body, constants, reason):
    body = body.replace("c = Mul (a, f)", "[n2] c = Mul (a, f)")
    found = coupling(body, constants, inputs="float[N,3,8,8] x, float[N,8,8,8] z, int64[4] q, bool o")
    assert reason in group(found).frozen


UNKNOWN = [
    "c = CumSum (r, one)",
    "c = CumSum (r, i)",
    "c = ReverseSequence <batch_axis = 0, time_axis = 1> (r, k)",
    "c = Trilu (r)",
    "c = Slice (r, k, k, k)",
    "c = Slice (r, k, k)",
    "c, d = Split <axis = 1> (r)",
    "c = Concat <axis = 1> (r, r)",
    "c = Gather <axis = 1> (r, k)",
    "c = GatherElements <axis = 1> (r, k)",
    "c = Squeeze (r, k)",
    "c = Unsqueeze (r, k)",
    "c = Softmax (r)",
    "c = ReduceMean (r, k)",
    "c = ReduceMax (r)",
    "c = ArgMax <axis = 2> (r)",
    "c, d = TopK (r, k)",
    "c = Transpose (r)",
    "c = Flatten (r)",
    "c = Pad (r, k)",
    "c = Tile (r, k)",
    "c = Expand (r, k)",
    "c = DepthToSpace <blocksize = 2> (r)",
    "c = LayerNormalization (r, f)",
    "c = LpNormalization (r)",
    "c = Compress <axis = 1> (r, m)",
    "c = ScatterND (r, k, f)",
    "c = OneHot (r, one, f)",
]


@pytest.mark.parametrize("node", UNKNOWN)
def test_a_value_of_unknown_rank_is_no_reason_to_fail(node: str) -> None:
    """The channels before a Reshape to computed sizes stay as they are."""
    constants = "int64 one = {1}, int64[1] k = {1}, int64[1] i = {-1}, float[1] f = {1}, bool[1] m = {1}"
    found = coupling(f"[r] r = Reshape (a, q) {node} y = Abs (x)", constants, inputs="float[N,3,8,8] x, int64[K] q")
    assert group(found).frozen


@pytest.mark.parametrize("hidden", [4, 1])
@pytest.mark.parametrize(("kind", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
@pytest.mark.parametrize("given", ["", "wg", "rg"])
def test_the_weights_of_a_loop_are_cut_together_or_not_at_all(given: str, kind: str, gates: int, hidden: int) -> None:
    """One that is an input, or a single unit, leaves the other as it is."""
    sizes = {"wg": (1, gates * hidden, 6), "rg": (1, gates * hidden, hidden)}
    fixed = [helper.make_tensor_value_info(name, 1, sizes[name]) for name in sizes if name == given]
    weights = [numpy_helper.from_array(np.ones(sizes[name], np.float32), name) for name in sizes if name != given]
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", "wg", "rg"], ["h"], "loop", hidden_size=hidden)],
        "g",
        [helper.make_tensor_value_info("x", 1, [5, 2, 6]), *fixed],
        [helper.make_tensor_value_info("h", 1, [5, 1, 2, hidden])],
        weights,
    )
    found = couple_channels(
        ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    )
    assert not [group for group in found.groups if not group.frozen]  # `h` is an output: nothing may go in any case


CAVEATS = [
    (
        "c = Transpose <perm=[0,2,3,1]> (a) [n] c2 = LayerNormalization (c, b) d = Transpose <perm=[0,3,1,2]> (c2) "
        "y = Conv (d, v)",
        "node 'n' (LayerNormalization) normalizes over it",
    ),
    ("[m] m = ReduceMax <keepdims=1> (a, one) c = Mul (a, m) y = Conv (c, v)", "node 'm' (ReduceMax) is over it"),
    ("s = Sigmoid (a) [m] m = ReduceMean (s, one) c = Mul (a, m) y = Conv (c, v)", "node 'm' (ReduceMean) is over it"),
    (
        "m0 = ReduceMean (a, two) s = Sub (a, m0) q = ReduceMean (a, one) t = Sub (a, q) [m] m = ReduceSum (t, one) "
        "c = Mul (a, m) y = Conv (c, v)",
        "node 'm' (ReduceSum) is over it",
    ),
    (
        "[n] c = GroupNormalization <num_groups=2> (a, k, k) y = Conv (c, v)",
        "node 'n' (GroupNormalization) normalizes over it",
    ),
]


@pytest.mark.parametrize(("body", "caveat"), CAVEATS, ids=range(len(CAVEATS)))
def test_caveats(body, caveat):
    found = group(coupling(body, "int64[1] one = {1}, int64[2] two = {2, 3}, float[2] k = {1, 2}"))
    assert not found.frozen and caveat in found.caveats


def test_what_is_zero_where_zeros_come_in_needs_no_caveat():
    body = "s = Tanh (a) m = ReduceMean (s, one) c = Mul (a, m) y = Conv (c, v)"
    assert group(coupling(body, "int64[1] one = {1}")).caveats == ()


def test_batch_norm_of_groups_are_channels_of_every_group():
    found = group(
        coupling("[n] c = GroupNormalization <num_groups=2> (a, k, k) y = Conv (c, v)", "float[2] k = {1, 2}")
    )
    assert found.width == 4
    rows = next(s for s in found.slices if s.axis.value.name == "w")
    assert rows.indices.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_shapes_computed_in_the_graph_are_followed():
    """x.view(x.size(0), x.size(1) * 64), as PyTorch writes it with a free batch."""
    found = coupling(
        """s = Shape (a) n = Gather <axis=0> (s, zero) c = Gather <axis=0> (s, one) m = Mul (c, area)
        n1 = Unsqueeze (n, zeros) m1 = Unsqueeze (m, zeros) to = Concat <axis=0> (n1, m1) f = Reshape (a, to)
        [fc] y = Gemm <transB=1> (f, big)""",
        "int64 zero = {0}, int64 one = {1}, int64 area = {64}, int64[1] zeros = {0}, float[5,512] big",
    )
    made = group(found)
    assert not made.frozen and made.width == 8
    assert next(s for s in made.slices if s.axis.value.name == "big").indices.shape == (8, 64)


def test_a_resize_may_ask_for_the_size_that_it_has():
    body = "s = Shape (a) h = Slice (s, zero, two) to = Concat <axis=0> (h, big) c = Resize (a, , , to) y = Conv (c, v)"
    constants = "int64[1] zero = {0}, int64[1] two = {2}, int64[2] big = {16, 16}"
    assert not group(coupling(body, constants)).frozen


def test_shared_constants():
    """A small one parts, a matrix couples, and freezes what one of its users cannot follow."""
    body = "c = Conv (a, m, b) d = Conv (c, m, b) y = Conv (d, v)"
    found = coupling(body, "float[8,8,1,1] m")
    assert [(g.width, bool(g.frozen)) for g in found.groups] == [(8, False), (4, True)]
    uses = [s.axis.use for s in found.groups[0].slices if s.axis.value.name == "b"]
    assert len(uses) == 3 and None not in uses
    outside = coupling(
        "c = Conv (a, m) d = Conv (z, m) e = Add (c, d) y = Conv (e, v)",
        "float[8,8,1,1] m",
        inputs="float[N,3,8,8] x, float[N,8,8,8] z",
    )
    assert "'m' is also input 1 of node" in group(outside).frozen


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (("N", 8, 4, 4), ("N", 128), [((8, 4, 4), {1: range(1), 2: range(1, 2), 3: range(2, 3)}, {1: range(3)})]),
        (
            ("N", 12, 4),
            (None, 3, 4, 4),
            [((4,), {2: range(1)}, {3: range(1)}), ((3, 4), {1: range(2)}, {1: range(1), 2: range(1, 2)})],
        ),
        (
            (2, 6, 4),
            (2, 3, 8),
            [
                ((3, 2, 4), {1: range(2), 2: range(2, 3)}, {1: range(1), 2: range(1, 3)}),
                ((2,), {0: range(1)}, {0: range(1)}),
            ],
        ),
        (
            (10, "A", 2, 6),
            (10, "B", 12),
            [((2, 6), {2: range(1), 3: range(1, 2)}, {2: range(2)}), ((10,), {0: range(1)}, {0: range(1)})],
        ),
        (("N", 1, 6, 1), ("N", 6), [((6,), {2: range(1)}, {1: range(1)})]),
        ((6, 4), (4, 6), []),
        (("N", "T", 6), ("M", 6), [((6,), {2: range(1)}, {1: range(1)})]),
        (("N", "T", 6), (None, None, 6), [((6,), {2: range(1)}, {2: range(1)})]),
        (("M", 6, 2), ("N", "T", 12), [((6, 2), {1: range(1), 2: range(1, 2)}, {2: range(2)})]),
        (("N", "T", 6), ("N", "T", 2, 3), [((2, 3), {2: range(2)}, {2: range(1), 3: range(1, 2)})]),
        ((4, "T", 6), ("T", 4, 6), [((6,), {2: range(1)}, {2: range(1)})]),
    ],
)
def test_segments_of_a_reshape(before, after, expected):
    assert [(s.factors, s.inputs, s.outputs) for s in segments(before, after)] == expected


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (("b", 49, 2, 8), ("b", 49, None), ("b", 49, 16)),
        (("b", 4, 5, "t"), ("b", "unk", "t"), ("b", 20, "t")),
        (("b", 4, "t"), ("b", None), ("b", None)),
        (("b", 4), ("c", None), ("c", None)),
        ((None, 4), (None, "m"), (None, "m")),
    ],
)
def test_a_size_that_is_not_known_is_what_is_left(before, after, found):
    assert completed(before, after) == found


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=60))
def test_components_are_those_of_networkx(count, links):
    links = [(a % count, b % count) for a, b in links]
    graph = nx.Graph(links)
    graph.add_nodes_from(range(count))
    label = components(count, np.array([a for a, _ in links], np.int64), np.array([b for _, b in links], np.int64))
    assert {frozenset(np.flatnonzero(label == number).tolist()) for number in np.unique(label)} == {
        frozenset(part) for part in nx.connected_components(graph)
    }


def test_the_graph_of_axes():
    found = coupling("c = Concat <axis=1> (a, a) [read] y = Conv (c, u)", "float[4,16,1,1] u")
    view = found.graph()
    parts = [{(axis.value.name, axis.axis) for axis in part} for part in nx.connected_components(view)]
    assert {("w", 0), ("b", 0), ("a", 1), ("c", 1), ("u", 1)} in parts
    edges = [
        (d["here"].tolist(), d["there"].tolist())
        for a, b, d in view.edges(data=True)
        if len(d["here"]) == 8 and d["here"][0] == 8
    ]
    assert edges == [(list(range(8, 16)), list(range(8)))]
    assert group(found).slices[0].axis in view


def test_the_model_is_not_changed():
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1,2,3,4}> { h = MatMul (x, w) y = MatMul (h, w) }""")
    model = ir.load(proto)
    before = ir.fingerprint(model)
    couple_channels(model)
    assert ir.fingerprint(model) == before


def test_every_elementwise_operator_has_its_rule():
    names = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert {*ZERO_TO_ZERO, *ZERO_TO_OTHER, *PRODUCTS, *SUMS, *OTHERS} <= names
    assert set(load()) - {"Upsample"} <= names
