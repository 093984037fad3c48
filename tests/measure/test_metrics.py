"""Task metrics and their uncertainty."""

from __future__ import annotations

import math
import sys
import weakref

import numpy as np
import pytest

from lwgraph.calibrate import open_data
from lwgraph.calibrate.signature import Input
from lwgraph.errors import CheckError, DataError, UsageError
from lwgraph.measure import drop, open_metric, suggest
from lwgraph.measure.kinds import OutputKind
from lwgraph.measure.metrics import class_axis
from lwgraph.measure.score import Score, mean_score, wilson

INPUTS = {"x": Input("x", np.dtype(np.float32), ("n", 4))}
X = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)


def original(feeds):
    return {"y": feeds["x"]}


def flipped(feeds):
    """Another class on samples whose first value is over 1."""
    return {"y": np.where(feeds["x"][:, :1] > 1, -feeds["x"], feeds["x"])}


def reader(labels=True, **options):
    data = {"x": X} | ({"labels": X.argmax(1)} if labels else {})
    return open_data(data, INPUTS, **options)


def test_top1_counts_right_classes_in_any_batching():
    share = float((X[:, 0] <= 1).mean())
    for batch in (None, 7, 50):
        metric = open_metric("top1", reader(batch=batch))
        assert metric(original).value == 1
        score = metric(flipped)
        assert score.value == pytest.approx(share)
        assert score.count == 50
        assert score.low < share < score.high


def test_padding_is_not_scored():
    fixed = {"x": Input("x", np.dtype(np.float32), (8, 4))}
    data = open_data({"x": X, "labels": X.argmax(1)}, fixed)
    assert open_metric("top1", data)(original).count == 50
    assert open_metric("agreement", data, original)(flipped).count == 50
    assert open_metric("cosine", data, original)(flipped).count == 50


def test_top1_of_one_by_one_maps_label_maps_one_hot_and_integer_outputs():
    metric = open_metric("top1", reader())
    assert metric(lambda f: {"y": f["x"][:, :, None, None]}).value == 1
    assert metric(lambda f: {"y": f["x"].argmax(1)}).value == 1
    one_hot = open_data({"x": X, "labels": np.eye(4)[X.argmax(1)]}, INPUTS)
    assert open_metric("top1", one_hot)(original).value == 1
    maps = open_data({"x": X, "labels": np.repeat(X.argmax(1), 6).reshape(50, 2, 3)}, INPUTS)
    spread = open_metric("top1", maps)(lambda f: {"y": np.repeat(f["x"], 6, 1).reshape(-1, 4, 2, 3)})
    assert spread.value == 1


def test_agreement_of_classes_sequences_and_integers():
    metric = open_metric("agreement", reader(labels=False), original)
    assert metric(flipped).value == pytest.approx(float((X[:, 0] <= 1).mean()))

    def sequence(feeds):  # (t, n, c), the batch on axis 1
        return {"y": np.stack([feeds["x"], -feeds["x"], feeds["x"]])}

    def changed(feeds):
        y = sequence(feeds)["y"].copy()
        y[2] = -y[2]
        return {"y": y}

    score = open_metric("agreement", reader(labels=False, batch=10), sequence)(changed)
    assert score.value == pytest.approx(2 / 3)
    assert score.count == 50
    whole = open_metric("agreement", reader(labels=False), lambda f: {"y": f["x"].argmax(1)})
    assert whole(lambda f: {"y": f["x"].argmax(1)}).value == 1


def test_the_original_runs_once():
    calls = []

    def counted(feeds):
        calls.append(1)
        return original(feeds)

    metric = open_metric("sqnr", reader(), counted)
    metric(flipped)
    metric(original)
    assert len(calls) == 50


@pytest.mark.parametrize("name", ["top1", "agreement", "sqnr"])
def test_the_original_is_let_go_once_its_outputs_are_known(name):
    session = Session()
    metric, known = open_metric(name, reader(), session), weakref.ref(session)
    metric(original)
    del session
    assert known() is None


class Session:
    """A run that holds much memory."""

    def __call__(self, feeds):
        return original(feeds)


