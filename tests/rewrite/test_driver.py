"""The driver: names, outputs, subgraphs, functions, provenance, bounds, linear cost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lwgraph import ir
from lwgraph.errors import CheckError
from lwgraph.rewrite import Const, Context, Contract, RewritePass
from lwgraph.rewrite.base import Log
from lwgraph.rewrite.provenance import FROM_KEY, PASS_KEY
from tests.rewrite.rewrite_models import DropAbs, MergeMuls, lines, parse, verify


@dataclass(frozen=True)
class FoldNeg(RewritePass):
    """Neg(c) -> -c."""

    name = "fold-neg"
    contract = Contract.EXACT

    def pattern(self, op: Any, c: Any) -> Any:
        return op.Neg(c)

    def replace(self, op: Any, c: Const) -> Any:
        return op.const(-c.numpy())


@dataclass(frozen=True)
class Forever(RewritePass):
    """Neg(x) -> Neg(x): never ends."""

    name = "forever"
    contract = Contract.EXACT

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Neg(x)

    def replace(self, op: Any, x: Any) -> Any:
        return op.Neg(x)


def run(p: RewritePass, model: ir.Model) -> int:
    count = p.run(model, Context())
    verify(model)
    return count


class TestOutputs:
    def test_the_new_value_takes_the_name(self) -> None:
        model = parse("g (float[2] x) => (float[2] y) { t = Neg(x) y = Abs(t) }")
        assert run(DropAbs(), model) == 1
        assert lines(model) == ["Neg(x) -> y"]

    def test_an_input_cannot_so_an_identity_stays(self) -> None:
        model = parse("g (float[2] x) => (float[2] y) { y = Abs(x) }")
        assert run(DropAbs(), model) == 1
        assert lines(model) == ["Identity(x) -> y"]

    def test_an_output_cannot_either(self) -> None:
        model = parse("g (float[2] x) => (float[2] t, float[2] y) { t = Neg(x) y = Abs(t) }")
        assert run(DropAbs(), model) == 1
        assert lines(model) == ["Neg(x) -> t", "Identity(t) -> y"]

    def test_a_constant(self) -> None:
        model = parse("g () => (float[2] y) <float[2] c = {1, 2}> { y = Neg(c) }")
        assert run(FoldNeg(), model) == 1
        assert [v.name for v in model.graph.outputs] == ["y"]
        value = model.graph[0].inputs[0]
        assert ir.constant(value).tolist() == [-1, -2]  # type: ignore[union-attr]

    def test_two_outputs_of_one_value(self) -> None:
        model = parse("g (float[2] x) => (float[2] y, float[2] z) { t = Neg(x) y = Abs(t) z = Abs(t) }")
        assert run(DropAbs(), model) == 2
        assert [v.name for v in model.graph.outputs] == ["y", "z"]
        assert [line.split("(")[0] for line in lines(model)] == ["Neg", "Identity"]


class TestScopes:
    def test_subgraphs(self) -> None:
        model = parse("""g (float[2] x, bool c) => (float[2] z) <float[1] a = {2}> {
            z = If(c) <then_branch = one () => (float[2] p) <float[1] b = {3}> { t = Mul(x, a) p = Mul(t, b) },
                       else_branch = two () => (float[2] q) { q = Neg(x) }> }""")
        assert run(MergeMuls(), model) == 1
        branch = next(g for g in model.graph.subgraphs() if g.name == "one")
        assert [n.op_type for n in branch] == ["Mul"]
        assert list(model.graph.initializers) == []  # the outer constant died with its last use

    def test_an_inner_node_of_another_graph_blocks(self) -> None:
        model = parse("""g (float[2] x, bool c) => (float[2] z) <float[1] a = {2}> {
            t = Mul(x, a)
            z = If(c) <then_branch = one () => (float[2] p) <float[1] b = {3}> { p = Mul(t, b) },
                       else_branch = two () => (float[2] q) { q = Neg(x) }> }""")
        assert run(MergeMuls(), model) == 0

    def test_functions_get_constant_nodes(self) -> None:
        model = parse(
            "g (float[2] x) => (float[2] y) { y = local.f(x) }",
            extra="""
            <domain: "local", opset_import: ["" : 17]> f (x) => (y) {
                a = Constant<value_float=2.0>() b = Constant<value_float=3.0>() t = Mul(x, a) y = Mul(t, b) }""",
        )
        assert run(MergeMuls(), model) == 1
        (function,) = model.functions.values()
        assert [n.op_type for n in function] == ["Constant", "Mul"]
        assert function.outputs[0].name == "y"

    def test_an_older_opset_is_left_alone_and_said(self) -> None:
        model = parse(
            "g (float[2] x) => (float[2] y) <float[2] a = {2,2}, float[2] b = {3,3}> { t = Mul(x, a) y = Mul(t, b) }",
            opset=6,
            ir_version=4,
        )
        context = Context()
        assert MergeMuls().run(model, context) == 0
        assert "needs opset 7" in context.skipped[0].reason


def test_provenance_names_the_original_nodes() -> None:
    model = parse(
        "g (float[1] x) => (float[1] y) <float[1] a = {2}, float[1] b = {3}, float[1] c = {4}> { [n1] s = Mul(x, a) [n2] t = Mul(s, b) [n3] y = Mul(t, c) }"
    )
    assert run(MergeMuls(), model) == 2
    (node,) = model.graph
    assert node.name == "n3"
    assert node.metadata_props[PASS_KEY] == "merge-muls"
    assert sorted(node.metadata_props[FROM_KEY].split(", ")) == ["n1", "n2", "n3"]


def test_recorded_shapes_and_types_stay() -> None:
    model = parse("g (float[2] x) => (float[2] y) <float[2] v> { v = Neg(x) w = Abs(v) y = Exp(w) }")
    exp = model.graph[2]
    exp.inputs[0].shape = ir.Shape([2])  # type: ignore[union-attr]
    assert run(DropAbs(), model) == 1
    assert model.graph[1].inputs[0].shape == ir.Shape([2])  # type: ignore[union-attr]


def test_nothing_dangles() -> None:
    model = parse("g (float[2] x) => (float[2] y) <float[1] a = {2}, float[1] b = {3}> { t = Mul(x, a) y = Mul(b, t) }")
    a = model.graph.initializers["a"]
    run(MergeMuls(), model)
    assert not a.uses()
    assert len(model.graph.initializers) == 1


def test_a_freed_value_is_looked_at_again() -> None:
    # the first visit of y finds t used by z as well; once z is gone, y matches
    model = parse("""g (float[2] x) => (float[2] y, float[2] z) <float[1] a = {2}, float[1] b = {3}> {
        t = Mul(x, a) y = Mul(t, b) u = Abs(t) w = Sub(u, u) z = Neg(x) }""")

    @dataclass(frozen=True)
    class Both(RewritePass):
        """Merge, and drop Sub(Abs(t), Abs(t))."""

        name = "both"
        contract = Contract.ROUNDING

        def pattern(self, op: Any, x: Any, a: Any, b: Any) -> Any:
            return op.Mul(op.Mul(x, a), b)

        def replace(self, op: Any, x: Any, a: Const, b: Const) -> Any:
            return op.Mul(x, op.const(a.numpy() * b.numpy()))

        def rules(self) -> Any:
            from lwgraph.rewrite import Rule

            def sub(self: Any, op: Any, t: Any) -> Any:
                return op.Sub(op.Abs(t), op.Abs(t))

            return [*super().rules(), Rule(sub.__get__(self), lambda op, t: None)]

    count = Both().run(model, Context())
    assert count == 0  # w is dead but not this pass's to remove


def test_a_pass_without_end_is_stopped() -> None:
    with pytest.raises(CheckError, match="pass 'forever' does not come to an end"):
        Forever().run(parse("g (float[2] x) => (float[2] y) { [n] y = Neg(x) }"), Context())


def test_the_limit_of_a_bisection_is_kept() -> None:
    model = parse("g (float[2] x) => (float[2] y) { a = Abs(x) b = Abs(a) y = Abs(b) }")
    context = Context(log=Log(limit=2))
    assert DropAbs().run(model, context) == 2
    assert context.log.rewrites == 2
    assert len(model.graph) == 1


def chain(count: int, shared: bool) -> onnx.ModelProto:
    nodes, initializers, last = [], [], "x"
    for i in range(count):
        name = "c" if shared else f"c{i}"
        if not shared or i == 0:
            initializers.append(numpy_helper.from_array(np.array([1.0], np.float32), name))
        nodes.append(helper.make_node("Mul", [last, name], [f"v{i}"], name=f"n{i}"))
        last = f"v{i}"
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", 1, [1])],
            [helper.make_tensor_value_info(last, 1, [1])],
            initializers,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=10,
    )


@pytest.mark.parametrize("shared", [False, True])
def test_cost_grows_linearly(shared: bool) -> None:
    """Four times the nodes may take eight times as long at most; a quadratic driver takes sixteen."""

    def seconds(count: int) -> float:
        model = ir.load(chain(count, shared))
        start = time.process_time()
        assert MergeMuls().run(model, Context()) == count - 1
        return time.process_time() - start

    small = min(seconds(400) for _ in range(3))
    assert min(seconds(1600) for _ in range(3)) < 8 * small
