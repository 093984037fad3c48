"""A second run with the same model, data and options judges what the first one found, and searches nothing."""

import numpy as np
import pytest
from onnx import numpy_helper

import lwgraph
from lwgraph import ir, registry
from lwgraph.alarm import OutOfTime
from lwgraph.optimizer import improve
from lwgraph.optimizer.stages.structure import Structures
from tests.passes.prune.networks import Net

pytestmark = pytest.mark.usefixtures("no_trials")


@pytest.fixture(autouse=True)
def one_stage(monkeypatch):
    monkeypatch.setattr(improve, "STAGES", (Structures(),))


@pytest.fixture(scope="module")
def model() -> ir.Model:
    """Two convolutions of 32 channels, of which every second one is like the one before."""
    net = Net(3)
    x = net.conv(net.input("N", 3, 6, 6), 3, 32, 3, act="Relu")
    proto = net.model(net.head(net.conv(x, 32, 32, 3, act="Relu"), 32))
    for weight in proto.graph.initializer:
        array = numpy_helper.to_array(weight).copy()
        if len(array) == 32:
            array[1::2] = array[::2]
            weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    return ir.load(proto)


@pytest.fixture(scope="module")
def asked(model):
    """Runs with a metric that counts differences `strictly` times, and other options."""
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((4, 3, 6, 6)).astype(np.float32)} for _ in range(6)]
    run = registry.executor("ort").prepare(model)
    (name,) = run(data[0])
    wanted = [run(feed)[name] for feed in data]

    def run_it(strictly=1.0, max_drop=0.2, **options):
        def likeness(run):
            gaps = [np.square(run(feed)[name] - w).mean() / w.var() for feed, w in zip(data, wanted, strict=True)]
            return -strictly * float(np.mean(gaps))

        return lwgraph.optimize(model, data=data, metric=likeness, max_drop=max_drop, target="macs", **options)

    return run_it


def stages(result):
    return [row.name for row in result.report.runs]


def test_a_second_run_searches_nothing_and_gives_the_same_bytes(asked, monkeypatch):
    first = asked()
    assert not first.plan.empty and stages(first) == ["structure"]
    with monkeypatch.context() as patch:
        patch.setattr(Structures, "run", lambda *_: pytest.fail("searched again"))
        again = asked()
    assert stages(again) == ["remembered"] and again.report.failures == []
    assert ir.fingerprint(again.model) == ir.fingerprint(first.model)
    assert again.plan.says() == first.plan.says() and again.status == first.status
    fronts = [[row["drop"] for row in each.report.details["front"]] for each in (first, again)]
    assert fronts[0] == fronts[1] and again.report.skipped == first.report.skipped
    assert any("judged and proved anew" in note for note in again.report.notes)
    # Another metric that gives the input the score that it had, but not the result.
    assert stages(asked(strictly=1.5)) == ["structure"]


def test_what_a_search_had_found_when_it_ended_is_remembered_unless_a_budget_ended_it(asked, monkeypatch):
    whole = Structures.run

    def cut(self, work):
        whole(self, work)
        raise OutOfTime

    monkeypatch.setattr(Structures, "run", cut)
    first, again = asked(max_drop=0.3), asked(max_drop=0.3)
    assert stages(again) == ["remembered"] and ir.fingerprint(again.model) == ir.fingerprint(first.model)
    assert all(stages(asked(max_drop=0.3, budget=limit)) == ["structure"] for limit in ("none", "none", "5m", "5m"))


def test_a_search_that_failed_in_part_is_not_remembered(asked, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Structures, "run", lambda *_: 1 / 0)
        assert asked().report.failures
    assert stages(asked(max_drop=1e-6)) == ["structure"]
    assert stages(asked()) == ["structure"]  # other options were asked for, or a stage had failed
