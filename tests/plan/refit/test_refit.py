"""Sequential refit of rewritten models to the original: it helps, it keeps the structure, it never harms."""

from typing import Any

import numpy as np
import pytest

from lwgraph import ir
from lwgraph.calibrate import Statistics
from lwgraph.calibrate.gram import CrossAccumulator, Gram
from lwgraph.errors import UsageError
from lwgraph.layers.form import parse_form
from lwgraph.plan.refit import sequential as module
from lwgraph.plan.refit.least_squares import Rows, behind_relu
from lwgraph.plan.refit.sequential import output_error, refit
from lwgraph.plan.refit.units import find_units
from lwgraph.rewrite import Context, Pass
from lwgraph.rewrite.provenance import FROM_KEY
from tests.plan.refit.counting import Counting
from tests.plan.refit.residual import FORMS, ORT, distance, inputs, network


def context(model: ir.Model, count: int = 48, **more: Any) -> Context:
    data = inputs(count)
    return Context(executor=ORT, data=data, statistics=Statistics(model, data, ORT), teacher=model, **more)


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_a_rewritten_network_comes_nearer_to_the_original(text: str) -> None:
    original = network(2)
    model, c = ir.clone(original), context(original)
    assert Pass.parse(text).run(model, c) == 4
    before = distance(original, model)
    kinds = [node.op_type for node in model.graph]
    report = refit(original, model, c)
    assert report.after < 0.7 * report.before
    assert distance(original, model) < before
    assert [node.op_type for node in model.graph] == kinds
    forms = [layer.how for layer in report.layers if layer.how in ("form", "last")]
    assert len(forms) >= 2 and ("form" in forms or text.startswith(("fire", "smaller")))
    assert all(layer.after <= layer.before or np.isnan(layer.after) for layer in report.layers)
    judged = output_error(original, model, [inputs(48)[i] for i in held(48)], ORT)
    assert report.after == pytest.approx(judged, rel=1e-9)  # the order of a sum


LOOKING = ["octave{inputs=0.5,outputs=0.5}", "ghost{primary=24,cheap=depthwise}"]


@pytest.mark.parametrize("text", LOOKING)
def test_forms_that_look_at_more_than_their_patches_are_refitted(text: str) -> None:
    """On what they look at in the rewritten network: images of both resolutions, or the layer's own outputs."""
    original = network(1, channels=32)
    data = inputs(48, channels=32)
    model, c = ir.clone(original), Context(executor=ORT, data=data, statistics=Statistics(original, data, ORT))
    assert Pass.parse(text).run(model, c) == 2
    report = refit(original, model, c, statistics=False)
    assert "form" in [layer.how for layer in report.layers], report.layers
    assert report.after < 0.9 * report.before


def test_a_form_that_looks_at_more_than_its_patches_gets_these_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    original = network(1, channels=32)
    data = inputs(32, channels=32)
    model, c = ir.clone(original), Context(executor=ORT, data=data, statistics=Statistics(original, data, ORT))
    assert Pass.parse("octave{inputs=0.5}").run(model, c) == 2
    tried = []
    monkeypatch.setattr(module, "rewrite", lambda unit, fitted: tried.append(fitted.kernel.shape) or False)
    report = refit(original, model, c, statistics=False)
    assert tried == [(32, 64, 3, 3)] * 2  # fitted on the patches of the image and of the halved image
    assert report.after == report.before and not any(layer.how for layer in report.layers)


def test_behind_a_relu_only_what_it_lets_through_counts() -> None:
    """A layer whose negative outputs are beyond its reach: the linear fit wastes itself on them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 1, 6))
    y = np.maximum(x[:, 0, :3] @ rng.standard_normal((3, 4)), 0) - 2.0 * np.square(x[:, 0, 3:4])
    rows = Rows(x, y, rectified=True)
    centred = x[:, 0] - x[:, 0].mean(0)
    weight = np.linalg.lstsq(centred, y - y.mean(0), rcond=None)[0].T
    bias = y.mean(0) - weight @ x[:, 0].mean(0)
    moments = Gram(np.einsum("rgd,rge->gde", x, x) / len(x), x.mean(0), len(x))
    better = behind_relu(rows, moments, weight, bias, 1e-6)
    assert rows.error(*better) < 0.8 * rows.error(weight, bias)
    original = network(1)
    model, c = ir.clone(original), context(original, 24)
    Pass.parse("low-rank{rank=5,split=vertical}").run(model, c)
    assert [unit.rectified for unit in find_units(original, model)[0]] == [True, False, False]
    report = refit(original, model, c, relu=True)
    assert report.after < report.before


def test_what_a_layer_is_fitted_to_behind_a_relu_is_not_run_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk holds it: patches of what it stands before, and targets that it kept."""
    fits = []
    monkeypatch.setattr(module, "behind_relu", lambda *given: fits.append(1) or given[2:4])

    def runs(relu: bool) -> int:
        original, executor = network(1), Counting()
        model = ir.clone(original)
        c = Context(executor=executor, data=inputs(24), teacher=model)
        Pass.parse("low-rank{rank=5,split=vertical}").run(model, context(original, 24))
        refit(original, model, c, scope="all", relu=relu)
        return sum(executor.runs.values())

    assert runs(relu=True) == runs(relu=False) > 0 and fits


