"""Without data: what weights alone allow is proved, what data would buy is told, the rest only when asked for."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import lwgraph
from lwgraph import ir, registry
from lwgraph.cli.show import show_report
from lwgraph.errors import UsageError
from lwgraph.executor import Run
from lwgraph.layers.site import find_sites
from lwgraph.optimizer import without_data
from lwgraph.optimizer.front import pick
from lwgraph.optimizer.inputs import GENERATED_PARTS, gather
from lwgraph.optimizer.last_look import part
from lwgraph.optimizer.request import Request
from lwgraph.optimizer.without_data import Promise, estimate, surely_full_rank, tail_rank
from lwgraph.plan.plan import Precision
from lwgraph.plan.precision import FLOAT, available
from lwgraph.plan.price.oracle import Oracle, WorkOracle
from lwgraph.report import to_html
from tests.optimizer.products import encoder
from tests.optimizer.redundant import network
from tests.passes.prune.networks import Net

ORT = registry.executor("ort")


def test_weights_that_are_redundant_to_rounding_go_and_that_is_proved() -> None:
    result = lwgraph.optimize(network(rank=6), target="macs")
    assert len(result.plan.sites) == 2 and not result.plan.precision.passes
    held = [check for check in result.report.checks if check.contract == "rounding"]
    assert {check.executor for check in held} == {"ort", "reference"} and all(check.ok for check in held)
    assert not result.report.unproven


def test_nothing_approximate_is_done_where_nobody_asked() -> None:
    result = lwgraph.optimize(network(), target="macs")
    assert result.plan.empty
    reasons = [row["reason"] for row in result.report.skipped]
    assert sum("no form of half the rank keeps the weight itself" in reason for reason in reasons) >= 3


def test_a_layer_whose_proof_fails_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the two is spoilt when it is carried out, alone or with the other."""
    real = without_data.carry_out
    spoilt: list[str] = []

    def carried(model: ir.Model, plan: Any, context: Any) -> Any:
        found = real(model, plan, context)
        spoilt[:] = spoilt or [next(iter(plan.sites))]
        if spoilt[0] in plan.sites:
            weight = next(v for n, v in found.model.graph.initializers.items() if n not in before)
            ir.set_constant(weight, 1.1 * np.asarray(ir.constant(weight)))
        return found

    before = set(ir.load(network(rank=6)).graph.initializers)
    monkeypatch.setattr(without_data, "carry_out", carried)
    result = lwgraph.optimize(network(rank=6), target="macs")
    assert len(result.plan.sites) == 1 and spoilt[0] not in result.plan.sites
    assert any(
        row["place"] == spoilt[0] and "not the same to rounding" in row["reason"] for row in result.report.skipped
    )
    assert all(check.ok for check in result.report.checks)


@pytest.mark.parametrize(("rank", "full"), [(64, True), (36, False), (8, False), (0, False)])
def test_full_rank_is_told_without_eigenvalues(rank: int, full: bool) -> None:
    """Of 64 rows; a rank within the margin over a half is left to the eigenvalues."""
    random = np.random.default_rng(0)
    assert surely_full_rank(random.standard_normal((64, rank)) @ random.standard_normal((rank, 300))) is full


def test_wide_weights_take_seconds() -> None:
    """A head of a VGG, of full rank: its views are looked at in part."""
    view = np.random.default_rng(0).standard_normal((4096, 9000))
    start = time.perf_counter()
    assert surely_full_rank(view)
    assert time.perf_counter() - start < 60  # eigenvalues of it take minutes


def test_the_promise_prices_a_few_layers_and_says_what_it_assumes() -> None:
    model = ir.load(network())
    feeds = [{"x": np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)}]
    promise = estimate(model, ORT, WorkOracle(ORT), feeds, integers=False)
    assert 1.0 <= promise.low <= promise.high
    assert re.search(r"about 2\.0 to 4\.5 times the speed .* assumes that", str(Promise(2.0, 4.46)))
    assert "little more" in str(Promise(1.0, 1.1))


def test_of_a_network_that_changes_its_input_nothing_is_promised() -> None:
    net = Net(0)
    x = net.input(1, 3, 32, 32)
    y = net.conv(net.conv(x, 3, 48, 3, act="Relu"), 48, 3, 3)
    model = ir.load(net.model(y))
    feeds = [{"x": np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)}]
    assert estimate(model, ORT, Oracle(ORT), feeds, integers=available()).low == 1.0


