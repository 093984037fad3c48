"""What inputs are checked with: integers and booleans over what the graph allows, so that wrong passes are caught."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.calibrate.generate import generate, tried
from lwgraph.calibrate.input_use import integer_use
from lwgraph.contract import Contract
from lwgraph.errors import CheckError, DataError, LwgraphError, ModelError
from lwgraph.rewrite import Context, Pipeline, RewritePass
from lwgraph.rewrite.instruments.verify import Verify

INT64, FLOAT, BOOL = TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL


def build(
    nodes: list[onnx.NodeProto],
    kind: int,
    shape: list[Any],
    output: int = FLOAT,
    constants: dict[str, Any] | None = None,
) -> ir.Model:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


@dataclass(frozen=True)
class Wrong(RewritePass):
    """Replaces the node `before` of its operand by the node `after` (None: by the operand)."""

    name: ClassVar[str] = "wrong"
    contract: ClassVar[Contract] = Contract.EXACT
    before: str = "Abs"
    after: str = "Identity"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Mul(x, x) if self.before == "Square" else op.any_of(self.before)(x)

    def replace(self, op: Any, x: Any) -> Any:
        return getattr(op, self.after)(x)


@pytest.mark.parametrize("kind", [INT64, TensorProto.INT32, TensorProto.INT8])
def test_a_square_that_becomes_its_root(kind: int) -> None:
    if kind == TensorProto.INT8:
        nodes = [
            helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT32),
            helper.make_node("Mul", ["i", "i"], ["y"]),
        ]
        output = TensorProto.INT32
    else:
        nodes, output = [helper.make_node("Mul", ["x", "x"], ["y"])], kind
    with pytest.raises(CheckError, match=r"'wrong' broke its contract .*; tried on \d+ generated inputs: 'x' int"):
        Pipeline([Wrong("Square")]).run(build(nodes, kind, ["b", 4], output), Context(), [Verify()])


@pytest.mark.parametrize("kind", [INT64, TensorProto.INT32, TensorProto.INT16])
def test_a_pass_that_is_wrong_for_negative_integers_only(kind: int) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=FLOAT), helper.make_node("Abs", ["f"], ["y"])]
    with pytest.raises(CheckError, match="'wrong' broke its contract"):
        Pipeline([Wrong("Abs")]).run(build(nodes, kind, [1, 4]), Context(), [Verify()])


def test_a_pass_that_is_wrong_for_large_integers_only() -> None:
    nodes = [
        helper.make_node("Clip", ["x", "", "most"], ["y"]),
    ]
    model = build(nodes, INT64, [1, 4], INT64, {"most": np.int64(1 << 40)})

    @dataclass(frozen=True)
    class NoClip(RewritePass):
        name: ClassVar[str] = "wrong"
        contract: ClassVar[Contract] = Contract.EXACT

        def pattern(self, op: Any, x: Any, high: Any) -> Any:
            return op.Clip(x, None, high)

        def replace(self, op: Any, x: Any, high: Any) -> Any:
            return op.Identity(x)

    with pytest.raises(CheckError, match="'wrong' broke its contract"):
        Pipeline([NoClip()]).run(model, Context(), [Verify()])


@pytest.mark.parametrize("shape", [[], [1], [2, 3]])
def test_a_pass_that_is_wrong_for_false_only(shape: list[int]) -> None:
    """Not true is false, whatever the input: the booleans of the feeds are not all true."""
    nodes = [
        helper.make_node("Not", ["x"], ["n"]),
        helper.make_node("And", ["n", "x"], ["a"]),
        helper.make_node("Or", ["a", "x"], ["o"]),
        helper.make_node("Cast", ["o"], ["y"], to=FLOAT),
    ]
    model = build(nodes, BOOL, shape)

    @dataclass(frozen=True)
    class AlwaysTrue(RewritePass):
        name: ClassVar[str] = "wrong"
        contract: ClassVar[Contract] = Contract.EXACT

        def pattern(self, op: Any, x: Any) -> Any:
            return op.Or(op.And(op.Not(x), x), x)

        def replace(self, op: Any, x: Any) -> Any:
            return op.Or(x, op.Not(x))

    with pytest.raises(CheckError, match="'wrong' broke its contract"):
        Pipeline([AlwaysTrue()]).run(model, Context(), [Verify()])


def low_rank_model(integer: bool, square: bool) -> ir.Model:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 64)).astype(np.float32) * 0.1
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=FLOAT)] if integer else []
    inner = "f" if integer else "x"
    if square:
        nodes.append(helper.make_node("Add", [inner, "one"], ["s"]))
        inner = "s"
    nodes += [helper.make_node("MatMul", [inner, "w"], ["y"], name="dense")]
    constants = {"w": weight, **({"one": np.float32(1)} if square else {})}
    return build(nodes, INT64 if integer else FLOAT, ["b", 64], FLOAT, constants)


@pytest.mark.parametrize("integer", [True, False])
@pytest.mark.parametrize("square", [True, False])
def test_an_approximation_behind_integers_is_held_to_the_same_tolerance(integer: bool, square: bool) -> None:
    with pytest.raises(CheckError, match=r"'low-rank' broke its contract .*without --data, an approximation may"):
        Pipeline.parse("low-rank{ratio=0.25}").run(low_rank_model(integer, square), Context(), [Verify()])


class TestGenerated:
    def test_an_index_stays_below_the_length(self) -> None:
        model = build(
            [helper.make_node("Gather", ["w", "x"], ["y"])], INT64, ["b", 50], FLOAT, {"w": np.ones((5, 2), np.float32)}
        )
        feeds = generate(model, 4)
        assert {int(v) for feed in feeds for v in feed["x"].reshape(-1)} == {0, 1, 2, 3, 4}

    def test_integers_of_each_kind(self) -> None:
        model = build([helper.make_node("Cast", ["x"], ["y"], to=FLOAT)], TensorProto.INT32, [1, 8])
        first, second, third = (feed["x"] for feed in generate(model, 3))
        assert 0 <= first.min() < first.max() <= 7
        assert second.min() == -128 and second.max() == 127
        assert third.min() == -(2**31) and third.max() == 2**31 - 1
        assert tried(generate(model, 3)) == "3 generated inputs: 'x' int32 -2147483648..2147483647"

    def test_unsigned_integers_of_the_widest_type(self) -> None:
        model = build([helper.make_node("Cast", ["x"], ["y"], to=FLOAT)], TensorProto.UINT64, [1, 8])
        third = generate(model, 3)[2]["x"]
        assert third.dtype == np.uint64 and third.min() == 0 and third.max() == 2**64 - 1

    @pytest.mark.parametrize(
        ("op", "place", "constants"),
        [
            ("Reshape", 1, {"d": np.ones(8, np.float32)}),
            ("Expand", 1, {"d": np.ones(1, np.float32)}),
            ("Tile", 1, {"d": np.ones(1, np.float32)}),
            ("Div", 1, {"d": np.int64([6])}),
            ("Mod", 1, {"d": np.int64([6])}),
        ],
    )
    def test_sizes_and_divisors_stay_small(self, op: str, place: int, constants: dict[str, Any]) -> None:
        """None of them takes all memory, or ends the process."""
        nodes = [helper.make_node(op, ["d", "x"], ["v"]), helper.make_node("Cast", ["v"], ["y"], to=FLOAT)]
        model = build(nodes, INT64, [1], FLOAT, constants)
        assert not integer_use(model, "x", np.dtype(np.int64)).varied
        for feed in generate(model, 4):
            assert 0 <= feed["x"].min() <= feed["x"].max() <= 8

    @pytest.mark.parametrize("inverted", [True, False])
    def test_masks(self, inverted: bool) -> None:
        nodes = [helper.make_node("Cast", ["x"], ["f"], to=FLOAT)]
        nodes.append(helper.make_node("Sub", ["one", "f"] if inverted else ["f", "one"], ["y"]))
        model = build(nodes, INT64, [1, 16], FLOAT, {"one": np.float32(1)})
        feeds = [feed["x"] for feed in generate(model, 4)]
        values = {int(v) for feed in feeds for v in feed.reshape(-1)}
        if inverted:
            assert values == {0, 1} and (feeds[0] == 1).all()
        else:
            assert -128 in values

    def test_booleans_are_both(self) -> None:
        model = build([helper.make_node("Cast", ["x"], ["y"], to=FLOAT)], BOOL, [1, 16])
        feeds = [feed["x"] for feed in generate(model, 3)]
        assert feeds[0].all() and not feeds[1].all() and feeds[1].any()

    def test_floats_that_become_integers_again_stay_moderate(self) -> None:
        """A Cast of what no integer holds is undefined, and no two runtimes agree."""
        nodes = [
            helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
            helper.make_node("Mul", ["f", "two"], ["m"]),
            helper.make_node("Cast", ["m"], ["y"], to=TensorProto.INT32),
        ]
        model = build(nodes, INT64, [1, 8], TensorProto.INT32, {"two": np.float32(2)})
        assert max(abs(int(v)) for feed in generate(model, 6) for v in feed["x"].reshape(-1)) == 1 << 15


@pytest.mark.parametrize(("slow", "size"), [(2.0, 224), (0.0, 28)])
def test_smaller_sizes_are_taken_where_a_run_takes_long(slow: float, size: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys.modules[generate.__module__], "_SLOW", slow)
    model = build([helper.make_node("Relu", ["x"], ["y"])], FLOAT, [1, 3, "h", "w"])
    assert generate(model, 1)[0]["x"].shape == (1, 3, size, size)


@pytest.mark.parametrize(("power", "size"), [(1, 224), (2, 128)])
def test_sizes_are_not_tried_that_smaller_ones_forbid(power: int, size: int, monkeypatch: Any) -> None:
    """Attention over all pixels of a usual picture holds ten gigabytes; a machine that has less ends the process."""
    sizes, clock = [], [0.0]

    class Quadratic:
        """Takes seconds by the pixels to some power, and gives nothing to complain of."""

        def prepare(self, model: ir.Model) -> Quadratic:
            return self

        def __call__(self, feeds: Any) -> dict[str, Any]:
            sizes.append(feeds["x"].shape[2])
            clock[0] += 1e-9 * sizes[-1] ** (2 * power)
            return {"y": np.zeros(1, np.float32)}

    monkeypatch.setattr(sys.modules[generate.__module__], "time", SimpleNamespace(process_time=lambda: clock[0]))
    model = build([helper.make_node("Relu", ["x"], ["y"])], FLOAT, [1, 3, "h", "w"])
    assert generate(model, 1, executor=cast(Any, Quadratic()))[0]["x"].shape == (1, 3, size, size)
    assert sorted(set(sizes)) == [n for n in (28, 32, 64, 128, 224) if n <= size]


class TestReasons:
    """What an error blames is what is wrong, and what it advises can be done."""

    @pytest.mark.parametrize(
        "text", ["prune-channels{ratio=0.3,importance=l1}", "prune-channels{ratio=0.5,refit=false}"]
    )
    def test_a_change_of_width_is_not_blamed_on_an_inner_shape(self, text: str) -> None:
        rng = np.random.default_rng(0)
        constants = {
            "w1": rng.standard_normal((64, 3, 1, 1)).astype(np.float32),
            "w2": rng.standard_normal((4, 64, 1, 1)).astype(np.float32),
        }
        nodes = [
            helper.make_node("Conv", ["x", "w1"], ["a"], name="one"),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "w2"], ["y"], name="two"),
        ]
        with pytest.raises(CheckError, match=r"value 'y': differs by up to"):
            Pipeline.parse(text).run(build(nodes, FLOAT, [1, 3, 8, 8], FLOAT, constants), Context(), [Verify()])

    def test_a_wrong_value_inside_is_still_named(self) -> None:
        nodes = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["y"])]
        with pytest.raises(CheckError, match=r"value 'a': "):
            Pipeline([Wrong("Abs", "Relu")]).run(build(nodes, FLOAT, [1, 8]), Context(), [Verify()])

    def test_what_no_input_mends_is_the_models_fault(self) -> None:
        nodes = [helper.make_node("Reshape", ["x", "t"], ["y"])]
        model = build(nodes, FLOAT, [2, 3], FLOAT, {"t": np.int64([7])})
        with pytest.raises(ModelError, match=r"nothing for any input of its sizes \(.*Reshape.*\); mend the model$"):
            generate(model, 1)

    @pytest.mark.parametrize("kind", [INT64, FLOAT])
    def test_data_are_asked_for_where_values_matter(self, kind: int) -> None:
        """A target that is computed from the input could fit; sizes that are fixed cannot be given."""
        nodes = [
            helper.make_node("Cast", ["x"], ["i"], to=INT64),
            helper.make_node("Mul", ["i", "t"], ["s"]),
            helper.make_node("Reshape", ["w", "s"], ["y"]),
        ]
        constants = {"t": np.int64([1, 1]), "w": np.ones(11 * 13, np.float32)}
        with pytest.raises(DataError, match=r"give --data$"):
            generate(build(nodes, kind, [2], FLOAT, constants), 1)

    @pytest.mark.parametrize("name", sorted(registry.names("passes")))
    def test_a_pass_that_needs_data_says_so_as_of_an_option(self, name: str) -> None:
        rng = np.random.default_rng(0)
        constants = {
            "w1": rng.standard_normal((16, 3, 3, 3)).astype(np.float32),
            "w2": rng.standard_normal((16, 16, 1, 1)).astype(np.float32),
        }
        nodes = [
            helper.make_node("Conv", ["x", "w1"], ["a"], name="one"),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "w2"], ["c"], name="two"),
            helper.make_node("Add", ["b", "c"], ["y"], name="sum"),
        ]
        model = build(nodes, FLOAT, ["n", 3, 8, 8], FLOAT, constants)
        context = Context(executor=registry.executor("ort"), teacher=ir.clone(model))
        try:
            Pipeline.parse(name).rewrite(model, context)
        except LwgraphError as error:
            assert error.exit_code == 2
            assert str(error).startswith(f"pass '{name}' needs calibration samples") and "give --data" in str(error)