def held(count: int) -> list[int]:
    """Which of the feeds are held out with seed 0."""
    order = np.random.default_rng(0).permutation(count)
    return [int(i) for i in order[: round(0.25 * count)]]


def test_plain_layers_are_refitted_where_asked_for() -> None:
    original = network()
    model, rng = ir.clone(original), np.random.default_rng(3)
    for name, value in model.graph.initializers.items():
        if name.startswith("w"):
            w = ir.constant(value)
            ir.set_constant(value, (w + 0.3 * w.std() * rng.standard_normal(w.shape)).astype(np.float32))
    before = distance(original, model)
    report = refit(original, model, context(original), scope="all")
    assert {layer.how for layer in report.layers} == {"weight"}
    assert report.after < 0.05 * report.before
    assert distance(original, model) < 0.2 * before


@pytest.mark.parametrize("relu", [False, True])
def test_at_least_so_many_patches_are_looked_at(relu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    original, counts = network(1), {}
    result, rectified = CrossAccumulator.result, module.behind_relu
    monkeypatch.setattr(module, "HELD_ROWS", 100)
    for least in (500, 1800):  # of 36 samples with 64 positions each
        model, seen = ir.clone(original), []
        Pass.parse("low-rank{rank=5,split=vertical}").run(model, context(model))

        def counted(accumulator: CrossAccumulator, seen: list[int] = seen) -> Any:
            seen.append((found := result(accumulator)).gram.count)
            return found

        def behind(rows: Rows, *given: Any, seen: list[int] = seen) -> Any:
            seen.append(len(rows.x))
            return rectified(rows, *given)

        monkeypatch.setattr(CrossAccumulator, "result", counted)
        monkeypatch.setattr(module, "behind_relu", behind)
        refit(original, model, context(original), scope="all", rows_per_unknown=1, least_rows=least, relu=relu)
        counts[least] = max(seen[:-1])  # the last is the head, with one position a sample
    assert counts[500] < 1000 and 1800 <= counts[1800] < 2300


def test_other_layers_are_scaled_and_shifted_only() -> None:
    original = network()
    model, c = ir.clone(original), context(original)
    Pass.parse("low-rank{rank=5,split=vertical}").run(model, c)
    head = ir.constant(model.graph.initializers["wy"])
    report = refit(original, model, c)
    assert report.layers[-1].name == "head" and report.layers[-1].how == "affine"
    ratio = ir.constant(model.graph.initializers["wy"]) / head
    np.testing.assert_allclose(ratio, ratio[:, :1] * np.ones_like(ratio), rtol=1e-4)
    assert report.layers[-1].after < report.layers[-1].before
    plain = ir.clone(original)
    Pass.parse("low-rank{rank=5,split=vertical}").run(plain, c)
    only = refit(original, plain, c, statistics=False)
    assert [layer.name for layer in only.layers] == [f"conv{b}{k}" for b in range(3) for k in "ab"]
    assert np.array_equal(ir.constant(plain.graph.initializers["wy"]), head)


def test_the_same_input_gives_the_same_bytes() -> None:
    texts = []
    for _ in range(2):
        original = network(2)
        model, c = ir.clone(original), context(original, 24)
        Pass.parse("depthwise{terms=1}").run(model, c)
        refit(original, model, c)
        texts.append(ir.to_proto(model).SerializeToString())
    assert texts[0] == texts[1]


def test_few_samples_never_harm() -> None:
    original = network(1)
    for count in (1, 2, 5):
        model, c = ir.clone(original), context(original, count)
        Pass.parse("low-rank{rank=5,split=vertical}").run(model, c)
        report = refit(original, model, c)
        assert not report.after > report.before
    model, c = ir.clone(original), context(original, 2)
    Pass.parse("low-rank{rank=5,split=vertical}").run(model, c)
    refit(original, model, c)
    assert any("fits are reliable from about 720 samples: give" in text for text in c.warnings)


def test_a_layer_that_does_not_get_better_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    original = network()
    model, c = ir.clone(original), context(original, 16)
    Pass.parse("low-rank{rank=5,split=vertical}").run(model, c)
    weights = {name: ir.constant(v).copy() for name, v in model.graph.initializers.items()}
    spoil = lambda m, weight, bias, shifts: iter([(weight * 3.0, bias, 0.0)])  # noqa: E731
    monkeypatch.setattr(module, "dense", spoil)
    report = refit(original, model, c, statistics=False)
    assert report.refitted == 0 and report.after == report.before and report.kept == 0
    assert {layer.reason for layer in report.layers} == {
        "no refit brings its held-out outputs nearer to the original's"
    }
    assert all(np.array_equal(ir.constant(model.graph.initializers[name]), w) for name, w in weights.items())
    assert len([s for s in c.skipped if "no refit brings" in s.reason]) == 6


def test_refits_that_harm_the_outputs_are_undone_from_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that come nearer do not make the outputs come nearer: only what helps there stands."""
    original = network()
    model, c = ir.clone(original), context(original, 24)
    Pass.parse("low-rank{rank=5,split=vertical}").run(model, c)
    real, calls = module.output_error, []

    def worse_with_more(first: ir.Model, second: ir.Model, feeds: Any, executor: Any) -> float:
        calls.append(0)
        return {1: 1.0, 2: 2.0}.get(len(calls), 0.5)

    monkeypatch.setattr(module, "output_error", worse_with_more)
    report = refit(original, model, c, statistics=False)
    assert (report.before, report.after) == (1.0, 0.5)
    assert report.refitted >= 2 and report.kept == report.refitted // 2
    undone = report.refitted - report.kept
    assert any(f"{undone} of {report.refitted} refits were undone" in s.reason for s in c.skipped)
    assert real(original, model, inputs(24), ORT) > 0
    last = [layer.name for layer in report.layers if layer.how][-1]
    names = [n for n in model.graph.initializers if last in n]
    assert names
    fresh = ir.clone(original)
    Pass.parse("low-rank{rank=5,split=vertical}").run(fresh, c)
    assert all(
        np.array_equal(ir.constant(model.graph.initializers[n]), ir.constant(fresh.graph.initializers[n]))
        for n in names
    )


def test_the_sum_behind_a_layer_is_its_target() -> None:
    original = network()
    model, c = ir.clone(original), context(original)
    Pass.parse("low-rank{rank=5,split=vertical}").run(model, c)
    units, refused = find_units(original, model)
    assert not refused
    aims = {unit.name: (unit.target, unit.minus) for unit in units}
    assert aims["conv1b"] == ("s1", "o0") and aims["conv1a"] == ("a1", "") and aims["head"] == ("y", "")
    assert [unit.form for unit in units][:-1] == [parse_form("low-rank{rank=5,split=vertical}")] * 6


def test_channels_that_were_removed_are_left_out_of_the_target() -> None:
    original = network(1)
    model, keep = ir.clone(original), np.array([0, 2, 3, 7, 8, 11, 15])
    graph = model.graph
    for name, axis in (("w0a", 0), ("b0a", 0), ("w0b", 1)):
        ir.set_constant(graph.initializers[name], np.take(ir.constant(graph.initializers[name]), keep, axis))
    ir.infer_shapes(model)
    for node in graph:
        if node.name in ("conv0a", "relu0a"):
            node.outputs[0].shape = ir.Shape([None, 7, 8, 8])
    before = distance(original, model)
    report = refit(original, model, context(original), scope="all", kept={"a0": keep})
    assert {layer.name: layer.how for layer in report.layers} == {"conv0a": "", "conv0b": "weight", "head": "weight"}
    assert "those of the original" in report.layers[0].reason
    assert distance(original, model) < 0.3 * before


def test_what_cannot_be_refitted_says_why() -> None:
    original = network(1)
    model, c = ir.clone(original), context(original, 8)
    Pass.parse("low-rank{rank=5,split=vertical}").run(model, c)
    for node in model.graph:
        if node.metadata_props.get(FROM_KEY) == "conv0a":
            node.metadata_props[FROM_KEY] = "gone"
        if node.name == "head":
            node.outputs[0].name = "renamed"
    report = refit(original, model, c)
    by_name = {layer.name: layer for layer in report.layers}
    assert all(layer.how != "form" for name, layer in by_name.items() if name != "conv0b")
    assert any(s.place == "head" and "no value of its name" in s.reason for s in c.skipped)
    with pytest.raises(UsageError, match="--data"):
        refit(original, model, Context(executor=ORT))


def test_shared_weights_stay_shared() -> None:
    original = network(2)
    for node in original.graph:
        if node.name == "conv1a":
            node.replace_input_with(1, original.graph.initializers["w0a"])
    original.graph.initializers.pop("w1a")
    model, c = ir.clone(original), context(original, 16)
    Pass.parse("low-rank{rank=5,split=vertical}").run(model, c)
    count = len(model.graph.initializers)
    report = refit(original, model, c)
    reasons = {layer.name: layer.reason for layer in report.layers}
    assert "shared" in reasons["conv0a"] and "shared" in reasons["conv1a"]
    assert len(model.graph.initializers) == count
