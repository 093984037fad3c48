"""Closed-form recovery: layers brought back to the original by statistics, by 1x1 alignment and by refitting."""

import itertools
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.errors import UsageError
from lwgraph.layers.site import find_sites
from lwgraph.layers.weights import transform, write
from lwgraph.passes.recover.closed_form import FitTarget, target_of
from lwgraph.rewrite import Context, Pass
from lwgraph.rewrite.base import Log, Skip
from tests.passes.recover.nets import convnet, damaged, inputs

PASSES = ["repair-statistics", "align-blocks", "refit-head", "refit-layers"]


def context(teacher: ir.Model, data: Any = None, **more: Any) -> Context:
    data = inputs(96) if data is None else data
    return Context(executor=registry.executor("ort"), data=data, teacher=teacher, **more)


def distance(model: ir.Model, teacher: ir.Model) -> float:
    """Squared error over the teacher's variance, on inputs that nothing was fitted to."""
    ours, theirs = (registry.executor("ort").prepare(m) for m in (model, teacher))
    a, b = (np.concatenate([run(f)["y"] for f in inputs(64, seed=9)]) for run in (ours, theirs))
    return float(((a - b) ** 2).mean() / b.var())


@pytest.mark.parametrize("name", PASSES)
def test_it_brings_the_outputs_nearer(name: str) -> None:
    teacher = convnet()
    student = damaged(teacher)
    before, c = distance(student, teacher), context(teacher)
    nodes = [n.op_type for n in student.graph]
    assert Pass.parse(name).run(student, c) > 0
    (gain,) = c.gains
    assert gain.kept and gain.after < gain.before and gain.pass_name == name
    assert distance(student, teacher) < 0.8 * before
    assert [n.op_type for n in student.graph] == nodes


def test_shift_and_scale_are_found_exactly() -> None:
    teacher = convnet()
    student = ir.clone(teacher)
    rng = np.random.default_rng(0)
    for w, b in (("w0", "b0"), ("w1", "b1")):
        scale = rng.uniform(0.5, 2, 12).astype(np.float32)
        for name, factor in ((w, scale[:, None, None, None]), (b, scale)):
            value = student.graph.initializers[name]
            ir.set_constant(value, ir.constant(value) * factor)
    b0 = student.graph.initializers["b0"]
    ir.set_constant(b0, ir.constant(b0) + 1)
    assert distance(student, teacher) > 0.01
    assert Pass.parse("repair-statistics").run(student, context(teacher)) >= 2
    # Not exactly: layers are repaired in order on samples, and held-out statistics differ from the fitted ones.
    assert distance(student, teacher) < 1e-4


def test_a_linear_mixture_is_undone() -> None:
    teacher = convnet()
    student = ir.clone(teacher)
    value = student.graph.initializers["w1"]
    mixture = np.eye(12) + 0.3 * np.random.default_rng(0).standard_normal((12, 12)) / np.sqrt(12)
    ir.set_constant(value, np.einsum("ij,jchw->ichw", mixture, ir.constant(value)).astype(np.float32))
    before = distance(student, teacher)
    assert Pass.parse("align-blocks").run(student, context(teacher)) >= 1
    assert distance(student, teacher) < 1e-4 * before


def test_the_head_alone_is_refitted() -> None:
    teacher = convnet()
    student = ir.clone(teacher)
    value = student.graph.initializers["w3"]
    ir.set_constant(value, np.zeros((5, 12), np.float32))
    before = {n: ir.constant(v).copy() for n, v in student.graph.initializers.items()}
    assert Pass.parse("refit-head").run(student, context(teacher, inputs(256))) == 1
    changed = {n for n, v in student.graph.initializers.items() if not np.array_equal(ir.constant(v), before[n])}
    assert changed == {"w3", "b3"}
    assert distance(student, teacher) < 1e-3


@pytest.mark.parametrize("name", PASSES)
def test_an_equal_model_is_left_alone(name: str) -> None:
    teacher = convnet()
    student = ir.clone(teacher)
    assert Pass.parse(name).run(student, context(teacher)) == 0
    assert ir.fingerprint(student) == ir.fingerprint(teacher)


