"""Pipelines: text, recipes, failures, instruments."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.errors import CheckError, ModelError, UsageError
from lwgraph.failures import Failures
from lwgraph.rewrite import Const, Context, Contract, Pass, Pipeline, RewritePass, Step
from lwgraph.rewrite.instruments import BisectLimit, Dump, PassTimer, Reproducer, Verify, find_culprit
from lwgraph.rewrite.instruments.verify import interface_difference
from lwgraph.rewrite.recipe import KEY
from tests.rewrite.rewrite_models import MergeMuls, parse

MULS = "g (float[2] x) => (float[2] y) <float[1] a = {2}, float[1] b = {3}, float[1] c = {4}> { [n1] s = Mul(x, a) [n2] t = Mul(s, b) [n3] y = Mul(t, c) }"
HERE = "tests.rewrite.rewrite_models:MergeMuls"


@dataclass(frozen=True)
class Scale(RewritePass):
    """A wrong pass: scales by 1 + 1e-3."""

    name = "scale"
    contract = Contract.ROUNDING
    factor: float = 1.001

    def pattern(self, op: Any, x: Any, a: Any) -> Any:
        return op.Mul(x, a, _name="mul")

    def replace(self, op: Any, x: Any, a: Const, mul: ir.Node) -> Any:
        if a.numpy()[0] != 3:
            return None
        return op.Mul(x, op.const(np.float32(a.numpy() * self.factor)))


@dataclass(frozen=True)
class GuardedScale(Scale):
    """The same, undone when it is found out."""

    name = "guarded-scale"
    guarded = True


@dataclass(frozen=True)
class Idle(Pass):
    """Finds nothing to do."""

    name = "idle"
    contract = Contract.EXACT

    def run(self, model: ir.Model, context: Context) -> int:
        return 0


@dataclass(frozen=True)
class Crash(Pass):
    """Raises."""

    name = "crash"
    contract = Contract.EXACT

    def run(self, model: ir.Model, context: Context) -> int:
        raise KeyError("weights")


@dataclass(frozen=True)
class GuardedCrash(Crash):
    """Half changes the model, then raises; undone."""

    name = "guarded-crash"
    guarded = True

    def run(self, model: ir.Model, context: Context) -> int:
        model.graph.outputs.clear()
        raise KeyError("weights")


@dataclass(frozen=True)
class Rename(Pass):
    """Renames an output."""

    name = "rename"
    contract = Contract.EXACT

    def run(self, model: ir.Model, context: Context) -> int:
        model.graph.outputs[0].name = "other"
        return 1


class TestText:
    def test_round_trip(self) -> None:
        text = f"{HERE}{{max_size=3}},{HERE}"
        pipeline = Pipeline.parse(text)
        assert pipeline.passes == (MergeMuls(max_size=3), MergeMuls())
        assert str(pipeline) == text
        assert Pipeline.parse("").passes == ()

    def test_registered_pipelines_expand(self, monkeypatch: pytest.MonkeyPatch) -> None:
        texts = {"twice": f"{HERE},{HERE}", "more": f"twice,{HERE}{{max_size=1}}", "loop": "more,loop"}
        names = registry.names
        monkeypatch.setattr(registry, "names", lambda kind: list(texts) if kind == "pipelines" else names(kind))
        monkeypatch.setattr(registry, "pipeline_text", texts.__getitem__)
        assert len(Pipeline.parse("more")) == 3
        with pytest.raises(UsageError, match="'loop' contains itself"):
            Pipeline.parse("loop")

    def test_unknown_name(self) -> None:
        with pytest.raises(UsageError, match="no pass is named 'nonsense'"):
            Pipeline.parse("nonsense")


class TestRecipe:
    def test_round_trip(self) -> None:
        pipeline = Pipeline([MergeMuls(max_size=3), MergeMuls(), Scale(factor=float("inf"))])
        text = pipeline.to_recipe()
        assert Pipeline.from_recipe(text) == pipeline
        assert 'lwgraph = "' in text and 'onnx = "' in text

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("passes = 3", "must be"),
            ("[[passes]]\nratio = 1", "each with a name"),
            ("[[pases]]\nname = 'x'", "unknown section 'pases'; did you mean 'passes'"),
            ("= 1", "recipe is not TOML"),
            (f"[[passes]]\nname = '{HERE}'\nmax_size = 'x'", "allowed: an integer"),
            (f"[[passes]]\nname = '{HERE}'\nmx_size = 1", "did you mean 'max_size'"),
        ],
    )
    def test_errors(self, text: str, message: str) -> None:
        with pytest.raises(UsageError) as caught:
            Pipeline.from_recipe(text)
        assert message in str(caught.value)

    def test_is_written_into_the_model_and_accumulates(self) -> None:
        model = parse(MULS)
        first, second = Pipeline([MergeMuls(max_size=5)]), Pipeline([Scale(factor=2.0), MergeMuls()])
        first.run(model, Context())
        assert Pipeline.from_recipe(model.metadata_props[KEY]) == first
        model.graph.initializers["extra"] = ir.unattached_constant(np.float32([1]))
        before = model.metadata_props[KEY]
        second.run(model, Context())  # nothing left to do
        assert model.metadata_props[KEY] == before
        again = parse(MULS)
        again.metadata_props[KEY] = before
        second.run(again, Context())
        assert Pipeline.from_recipe(again.metadata_props[KEY]).passes == (*first, *second)

    def test_nothing_done_leaves_no_trace(self) -> None:
        model = parse("g (float[2] x) => (float[2] y) { y = Neg(x) }")
        before = ir.fingerprint(model)
        assert Pipeline([MergeMuls()]).rewrite(model)[0].count == 0
        assert ir.fingerprint(model) == before


class TestFailures:
    def test_a_crash_becomes_one_line(self) -> None:
        with pytest.raises(CheckError, match=r"^pass 'crash' failed: KeyError: 'weights'$"):
            Pipeline([Crash()]).run(parse(MULS))

    def test_the_collector_of_cycles_runs_again_after_a_crash(self) -> None:
        assert gc.isenabled()
        with pytest.raises(CheckError):
            Pipeline([Crash()]).run(parse(MULS))
        assert gc.isenabled()

    def test_a_guarded_crash_is_undone(self) -> None:
        model, context = parse(MULS), Context()
        before = ir.fingerprint(model)
        step, _ = Pipeline([GuardedCrash(), MergeMuls(max_size=0)]).rewrite(model, context)
        assert "KeyError" in step.dropped
        assert ir.fingerprint(model) == before
        assert "the pass was undone" in context.warnings[0]


class TestGuarded:
    """`guarded`: what fails is undone whether the pass says so or not, and the others go on."""

    def test_what_is_undone_twice_is_as_it_was(self) -> None:
        model = parse(MULS)
        before = ir.fingerprint(model)
        Pipeline([Idle(), Scale(), Idle(), Scale()]).rewrite(
            model, Context(failures=Failures()), [Verify()], guarded=True
        )
        assert ir.fingerprint(model) == before

    def test_passes_that_change_nothing_share_a_copy_of_the_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        copies = []
        clone = ir.clone
        monkeypatch.setattr(ir, "clone", lambda model: copies.append(1) or clone(model))

        def counted(*passes: Pass) -> int:
            copies.clear()
            Pipeline(passes).rewrite(parse(MULS), Context(failures=Failures()), [Verify(numeric=False)], guarded=True)
            return len(copies)

        few = counted(Idle(), Idle(), MergeMuls())
        assert counted(*[Idle()] * 20, MergeMuls()) == few
        assert counted(MergeMuls(), Idle()) > few  # what changed is copied anew

    def test_a_pass_that_crashes_is_undone_and_the_next_one_runs(self) -> None:
        model, context = parse(MULS), Context(failures=Failures())
        steps = Pipeline([Crash(), MergeMuls()]).rewrite(model, context, guarded=True)
        assert "pass 'crash' failed: KeyError" in steps[0].dropped and [s.count for s in steps] == [0, 2]
        assert [(row.step, row.reason) for row in context.failures.rows] == [("pass 'crash'", steps[0].dropped)]
        assert '"crash"' not in model.metadata_props[KEY] and "MergeMuls" in model.metadata_props[KEY]

    def test_a_pass_that_breaks_its_contract_is_undone(self) -> None:
        model, context = parse(MULS), Context(failures=Failures())
        before = ir.fingerprint(model)
        (step,) = Pipeline([Scale()]).rewrite(model, context, [Verify()], guarded=True)
        assert "broke its contract" in step.dropped and ir.fingerprint(model) == before

    def test_an_instrument_that_crashes_undoes_the_pass(self) -> None:
        class Broken(Verify):
            def after(self, step: Step, model: ir.Model, context: Context) -> None:
                raise FloatingPointError("overflow")

        model, context = parse(MULS), Context(failures=Failures())
        before = ir.fingerprint(model)
        (step,) = Pipeline([MergeMuls()]).rewrite(model, context, [Broken()], guarded=True)
        assert step.dropped == "FloatingPointError: overflow" and ir.fingerprint(model) == before
        with pytest.raises(FloatingPointError):
            Pipeline([MergeMuls()]).run(parse(MULS), Context(), [Broken()])
        with pytest.raises(CheckError, match="FloatingPointError: overflow"):  # a context that does not say is strict
            Pipeline([MergeMuls()]).run(parse(MULS), Context(), [Broken()], guarded=True)

    def test_without_time_none_is_begun(self) -> None:
        model, left = parse(MULS), [1.0, 0.0]
        context = Context(failures=Failures(), patience=lambda: left[0])

        class Spends(Verify):
            def after(self, step: Step, model: ir.Model, context: Context) -> None:
                left.pop(0)

        steps = Pipeline([MergeMuls(), Idle(), Crash()]).rewrite(model, context, [Spends()], guarded=True)
        assert [step.count for step in steps] == [2, 0, 0] and not context.failures.rows
        assert [step.dropped for step in steps] == ["", *["no time was left for it"] * 2]

    def test_ctrl_c_goes_on(self) -> None:
        class Stopped(Verify):
            def after(self, step: Step, model: ir.Model, context: Context) -> None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Pipeline([MergeMuls()]).run(parse(MULS), Context(), [Stopped()], guarded=True)


class Counting:
    """Counts the models that it prepares."""

    name = "counting"

    def __init__(self) -> None:
        self.prepared = 0

    def prepare(self, model: ir.Model, outputs: Any = None) -> Any:
        self.prepared += 1
        return registry.executor("ort").prepare(model, outputs)


class TestVerifyTogether:
    """`each=False`: outputs are compared once, after the last pass."""

    def test_two_models_are_run_however_many_passes_there_are(self) -> None:
        @dataclass(frozen=True)
        class Writes(Idle):
            def run(self, model: ir.Model, context: Context) -> int:
                model.graph.doc_string = f"{model.graph.doc_string}."
                return 1

        runs = []
        for each in (True, False):
            executor = Counting()
            Pipeline([Writes()] * 4).rewrite(parse(MULS), Context(), [Verify([executor], each=each)])
            runs.append(executor.prepared)
        assert runs[1] < runs[0] and runs[1] == 3  # one of them to find out which inputs the model takes

    def test_what_passes_did_wrong_is_found(self) -> None:
        with pytest.raises(CheckError, match="the passes together broke their contract"):
            Pipeline([Scale(), Idle()]).rewrite(parse(MULS), Context(), [Verify(each=False)])

    def test_a_model_that_does_not_run_is_found(self) -> None:
        class Refusing(Counting):
            def prepare(self, model: ir.Model, outputs: Any = None) -> Any:
                if len(model.graph) < 3:
                    raise ModelError("no")
                return super().prepare(model, outputs)

        with pytest.raises(CheckError, match="left a model that counting cannot run: no"):
            Pipeline([MergeMuls()]).rewrite(parse(MULS), Context(), [Verify([Refusing()], each=False)])

    def test_the_structure_is_looked_at_after_each(self) -> None:
        @dataclass(frozen=True)
        class Hides(MergeMuls):
            def run(self, model: ir.Model, context: Context) -> int:
                super().run(model, context)
                return 0

        with pytest.raises(CheckError, match="reports no change"):
            Pipeline([Hides()]).rewrite(parse(MULS), Context(), [Verify(each=False)])


class TestVerify:
    def test_good_passes_go_through(self) -> None:
        steps = Pipeline([MergeMuls()]).rewrite(parse(MULS), Context(), [Verify()])
        assert steps[0].count == 2

    def test_a_broken_contract_names_pass_and_value(self) -> None:
        with pytest.raises(CheckError) as caught:
            Pipeline([MergeMuls(max_size=0), Scale()]).run(parse(MULS), Context(), [Verify()])
        message = str(caught.value)
        assert message.startswith("pass 'scale' broke its contract (equal over the reals; rounding may differ)")
        assert "'t'" in message  # the first value that differs, not the output y
        assert "\n" not in message

    def test_a_guarded_pass_is_undone(self) -> None:
        model, context = parse(MULS), Context()
        steps = Pipeline([GuardedScale(), MergeMuls()]).rewrite(model, context, [Verify()])
        assert [s.count for s in steps] == [0, 2]
        assert "guarded-scale" in context.warnings[0]
        assert "guarded-scale" not in model.metadata_props[KEY]

    def test_a_renamed_output(self) -> None:
        with pytest.raises(CheckError, match=r"pass 'rename' changed the interface.*'other'"):
            Pipeline([Rename()]).run(parse(MULS), Context(), [Verify()])

    @pytest.mark.parametrize("ir_version", [3, 4])
    def test_an_optional_input_may_go_only_where_the_format_demanded_it(self, ir_version: int) -> None:
        text = "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1.0, 2.0}> { y = Mul(x, w) }"
        before = parse(text, opset=8, ir_version=ir_version)
        after = ir.clone(before)
        after.graph.inputs.pop()
        after.ir_version = 4
        assert (interface_difference(before, after) == "") == (ir_version == 3)

    def test_structure_only(self) -> None:
        Pipeline([Scale()]).run(parse(MULS), Context(), [Verify(numeric=False)])

    def test_given_feeds_are_used(self) -> None:
        zeros = [{"x": np.zeros(2, np.float32)}]
        Pipeline([Scale()]).run(parse(MULS), Context(), [Verify(feeds=zeros, vary=False)])  # zero hides the error
        Pipeline([Scale()]).run(parse(MULS), Context(data=zeros), [Verify(vary=False)])  # type: ignore[arg-type]

    def test_variants_of_given_feeds_are_tried(self) -> None:
        zeros = [{"x": np.zeros(2, np.float32)}]
        with pytest.raises(CheckError, match=r"'scale' broke its contract .*; on values of both signs"):
            Pipeline([Scale()]).run(parse(MULS), Context(), [Verify(feeds=zeros)])

    def test_a_change_that_is_not_reported_is_found_where_it_was_made(self) -> None:
        @dataclass(frozen=True)
        class Hidden(Scale):
            """Says that it did nothing."""

            name = "hidden"

            def run(self, model: ir.Model, context: Context) -> int:
                return 0 * super().run(model, context)

        with pytest.raises(CheckError, match="pass 'hidden' reports no change, but changed "):
            Pipeline([MergeMuls(max_size=0), Hidden(), MergeMuls()]).run(parse(MULS), Context(), [Verify()])


def test_timing() -> None:
    timing = PassTimer()
    Pipeline([MergeMuls(), MergeMuls()]).run(parse(MULS), Context(), [timing])
    assert [(name, count) for name, count, _ in timing.table()] == [(HERE, 2), (HERE, 0)]
    assert timing.seconds > 0


def test_dump(tmp_path: Path) -> None:
    Pipeline([MergeMuls(max_size=0), MergeMuls()]).run(parse(MULS), Context(), [Dump(tmp_path / "ir")])
    assert sorted(p.name for p in (tmp_path / "ir").iterdir()) == ["000-input.txt", "002-merge-muls.txt"]
    assert "Mul" in (tmp_path / "ir" / "002-merge-muls.txt").read_text()


def test_bisect_limit() -> None:
    model = parse(MULS)
    steps = Pipeline([MergeMuls(), Rename()]).rewrite(model, Context(), [BisectLimit(1)])
    assert [s.count for s in steps] == [1, 0]
    assert model.graph.outputs[0].name == "y"


class TestBisect:
    def good(self, model: ir.Model) -> bool:
        run = registry.executor("ort").prepare(model)
        return bool(np.allclose(run({"x": np.ones(2, np.float32)})["y"], 24, rtol=1e-5))

    def test_finds_the_rewrite(self) -> None:
        body = MULS.replace("float[1] c = {4}", "float[1] c = {4}, float[1] d = {2}, float[1] e = {0.5}").replace(
            "[n3] y = Mul(t, c)", "[n3] u = Mul(t, c) [n4] v = Mul(u, d) [n5] y = Mul(v, e)"
        )
        culprit = find_culprit(parse(body), Pipeline([Scale(), MergeMuls()]), self.good)
        assert culprit is not None
        assert (culprit.number, culprit.total, culprit.pass_name, culprit.place) == (1, 5, "scale", "n2")
        assert str(culprit) == "rewrite 1 of 5: pass 'scale' at 'n2'"

    def test_a_crash_is_found(self) -> None:
        culprit = find_culprit(parse(MULS), Pipeline([MergeMuls(), Crash()]), self.good)
        assert culprit is not None and culprit.pass_name == "crash"

    def test_all_good(self) -> None:
        assert find_culprit(parse(MULS), Pipeline([MergeMuls()]), self.good) is None

    def test_bad_from_the_start(self) -> None:
        with pytest.raises(CheckError, match="before any rewrite"):
            find_culprit(parse(MULS), Pipeline([MergeMuls()]), lambda m: False)


def test_reproducer(tmp_path: Path) -> None:
    data = [{"x": np.ones(2, np.float32)}]
    with pytest.raises(CheckError, match="to reproduce: "):
        Pipeline([MergeMuls(max_size=0), Scale()]).run(
            parse(MULS), Context(data=data), [Verify(), Reproducer(tmp_path)]
        )  # type: ignore[arg-type]
    folder = tmp_path / "scale"
    text = (folder / "pipeline.txt").read_text().strip()
    assert "lwgraph optimize model.onnx -p" in (folder / "README.txt").read_text()
    with np.load(folder / "feeds_0.npz") as stored:
        feeds = [dict(stored)]
    with pytest.raises(CheckError, match="'t'"):
        Pipeline.parse(text).run(ir.load(folder / "model.onnx"), Context(data=feeds), [Verify()])  # type: ignore[arg-type]


def test_of_one_thing_only_the_first_warning_is_kept() -> None:
    context = Context()
    context.warn("layer 'a' has 3 samples", about="layer 'a' has ")
    context.beside().warn("layer 'a' has 4 samples", about="layer 'a' has ")
    context.warn("layer 'a'")
    context.warn("layer 'a'")
    assert context.warnings == ["layer 'a' has 3 samples", "layer 'a'"]