@pytest.mark.parametrize(("grids", "low"), [(Precision(("quantize{activations=dynamic}",)), 2.4), (None, 1.86)])
def test_the_lower_end_is_that_of_grids_that_are_taken_as_the_model_runs_where_there_are_any(
    grids: Precision | None, low: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network takes 6 ms and 2 ms with them; a layer takes half its time in static integers."""
    model = encoder()
    monkeypatch.setattr("lwgraph.plan.precision.dynamic_grids", lambda *words: grids)
    monkeypatch.setattr(without_data, "carry_out", lambda model, plan, context: SimpleNamespace(model=model))
    oracle = SimpleNamespace(
        whole=lambda models, feeds: [6.0, 2.0][: len(models)],
        prices=lambda site, forms, kind=FLOAT: [SimpleNamespace(ms=2.0 if kind == FLOAT else 0.8)],
    )
    feeds = [{"x": np.zeros((4, 64), np.float32)}]
    assert estimate(model, ORT, oracle, feeds, integers=True).low == pytest.approx(low, rel=0.01)  # type: ignore[arg-type]


def test_where_whole_channels_can_go_both_sides_of_a_layer_shrink() -> None:
    """Of three layers in a row: those between the first and the second, and between that and the last."""
    net, rng = Net(0), np.random.default_rng(0)
    x = net.input(1, 32, 8, 8)
    for index in range(3):
        x = net.conv(x, 32, 32, 1, act="Relu" if index < 2 else "")
    model = ir.load(net.model(x))
    for value in model.graph.initializers.values():
        weight = ir.constant(value)
        if weight is not None and weight.ndim == 4:  # of rank 16 each
            thin = rng.standard_normal((32, 16)) @ rng.standard_normal((16, 32))
            ir.set_constant(value, thin.reshape(weight.shape).astype(np.float32))
    sites = find_sites(model)
    first, second, last = without_data._kept(model, sites)
    shares = [tail_rank(site, without_data.ROUGH_TAIL) for site in sites]
    assert [first, second, last] == pytest.approx([shares[0], shares[0] * shares[1], min(shares[1:])])
    assert max(shares) <= 0.5


def test_low_rank_weights_promise_more() -> None:
    thin, full = (find_sites(ir.load(network(rank)))[1] for rank in (6, None))
    assert tail_rank(thin, 0.02) < 0.1 < 0.5 < tail_rank(full, 0.02)


# ------------------------------------------------------------ what is asked for


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """Searches do not go on for long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lwgraph.plan.search.plan_search.BARREN", 4)
        yield


@pytest.fixture(scope="module")
def unproven(short: None) -> lwgraph.Result:
    return lwgraph.optimize(network(rank=20, width=48), unproven=True, target="macs")


def test_unproven_does_what_data_would_have_proved_and_every_line_says_so(unproven: lwgraph.Result) -> None:
    report = unproven.report
    assert report.unproven and not unproven.plan.empty and unproven.status in (0, 3)
    assert json.loads(report.to_json())["unproven"] is True
    last = part(gather(ir.load(network()), Request(unproven=True), ORT).judge, 0)[1]
    assert report.score is not None and last is not None and report.score.samples == last.count
    assert report.score.judged_on == "Judged on generated inputs."
    page = to_html(report)
    assert "<title>lwgraph: model (unproven)" in page and "Unproven: fitted to and judged on generated inputs" in page

    out = Console(width=160)
    with out.capture() as lines:
        show_report(out, report, explain=True)
    told = lines.get().splitlines()
    assert len(told) > 8 and all(line.startswith("unproven: ") for line in told)
    assert any("promise" in line for line in told) and any("note:" in line for line in told)


def test_the_same_seed_generates_the_same_disjoint_parts() -> None:
    model = ir.load(network())
    inputs, again = (gather(model, Request(unproven=True), ORT) for _ in range(2))
    parts = [inputs.fit, inputs.search, list(inputs.judge or [])]
    assert tuple(map(len, parts)) == GENERATED_PARTS
    seen = [feed["x"].tobytes() for part in parts for feed in part]
    assert len(set(seen)) == sum(GENERATED_PARTS)
    assert seen == [f["x"].tobytes() for p in (again.fit, again.search, list(again.judge or [])) for f in p]


def test_what_a_users_metric_judges_is_searched_and_is_not_unproven() -> None:
    proto = network(rank=24, width=48)
    feeds = [{"x": np.random.default_rng(i).standard_normal((4, 3, 16, 16)).astype(np.float32)} for i in range(3)]
    base = ORT.prepare(ir.load(proto))
    (name,) = base(feeds[0])
    wanted = [base(feed)[name] for feed in feeds]

    def likeness(run: Run) -> float:
        gaps = [np.square(run(f)[name] - w).mean() / w.var() for f, w in zip(feeds, wanted, strict=True)]
        return 1 - float(np.mean(gaps))

    result = lwgraph.optimize(proto, metric=likeness, max_drop=0.05, target="macs")
    assert not result.plan.empty and result.status == 3 and not result.report.unproven  # one number has no interval
    assert result.report.score is not None and result.report.score.drop <= 0.05
    assert any("fitted to 64 generated inputs" in note for note in result.report.notes)
    assert not any("not known" in note for note in result.report.notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": "x.npz"}, "what --data says"),
        ({"eval_data": "x.npz"}, "what --eval-data says"),
        ({"metric": "module:function"}, "what --metric says"),
        ({"preset": "lossless"}, "lossless rules out"),
    ],
)
def test_unproven_is_for_runs_that_nothing_judges(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Request(unproven=True, **options)


def test_no_plan_of_an_unproven_run_can_be_picked(unproven: lwgraph.Result) -> None:
    assert unproven.report.details["search"]["candidates"] and not unproven.report.details["front"]
    with pytest.raises(UsageError, match="no front of this model is in the cache"):
        pick(ir.load(network(rank=20, width=48)), 1, ORT, registry.executor("reference"), [])
