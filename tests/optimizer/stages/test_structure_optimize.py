"""A network whose channels repeat each other: `optimize` cuts them before anything else, and the plan says so."""

import numpy as np
import pytest
from onnx import numpy_helper

import lwgraph
from lwgraph import ir, registry
from tests.passes.prune.networks import Net

INSIDE = 64


@pytest.fixture(scope="module")
def twins() -> ir.Model:
    """Three convolutions of 64 channels of which every four are alike."""
    net = Net(3)
    x = net.conv(net.input("N", 3, 12, 12), 3, INSIDE, 3, act="Relu")
    for _ in range(2):
        x = net.conv(x, INSIDE, INSIDE, 3, act="Relu")
    proto = net.model(net.head(x, INSIDE))
    for weight in proto.graph.initializer:
        array = numpy_helper.to_array(weight).copy()
        if array.shape[0] == INSIDE:
            for other in range(1, 4):
                array[other::4] = array[::4]
            weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    return ir.load(proto)


@pytest.mark.usefixtures("no_trials")
def test_channels_go_and_the_plan_repeats_it_byte_for_byte(twins, monkeypatch, tmp_path):
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((4, 3, 12, 12)).astype(np.float32)} for _ in range(16)]
    judged, run = data[:4], registry.executor("ort").prepare(twins)
    (name,) = run(judged[0])
    wanted = [run(feed)[name] for feed in judged]

    def likeness(run):
        gaps = [np.square(run(feed)[name] - w).mean() / w.var() for feed, w in zip(judged, wanted, strict=True)]
        return -float(np.mean(gaps))

    result = lwgraph.optimize(twins, data=data[4:], metric=likeness, max_drop=0.02, target="macs")
    plan = result.plan
    assert result.status == 3  # one number has no interval
    assert plan.groups and any(width.keep <= width.of // 2 for width in plan.groups.values())
    rows = {row.name: row.form for row in result.report.sites if row.operator == "channels"}
    assert rows == {name: f"{width.of} to {width.keep} channels" for name, width in plan.groups.items()}
    assert any(candidate["origin"] == "structure" for candidate in result.report.details["search"]["candidates"])
    ran = {row.name: row for row in result.report.runs}
    assert result.report.pass_seconds is not None
    for row in ran.values():  # each stage said before it began what it would take
        assert row.passes == pytest.approx(row.seconds / result.report.pass_seconds)
        assert (row.predicted is None) == row.outcome.startswith("nothing to do")
        assert row.predicted is None or row.predicted > 0
    assert ran["structure"].predicted is not None and ran["search"].predicted is not None
    again = lwgraph.optimize(twins, data=data[4:], metric=likeness, max_drop=0.02, target="macs", plan=plan)
    assert again.plan.groups == plan.groups
    assert ir.fingerprint(again.model) == ir.fingerprint(result.model)