def test_sqnr_cosine_and_psnr():
    def noisy(feeds):
        return {"y": feeds["x"] * np.float32(1.1)}

    assert open_metric("sqnr", reader(), original)(noisy).value == pytest.approx(20, abs=1e-3)
    assert open_metric("sqnr", reader(), original)(original).value == 100
    assert open_metric("cosine", reader(), original)(noisy).value == pytest.approx(1)
    assert open_metric("cosine", reader(), original)(lambda f: {"y": -f["x"]}).value == pytest.approx(-1)
    span = float(X.max() - X.min())
    score = open_metric("psnr", reader(), original)(lambda f: {"y": f["x"] + np.float32(0.01)})
    assert score.value == pytest.approx(20 * math.log10(span / 0.01), abs=1e-2)


def test_psnr_against_label_images():
    images = np.random.default_rng(1).random((6, 1, 4, 4)).astype(np.float32)
    inputs = {"x": Input("x", np.dtype(np.float32), ("n", 1, 4, 4))}
    data = open_data({"x": images, "labels": images}, inputs)
    shifted = open_metric("psnr", data, lambda f: {"y": f["x"]})(lambda f: {"y": f["x"] * np.float32(0.5)})
    expected = np.mean([10 * np.log10(1 / np.mean((i / 2) ** 2)) for i in images])
    assert shifted.value == pytest.approx(expected, rel=1e-5)


def test_the_worst_output_counts_unless_one_is_named():
    def two(feeds):
        return {"a": feeds["x"], "b": feeds["x"]}

    def worse(feeds):
        return {"a": feeds["x"], "b": feeds["x"] * np.float32(2)}

    assert open_metric("sqnr", reader(), two)(worse).value == pytest.approx(0, abs=1e-6)
    assert open_metric("sqnr", reader(), two, output="a")(worse).value == 100
    with pytest.raises(UsageError, match="no output 'c'"):
        open_metric("sqnr", reader(), two, output="c")(worse)


def test_a_function_is_a_metric_and_its_errors_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "my_metric_module.py").write_text(
        "def score(run):\n    return float(run({'x': 3})['y'])\n"
        "def bad(run):\n    raise ValueError('first\\nsecond')\nvalue = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    metric = open_metric("my_metric_module:score")
    assert metric(lambda f: {"y": f["x"] * 2}).value == 6
    assert metric.points(6, 5) == 1
    assert metric.points(0.9, 0.89) == pytest.approx(1)
    with pytest.raises(DataError, match="raised ValueError: first second") as caught:
        open_metric("my_metric_module:bad")(original)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="must be a function"):
        open_metric("my_metric_module:value")
    with pytest.raises(DataError, match="NaN"):
        open_metric(lambda run: math.nan)(original)
    with pytest.raises(DataError, match="TypeError"):
        open_metric(lambda run: None)(original)

    def refused(run):
        raise CheckError("broken")

    with pytest.raises(CheckError, match="broken"):
        open_metric(refused)(original)


@pytest.mark.parametrize(
    "spec, labels, message",
    [
        ("top2", True, "no metric is named 'top2'; did you mean 'top1'"),
        ("top1", False, "needs labels"),
    ],
)
def test_metrics_that_cannot_be_opened(spec, labels, message):
    with pytest.raises(UsageError, match=message):
        open_metric(spec, reader(labels=labels), original)
    with pytest.raises(UsageError, match="original model, which is missing"):
        open_metric("agreement", reader())
    with pytest.raises(UsageError, match="needs samples"):
        open_metric("sqnr")


@pytest.mark.parametrize(
    "run, message",
    [
        (lambda f: {"y": f["x"] * np.nan}, "has 4 NaN of 4 values on batch 0"),
        (lambda f: {"y": f["x"][:, :2]}, "not one of the 2 classes"),
        (lambda f: {"y": np.repeat(f["x"][:, None], 3, 1)}, "needs one class per label"),
        (lambda f: {"y": f["x"][:, 0]}, "no axis of classes"),
        (lambda f: {"y": f["x"][:, :1]}, "a single class"),
    ],
)
def test_outputs_that_do_not_suit(run, message):
    with pytest.raises(DataError, match=message):
        open_metric("top1", reader())(run)