@pytest.mark.parametrize("name", PASSES)
def test_an_output_of_what_was_found_may_be_empty(name: str) -> None:
    """As a detector's is where nothing stands out: it says nothing, and the other outputs decide."""
    proto = ir.to_proto(convnet())
    graph, node = proto.graph, helper.make_node
    graph.node.extend(
        [
            node("Constant", [], ["far"], value=numpy_helper.from_array(np.float32(1e9))),
            node("Constant", [], ["rows"], value=numpy_helper.from_array(np.int64([-1]))),
            node("Greater", ["y", "far"], ["over"]),
            node("Reshape", ["over", "rows"], ["flat_over"]),
            node("Compress", ["y", "flat_over"], ["found"]),
        ]
    )
    graph.output.append(helper.make_tensor_value_info("found", TensorProto.FLOAT, ["k"]))
    teacher = ir.load(proto)
    student = damaged(teacher)
    c = context(teacher)
    assert Pass.parse(name).run(student, c) > 0
    assert c.gains[0].kept and c.gains[0].after < c.gains[0].before


@pytest.mark.parametrize("name", PASSES)
def test_what_does_not_help_is_undone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer looks better, the outputs do not: the whole model is put back."""
    from lwgraph.passes.recover import closed_form
    from lwgraph.plan.refit import sequential as refit

    errors = itertools.chain([0.1], itertools.repeat(0.2))
    monkeypatch.setattr(closed_form.Job, "outputs_error", lambda self: next(errors))
    monkeypatch.setattr(refit, "output_error", lambda *models_and_feeds: next(errors))
    teacher = convnet()
    student = damaged(teacher)
    before, c = ir.fingerprint(student), context(teacher)
    assert Pass.parse(name).run(student, c) == 0
    assert ir.fingerprint(student) == before
    assert not c.gains[0].kept and "undone" in str(c.gains[0])
    assert any("undone" in s.reason for s in c.skipped)


@pytest.mark.parametrize("name", PASSES)
def test_what_it_needs(name: str) -> None:
    teacher = convnet()
    with pytest.raises(UsageError, match="original model"):
        Pass.parse(name).run(damaged(teacher), Context(data=inputs(8)))
    with pytest.raises(UsageError, match="calibration samples"):
        Pass.parse(name).run(damaged(teacher), Context(teacher=teacher))
    with pytest.raises(UsageError, match="allowed: 2 or more"):
        Pass.parse(f"{name}{{samples=1}}")


@pytest.mark.parametrize("name", PASSES)
def test_a_layer_of_another_width_is_skipped(name: str) -> None:
    teacher = convnet()
    student = damaged(teacher)
    keep = np.arange(8)
    for key, part in {"w2": np.s_[keep], "w3": np.s_[:, keep]}.items():  # conv2 has lost four of its twelve channels
        value = student.graph.initializers[key]
        ir.set_constant(value, np.ascontiguousarray(ir.constant(value)[part]))
    before, c = distance(student, teacher), context(teacher)
    assert Pass.parse(name).run(student, c) > 0
    assert distance(student, teacher) < before
    if name in ("repair-statistics", "align-blocks"):
        assert any(s.place == "conv2" and "the original's [" in s.reason for s in c.skipped)


def test_bisection_can_stop_it() -> None:
    teacher = convnet()
    student = damaged(teacher)
    assert Pass.parse("align-blocks").run(student, context(teacher, log=Log(limit=1))) <= 1


def test_a_sum_is_aimed_at_where_there_is_one() -> None:
    model = convnet()
    sites = {s.node.name: s for s in find_sites(model)}
    kinds = {v.name: n.op_type for n in model.graph for v in n.outputs}
    common = frozenset(kinds)
    assert target_of(sites["conv1"], common, kinds) == FitTarget("s1", "r0")
    assert target_of(sites["conv0"], common, kinds) == FitTarget("c0")
    assert target_of(sites["conv0"], common - {"c0"}, kinds) is None


def shared_weight() -> ir.Model:
    model = convnet()
    conv = next(n for n in model.graph if n.name == "conv2")
    conv.replace_input_with(1, model.graph.initializers["w1"])
    return model


def test_a_shared_weight_is_not_touched() -> None:
    teacher = shared_weight()
    student = damaged(teacher)
    c = context(teacher)
    Pass.parse("align-blocks").run(student, c)
    reasons = {s.place: s.reason for s in c.skipped}
    assert "shared with" in reasons["conv1"] and "shared with" in reasons["conv2"]


def layer_model(kind: str) -> ir.Model:
    rng = np.random.default_rng(0)
    normal = lambda *s: rng.standard_normal(s).astype(np.float32)  # noqa: E731
    node = helper.make_node
    shape, constants, nodes = {
        "conv": (["n", 4, 6, 6], {"w": normal(6, 2, 3, 3)}, [node("Conv", ["x", "w"], ["y"], group=2, strides=[2, 2])]),
        "conv_transpose": (
            ["n", 4, 5, 5],
            {"w": normal(4, 3, 3, 3), "b": normal(6)},
            [node("ConvTranspose", ["x", "w", "b"], ["y"], group=2)],
        ),
        "gemm": (
            ["n", 4],
            {"w": normal(4, 6), "b": normal(1, 6)},
            [node("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=2.0)],
        ),
        "gemm_transposed": (["n", 4], {"w": normal(6, 4)}, [node("Gemm", ["x", "w"], ["y"], transB=1)]),
        "matmul": (
            ["n", 3, 4],
            {"w": normal(4, 6), "b": normal(6)},
            [node("MatMul", ["x", "w"], ["m"]), node("Add", ["b", "m"], ["y"])],
        ),
    }[kind]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


@pytest.mark.parametrize("kind", ["conv", "conv_transpose", "gemm", "gemm_transposed", "matmul"])
@pytest.mark.parametrize("full", [False, True])
def test_a_transformed_layer_gives_transformed_outputs(kind: str, full: bool) -> None:
    model, rng = layer_model(kind), np.random.default_rng(1)
    (site,) = find_sites(model)
    shape = [2 if isinstance(d, str) or not isinstance(d, int) else d for d in model.graph.inputs[0].shape]
    x = rng.standard_normal(shape).astype(np.float32)
    y = registry.executor("ort").prepare(model)({"x": x})["y"]
    groups = site.group
    per = site.outputs // groups
    q, shift = (rng.standard_normal((groups, per, per)) if full else rng.standard_normal(6)), rng.standard_normal(6)
    write(site, *transform(site, q, shift))
    rows = np.moveaxis(y, 1 if site.kernel else -1, -1).reshape(-1, groups, per)
    want = np.einsum("gij,ngj->ngi", q, rows).reshape(-1, 6) if full else rows.reshape(-1, 6) * q
    got = registry.executor("ort").prepare(model)({"x": x})["y"]
    got = np.moveaxis(got, 1 if site.kernel else -1, -1).reshape(-1, 6)
    np.testing.assert_allclose(got, want + shift, rtol=1e-4, atol=1e-4)


def test_a_bias_that_others_use_is_copied() -> None:
    model = convnet()
    conv = next(n for n in model.graph if n.name == "conv1")
    conv.replace_input_with(2, model.graph.initializers["b0"])
    before = ir.constant(model.graph.initializers["b0"]).copy()
    site = next(s for s in find_sites(model) if s.name == "conv1")
    write(site, site.weight, np.ones(12))
    assert np.array_equal(ir.constant(model.graph.initializers["b0"]), before)
    assert np.array_equal(ir.constant(conv.inputs[2]), np.ones(12, np.float32))


def test_a_constant_node_is_refused() -> None:
    from lwgraph.layers.weights import check_writable

    model = convnet()
    value = model.graph.initializers["w1"]
    node = ir.constant_node(ir.unattached_constant(ir.constant(value)))
    conv = next(n for n in model.graph if n.name == "conv1")
    model.graph.insert_before(conv, node)
    conv.replace_input_with(1, node.outputs[0])
    site = next(s for s in find_sites(model) if s.name == "conv1")
    with pytest.raises(Skip, match="constants-to-initializers"):
        check_writable(site)


def forked() -> ir.Model:
    """Two convolutions of x that are summed."""
    rng = np.random.default_rng(0)
    constants = {n: rng.standard_normal((4, 3, 1, 1)).astype(np.float32) for n in ("w0", "w1")}
    constants |= {n: rng.standard_normal(4).astype(np.float32) for n in ("b0", "b1")}
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"], "left"),
            node("Conv", ["x", "w1", "b1"], ["c1"], "right"),
            node("Add", ["c0", "c1"], ["y"], "sum"),
        ],
        "forked",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 8, 8])],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


@pytest.mark.parametrize("name", ["repair-statistics", "align-blocks"])
def test_both_terms_of_a_sum_aim_at_it(name: str) -> None:
    teacher = forked()
    student = damaged(teacher)
    c = context(teacher)
    assert Pass.parse(name).run(student, c) >= 1
    assert not any("behind" in s.reason for s in c.skipped)
    assert distance(student, teacher) < 0.8 * distance(damaged(teacher), teacher)


def chain(depth: int) -> ir.Model:
    rng = np.random.default_rng(0)
    names = ["x", *(f"c{i}" for i in range(depth - 1)), "y"]
    weights = {f"w{i}": (rng.standard_normal((3, 3, 3, 3)) / 5).astype(np.float32) for i in range(depth)}
    nodes = [
        helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], f"conv{i}", pads=[1] * 4) for i in range(depth)
    ]
    shapes = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3, 8, 8]) for n in ("x", "y")]
    graph = helper.make_graph(
        nodes, "chain", shapes[:1], shapes[1:], [numpy_helper.from_array(a, n) for n, a in weights.items()]
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


class Counting:
    """ONNX Runtime, and how many nodes ran."""

    def __init__(self) -> None:
        self.nodes, self.inner = 0, registry.executor("ort")

    def prepare(self, model: ir.Model, outputs: Any = None) -> Any:
        run, size = self.inner.prepare(model, outputs), len(model.graph)

        def counted(feeds: Any) -> Any:
            self.nodes += size
            return run(feeds)

        return counted


@pytest.mark.parametrize("name", ["repair-statistics", "align-blocks"])
def test_the_runs_do_not_grow_with_the_square_of_the_layers(name: str) -> None:
    ran = []
    for depth in (6, 12):
        counting, teacher = Counting(), chain(depth)
        Pass.parse(name).run(damaged(teacher), Context(executor=counting, data=inputs(16), teacher=teacher))  # type: ignore[arg-type]
        ran.append(counting.nodes)
    assert ran[1] < 2.5 * ran[0]


def test_layers_too_wide_to_solve_for_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwgraph.passes.recover.align.WIDEST", 8)
    teacher = convnet()
    c = context(teacher)
    Pass.parse("align-blocks").run(damaged(teacher), c)
    wide = {s.place for s in c.skipped if "12 outputs, at most 8 are aligned" in s.reason}
    assert wide == {"conv0", "conv1", "conv2"}


def test_the_rows_of_wide_layers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from lwgraph.passes.recover import closed_form

    most = []
    rows = closed_form.Job.rows

    def recorded(*arguments: Any) -> Any:
        found = rows(*arguments)
        most.append(found[0].size)
        return found

    monkeypatch.setattr(closed_form.Job, "rows", recorded)
    monkeypatch.setattr(closed_form, "ROW_BYTES", 8 * 1000)
    teacher = convnet()
    Pass.parse("repair-statistics").run(damaged(teacher), context(teacher))
    assert most and max(most) <= 1000 + 12 * 16  # one more position of each feed at most


def test_a_head_that_a_form_replaced_is_refitted() -> None:
    teacher = convnet()
    student, c = ir.clone(teacher), context(teacher)
    Pass.parse("low-rank{rank=3}").run(student, context(teacher))
    assert "head" not in {n.name for n in student.graph}
    before = distance(student, teacher)
    assert Pass.parse("refit-head").run(student, c) == 1
    assert distance(student, teacher) < before


def test_nothing_to_refit_is_a_reason() -> None:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [numpy_helper.from_array(np.float32(2), "factor")],
    )
    teacher = ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    student, c = ir.clone(teacher), context(teacher, inputs(16))
    ir.set_constant(student.graph.initializers["factor"], np.float32(3))
    assert Pass.parse("refit-head").run(student, c) == 0
    assert "no layer" in c.skipped[0].reason


def with_batch(model: ir.Model, *targets: list[int]) -> ir.Model:
    """The model with Reshapes that take only some batches in place of Flatten."""
    flat = next(node for node in model.graph if node.op_type == "Flatten")
    value = flat.inputs[0]
    for index, target in enumerate(targets):
        sizes = ir.add_initializer(model.graph, np.array(target, np.int64), f"sizes{index}")
        reshape = ir.make_node("Reshape", [value, sizes])
        value = reshape.outputs[0]
        value.name = reshape.name = f"fixed{index}"
        model.graph.insert_before(flat, reshape)
    ir.replace_uses(flat.outputs[0], value)
    model.graph.remove(flat, safe=True)
    return model


@pytest.mark.parametrize("name", PASSES)
def test_a_batch_that_the_graph_fixes_inside_is_the_one_that_is_used(name: str) -> None:
    """The input says that any will do; neither larger ones nor single samples are taken."""
    student, teacher = (with_batch(model, [6, 12]) for model in (damaged(convnet()), convnet()))
    c = context(teacher, inputs(60, batch=6))
    assert Pass.parse(name).run(student, c) > 0
    assert c.gains[0].kept and c.gains[0].after < c.gains[0].before


@pytest.mark.parametrize("rows", [60, 62, 66, 76])
def test_what_is_left_for_the_last_batch_is_tried_too(rows: int) -> None:
    """Two Reshapes take even batches only; samples that are held out or left may be odd."""
    student, teacher = (with_batch(model, [2, -1, 12], [-1, 12]) for model in (damaged(convnet()), convnet()))
    c = context(teacher, inputs(rows, batch=2))
    assert Pass.parse("repair-statistics").run(student, c) > 0
    assert c.gains[0].kept and c.gains[0].after < c.gains[0].before
