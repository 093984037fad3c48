"""The pattern language, one feature a test; each with a twin that must not match."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from lwgraph import ir
from lwgraph.errors import UsageError
from lwgraph.rewrite import Const, Context, Contract, RewritePass, Rule, Skip
from tests.rewrite.rewrite_models import MergeMuls, lines, parse, verify


@dataclass(frozen=True)
class Given(RewritePass):
    """A pass around two functions."""

    name = "given"
    contract = Contract.EXACT
    pair: tuple[Callable[..., Any], Callable[..., Any]] = (len, len)

    def pattern(self, op: Any) -> Any:
        raise NotImplementedError

    def replace(self, op: Any) -> Any:
        raise NotImplementedError

    def rules(self) -> Sequence[Rule]:
        pattern, replace = self.pair
        return [Rule(pattern.__get__(self), replace.__get__(self))]


def rewrite(
    body: str, pattern: Callable[..., Any], replace: Callable[..., Any], **options: Any
) -> tuple[int, list[str]]:
    model = parse(body, **options)
    count = Given((pattern, replace)).run(model, Context())
    verify(model)
    return count, lines(model)


def test_design_example() -> None:
    model = parse("g (float[2] x) => (float[2] y) <float[1] a = {2}, float[1] b = {3}> { t = Mul(x, a) y = Mul(b, t) }")
    assert MergeMuls().run(model, Context()) == 1
    verify(model)
    assert [n.op_type for n in model.graph] == ["Mul"]
    assert model.graph.outputs[0].name == "y"
    assert ir.constant(model.graph[0].inputs[1]).tolist() == [6]  # type: ignore[union-attr]


def test_const_annotation_needs_a_constant() -> None:
    model = parse("g (float[2] x, float[1] a) => (float[2] y) <float[1] b = {3}> { t = Mul(x, a) y = Mul(b, t) }")
    before = ir.fingerprint(model)
    assert MergeMuls().run(model, Context()) == 0
    assert ir.fingerprint(model) == before


def test_overridable_initializer_is_no_constant() -> None:
    model = parse("g (float[2] x, float[1] a = {2}) => (float[2] y) <float[1] b = {3}> { t = Mul(x, a) y = Mul(b, t) }")
    assert MergeMuls().run(model, Context()) == 0


def test_skip_is_recorded_with_its_place() -> None:
    model = parse(
        "g (float[2] x) => (float[2] y) <float[2] a = {2,2}, float[1] b = {3}> { t = Mul(x, a) [last] y = Mul(b, t) }"
    )
    context = Context()
    assert MergeMuls(max_size=1).run(model, context) == 0
    assert [(s.pass_name, s.place, s.reason) for s in context.skipped] == [
        ("merge-muls", "last", "a constant has more than max_size=1 elements")
    ]


class TestRepeatedNames:
    pattern = staticmethod(lambda self, op, x: op.Sub(x, x))
    replace = staticmethod(lambda self, op, x: op.Abs(x))

    def test_same_value(self) -> None:
        assert rewrite("g (float[2] x) => (float[2] y) { y = Sub(x, x) }", self.pattern, self.replace) == (
            1,
            ["Abs(x) -> y"],
        )

    def test_other_value(self) -> None:
        assert (
            rewrite("g (float[2] x, float[2] z) => (float[2] y) { y = Sub(x, z) }", self.pattern, self.replace)[0] == 0
        )


class TestCommutativity:
    replace = staticmethod(lambda self, op, x: op.HardSwish(x))

    @pytest.mark.parametrize("last", ["Mul(x, s)", "Mul(s, x)"])
    def test_both_orders(self, last: str) -> None:
        body = f"g (float[2] x) => (float[2] y) {{ s = Sigmoid(x) y = {last} }}"
        assert rewrite(body, lambda self, op, x: op.Mul(x, op.Sigmoid(x)), self.replace)[0] == 1

    def test_backtracks_over_nested_orders(self) -> None:
        # the first order binds x wrongly at both levels; only one of the four combinations matches
        body = "g (float[2] p, float[2] q) => (float[2] y) { n = Neg(p) s = Add(q, p) y = Add(s, n) }"
        pattern = lambda self, op, x, z: op.Add(op.Neg(x), op.Add(x, z))  # noqa: E731
        assert rewrite(body, pattern, lambda self, op, z: op.Abs(z)) == (1, ["Abs(q) -> y"])

    def test_division_is_not_commutative(self) -> None:
        body = "g (float[2] x) => (float[2] y) { s = Sigmoid(x) y = Div(s, x) }"
        assert rewrite(body, lambda self, op, x: op.Div(x, op.Sigmoid(x)), self.replace)[0] == 0


class TestOptionalInputs:
    @staticmethod
    def pattern(self: Any, op: Any, x: Any, w: Any, b: Any = None) -> Any:
        return op.Relu(op.Conv(x, w, b, _name="conv"))

    @staticmethod
    def replace(self: Any, op: Any, x: Any, w: Any, b: Any, conv: ir.Node) -> Any:
        return op.copy(conv, x, w, b, strides=[2, 2])

    def test_absent(self) -> None:
        body = "g (float[1,1,4,4] x, float[1,1,1,1] w) => (float[1,1,2,2] y) { t = Conv(x, w) y = Relu(t) }"
        assert rewrite(body, self.pattern, self.replace) == (1, ["Conv(x, w) -> y"])

    def test_present(self) -> None:
        body = (
            "g (float[1,1,4,4] x, float[1,1,1,1] w, float[1] b) => (float[1,1,2,2] y) { t = Conv(x, w, b) y = Relu(t) }"
        )
        assert rewrite(body, self.pattern, self.replace) == (1, ["Conv(x, w, b) -> y"])

    def test_a_required_input_must_be_there(self) -> None:
        body = "g (float[1,1,4,4] x, float[1,1,1,1] w) => (float[1,1,4,4] y) { t = Conv(x, w) y = Relu(t) }"
        assert rewrite(body, lambda self, op, x, w, b: op.Relu(op.Conv(x, w, b)), lambda self, op, x: op.Abs(x))[0] == 0

    def test_an_unmentioned_input_blocks(self) -> None:
        body = (
            "g (float[1,1,4,4] x, float[1,1,1,1] w, float[1] b) => (float[1,1,4,4] y) { t = Conv(x, w, b) y = Relu(t) }"
        )
        assert rewrite(body, lambda self, op, x, w: op.Relu(op.Conv(x, w)), lambda self, op, x: op.Abs(x))[0] == 0


class TestAttributes:
    replace = staticmethod(lambda self, op, x: op.Abs(x))

    def test_literal(self) -> None:
        body = "g (float[2,3] x) => (float[2,3] y) { y = Softmax<axis=0>(x) }"
        assert rewrite(body, lambda self, op, x: op.Softmax(x, axis=0), self.replace)[0] == 1
        assert rewrite(body, lambda self, op, x: op.Softmax(x, axis=1), self.replace)[0] == 0

    def test_literal_float_in_single_precision(self) -> None:
        body = "g (float[2] x) => (float[2] y) { y = LeakyRelu<alpha=0.2>(x) }"
        assert rewrite(body, lambda self, op, x: op.LeakyRelu(x, alpha=0.2), self.replace)[0] == 1
        assert rewrite(body, lambda self, op, x: op.LeakyRelu(x, alpha=0.1), self.replace)[0] == 0

    def test_default_equals_absent(self) -> None:
        body = "g (float[2,3] x) => (float[2,3] y) { y = Softmax(x) }"
        assert rewrite(body, lambda self, op, x: op.Softmax(x, axis=-1), self.replace)[0] == 1

    def test_unmentioned_attribute_must_be_default(self) -> None:
        body = "g (float[2,3] x) => (float[2,3] y) {{ y = Softmax<axis={}>(x) }}"
        pattern = lambda self, op, x: op.Softmax(x)  # noqa: E731
        assert rewrite(body.format(-1), pattern, self.replace)[0] == 1
        assert rewrite(body.format(0), pattern, self.replace)[0] == 0

    def test_binding(self) -> None:
        body = "g (float[2,3] x) => (float[2,3] y) { y = Softmax<axis=0>(x) }"

        def pattern(self: Any, op: Any, x: Any, *, axis: Any) -> Any:
            return op.Softmax(x, axis=axis)

        count, _ = rewrite(body, pattern, lambda self, op, x, axis: op.LogSoftmax(x, axis=axis))
        assert count == 1

    def test_bound_twice_must_be_equal(self) -> None:
        def pattern(self: Any, op: Any, x: Any, *, axis: Any) -> Any:
            return op.Softmax(op.LogSoftmax(x, axis=axis), axis=axis)

        body = "g (float[2,3] x) => (float[2,3] y) {{ t = LogSoftmax<axis=0>(x) y = Softmax<axis={}>(t) }}"
        assert rewrite(body.format(0), pattern, self.replace)[0] == 1
        assert rewrite(body.format(1), pattern, self.replace)[0] == 0


class TestConstantsAndNumbers:
    def test_number(self) -> None:
        body = "g (float[2] x) => (float[2] y) <float[2] c = {{{}}}> {{ y = Mul(c, x) }}"
        pattern, replace = (lambda self, op, x: op.Mul(x, 0.2)), (lambda self, op, x: op.Abs(x))
        assert rewrite(body.format("0.2, 0.2"), pattern, replace)[0] == 1
        assert rewrite(body.format("0.2, 0.3"), pattern, replace)[0] == 0

    def test_constant_node(self) -> None:
        body = "g (float[2] x) => (float[2] y) { c = Constant<value_float=2.0>() y = Mul(c, x) }"
        assert rewrite(body, lambda self, op, x: op.Mul(x, 2), lambda self, op, x: op.Abs(x)) == (1, ["Abs(x) -> y"])

    def test_optional_const(self) -> None:
        def replace(self: Any, op: Any, x: Any, low: Const | None, high: Const | None) -> Any:
            return op.Relu(x) if low is not None and low.item() == 0 and high is None else None

        def pattern(self: Any, op: Any, x: Any, low: Any = None, high: Any = None) -> Any:
            return op.Clip(x, low, high)

        good = "g (float[2] x) => (float[2] y) <float low = {0}> { y = Clip(x, low) }"
        assert rewrite(good, pattern, replace) == (1, ["Relu(x) -> y"])
        assert rewrite(good.replace("{0}", "{1}"), pattern, replace)[0] == 0


class TestAlternatives:
    def test_either(self) -> None:
        pattern = lambda self, op, x: op.Neg(op.either(op.Relu(x), op.Abs(x)))  # noqa: E731
        replace = lambda self, op, x: op.Sign(x)  # noqa: E731
        for inner, count in (("Relu", 1), ("Abs", 1), ("Exp", 0)):
            body = f"g (float[2] x) => (float[2] y) {{ t = {inner}(x) y = Neg(t) }}"
            assert rewrite(body, pattern, replace)[0] == count

    def test_either_or_nothing(self) -> None:
        pattern = lambda self, op, x: op.Neg(op.either(op.Relu(x), x))  # noqa: E731
        body = "g (float[2] x) => (float[2] y) { y = Neg(x) }"
        assert rewrite(body, pattern, lambda self, op, x: op.Sign(x)) == (1, ["Sign(x) -> y"])

    def test_at_the_root(self) -> None:
        pattern = lambda self, op, x: op.either(op.Relu(x), op.Abs(op.Neg(x)))  # noqa: E731
        body = "g (float[2] x) => (float[2] y) { t = Neg(x) y = Abs(t) }"
        assert rewrite(body, pattern, lambda self, op, x: op.Sign(x)) == (1, ["Sign(x) -> y"])

    def test_any_of(self) -> None:
        def pattern(self: Any, op: Any, x: Any, c: Any) -> Any:
            return op.any_of("Add", "Sub")(x, c, _name="node")

        body = "g (float[2] x) => (float[2] y) <float[1] c = {{1}}> {{ y = {}(x, c) }}"
        replace = lambda self, op, x, c, node: op.Neg(x) if node.op_type == "Sub" else op.Abs(x)  # noqa: E731
        assert rewrite(body.format("Sub"), pattern, replace)[1] == ["Neg(x) -> y"]
        assert rewrite(body.format("Add"), pattern, replace)[1] == ["Abs(x) -> y"]
        assert rewrite(body.format("Mul"), pattern, replace)[0] == 0


class TestSeveralOutputs:
    def test_of_one_node(self) -> None:
        def pattern(self: Any, op: Any, x: Any, k: Any) -> Any:
            values, places = op.TopK(x, k, _outputs=2, axis=0)
            return values, places

        def replace(self: Any, op: Any, x: Any, k: Any) -> Any:
            return op.TopK(x, k, _outputs=2, axis=0, sorted=0)

        body = "g (float[4] x, int64[1] k) => (float[2] v, int64[2] i) { v, i = TopK<axis=0>(x, k) }"
        model = parse(body)
        p = Given((pattern, replace))
        assert p.run(model, Context()) == 1
        verify(model)
        assert lines(model) == ["TopK(x, k) -> v, i"]

    QKV = """g (float[1,4] x) => (float[1,2] a, float[1,2] b) <float[4,2] p, float[4,2] q> {
        u = MatMul(x, p) a = Relu(u) v = MatMul(x, q) b = Abs(v) }"""

    @staticmethod
    def merge(self: Any, op: Any, x: Any, p: Any, q: Any) -> Any:
        both = op.MatMul(x, op.Concat(p, q, axis=1))
        return op.Split(both, axis=1, num_outputs=2, _outputs=2)

    def test_of_two_nodes_found_through_a_shared_input(self) -> None:
        pattern = lambda self, op, x, p, q: (op.MatMul(x, p), op.MatMul(x, q))  # noqa: E731
        body = self.QKV.replace("<float[4,2] p, float[4,2] q>", "").replace(
            "float[1,4] x)", "float[1,4] x, float[4,2] p, float[4,2] q)"
        )
        model = parse(body, opset=18)
        assert Given((pattern, self.merge)).run(model, Context()) == 1
        verify(model)
        assert [n.op_type for n in model.graph] == ["Concat", "MatMul", "Split", "Relu", "Abs"]

    def test_refused_where_no_place_exists(self) -> None:
        body = """g (float[2,2] x, float[2,2] p, float[2,2] q) => (float[2,2] b) {
            u = MatMul(x, p) a = Relu(u) b = MatMul(a, q) }"""
        pattern = lambda self, op, x, p, a, q: (op.MatMul(x, p), op.MatMul(a, q))  # noqa: E731
        # the second output depends on the first: merging them would make a cycle
        count, after = rewrite(body, pattern, lambda self, op, x, p, a, q: (op.Add(x, p), op.Add(a, q)))
        assert count == 0
        assert [line.split("(")[0] for line in after] == ["MatMul", "Relu", "MatMul"]


class TestRest:
    def test_takes_all_remaining_inputs(self) -> None:
        def pattern(self: Any, op: Any, x: Any, *others: Any) -> Any:
            return op.Max(x, *others)

        body = "g (float[1] x, float[1] z, float[1] w) => (float[1] y) { y = Max(x, z, w) }"
        count, after = rewrite(body, pattern, lambda self, op, x, others: op.Sum(*others))
        assert (count, after) == (1, ["Sum(z, w) -> y"])


class TestInnerUse:
    def test_another_user_blocks(self) -> None:
        body = "g (float[2] x) => (float[2] y, float[2] z) <float[1] a = {2}, float[1] b = {3}> { t = Mul(x, a) y = Mul(b, t) z = Abs(t) }"
        assert MergeMuls().run(parse(body), Context()) == 0

    def test_being_an_output_blocks(self) -> None:
        body = "g (float[2] x) => (float[2] y, float[2] t) <float[1] a = {2}, float[1] b = {3}> { t = Mul(x, a) y = Mul(b, t) }"
        assert MergeMuls().run(parse(body), Context()) == 0

    def test_a_user_in_a_subgraph_blocks(self) -> None:
        body = """g (float[2] x, bool c) => (float[2] y, float[2] z) <float[1] a = {2}, float[1] b = {3}> {
            t = Mul(x, a) y = Mul(b, t)
            z = If(c) <then_branch = one () => (float[2] p) { p = Abs(t) }, else_branch = two () => (float[2] q) { q = Neg(x) }> }"""
        assert MergeMuls().run(parse(body), Context()) == 0


class TestMalformed:
    def refused(self, pattern: Callable[..., Any], replace: Callable[..., Any]) -> str:
        with pytest.raises(UsageError) as caught:
            rewrite("g (float[2] x) => (float[2] y) { y = Neg(x) }", pattern, replace)
        return str(caught.value)

    def test_unbound_name(self) -> None:
        assert "asks for 'z'" in self.refused(lambda self, op, x: op.Neg(x), lambda self, op, z: z)

    def test_nothing_returned(self) -> None:
        assert "must return the output" in self.refused(lambda self, op, x: x, lambda self, op, x: x)

    def test_wrong_input(self) -> None:
        assert "cannot stand in a pattern" in self.refused(lambda self, op, x: op.Neg("x"), lambda self, op, x: x)

    def test_wrong_number_of_results(self) -> None:
        assert "allowed: 1 value" in self.refused(lambda self, op, x: op.Neg(x), lambda self, op, x: (x, x))

    def test_wrong_input_of_a_built_node(self) -> None:
        assert "cannot be an input of Abs" in self.refused(
            lambda self, op, x: op.Neg(x), lambda self, op, x: op.Abs("x")
        )


def test_a_refused_replacement_leaves_no_trace() -> None:
    def replace(self: Any, op: Any, x: Any) -> Any:
        op.Abs(op.Abs(x))
        raise Skip("no")

    model = parse("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    before = ir.fingerprint(model)
    assert Given((lambda self, op, x: op.Neg(x), replace)).run(model, Context()) == 0
    assert ir.use_count(model.graph.inputs[0]) == 1
    assert ir.fingerprint(model) == before