def test_outputs_of_another_shape_are_refused():
    for name in ("agreement", "sqnr"):
        with pytest.raises(DataError, match="original"):
            open_metric(name, reader(), original)(lambda f: {"y": np.repeat(f["x"], 2, 0)})
    with pytest.raises(DataError, match="floating-point output"):
        open_metric("sqnr", reader(), lambda f: {"y": f["x"].argmax(1)})(lambda f: {"y": f["x"].argmax(1)})


@pytest.mark.parametrize(
    "shape, axis",
    [
        ((2, 5), 1),
        ((2, 5, 1, 1), 1),
        ((2, 5, 8, 8), 1),
        ((9, 1, 5), 2),
        ((1, 9, 5), 2),
        ((2, 5, 1), 1),
        ((2, 5, 1, 1, 1), 1),
    ],
)
def test_class_axes(shape, axis):
    assert class_axis(np.zeros(shape), "y") == axis


def test_suggestions():
    classes = OutputKind("classes", ("y",), "", width=4)
    assert suggest(reader(), classes) == "top1"
    assert suggest(reader(labels=False), classes) == "agreement"
    assert suggest(reader(), OutputKind("other", ("y",), "")) == "variance"
    many = open_data({"x": X, "labels": np.arange(50)}, INPUTS)
    assert suggest(many, classes) == "agreement"


def test_intervals():
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-3)
    assert wilson(1.0, 0) == (0.0, 1.0)
    values = np.random.default_rng(0).normal(3, 1, 400)
    score = mean_score(values)
    assert score.high - score.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert mean_score(values).low == score.low


def test_drops_are_paired():
    base = mean_score((np.arange(1000) % 10 != 0).astype(float))
    worse = base.samples.copy()
    worse[np.flatnonzero(worse)[:5]] = 0
    lost = drop(base, mean_score(worse))
    assert lost.value == pytest.approx(0.005)
    assert 0 < lost.low < lost.high < 0.011  # unpaired intervals are 0.037 wide
    assert drop(Score(2.0), Score(1.5)).value == 0.5
    assert drop(Score(2.0), Score(1.5)).low is None


def test_retrieval_is_the_share_of_nearest_neighbours_that_stay():
    metric = open_metric("retrieval", reader(batch=7), original)
    assert metric(lambda f: {"y": 3 * f["x"]}).value == 1
    assert metric.allowed(metric(original)) == 0.14  # what a cosine at its own floor leaves
    plane = metric(lambda f: {"y": f["x"] * np.float32([1, 1, 1, 0])})
    assert 0.3 < plane.value < 0.9 and plane.count == 50 and plane.low < plane.value < plane.high
    with pytest.raises(DataError, match="there are 11, at least 12 are needed"):
        open_metric("retrieval", reader(limit=11), original)(original)


def test_points_mean_the_same_in_every_unit():
    assert open_metric("top1", reader()).points(0.94, 0.93) == pytest.approx(1)
    assert open_metric("psnr", reader(), original).points(31.8, 31.7) == pytest.approx(1)


@pytest.mark.parametrize("name", ["agreement", "cosine", "variance", "sqnr"])
def test_a_walk_that_was_stopped_is_gone_on_with(name: str) -> None:
    """A budget that ends and Ctrl-C raise in the middle of a walk; what was kept then is no whole reference."""
    at_once = {"x": Input("x", np.dtype(np.float32), (5, 4))}
    runs = []

    def stopping(feeds):
        runs.append(len(runs))
        if len(runs) == 3:
            raise KeyboardInterrupt
        return original(feeds)

    metric = open_metric(name, open_data({"x": X}, at_once), stopping)
    whole = open_metric(name, open_data({"x": X}, at_once), original)
    with pytest.raises(KeyboardInterrupt):
        metric(original)

    def other(feeds):
        return {"y": feeds["x"][:, ::-1]}

    assert metric(other).value == whole(other).value and len(runs) > 3
