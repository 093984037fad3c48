"""The section of what was searched: front, verdicts, predictions; and the chart under it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lwgraph.report import Report
from lwgraph.report.chart import ChartAxis, Point, Series, scatter
from lwgraph.report.sections.search import rank_correlation, search


def plan(ms: float, loss: float | None, **more: Any) -> dict[str, Any]:
    known = {"predicted_ms": ms, "predicted_loss": 2 * loss if loss else None, "loss": loss, "origin": "solver"}
    return {**known, "judged": None, "measured_ms": None, "accepted": None, "chosen": False, **more}


def report(*plans: dict[str, Any]) -> Report:
    made = Report(source="m", target="ort-cpu", threads=1, seed=0)
    made.details["search"] = {"objective": "latency", "seconds": 3.0, "base_ms": 9.0, "candidates": list(plans)}
    return made


PLANS = (
    plan(1.0, 0.5, judged=0.7, measured_ms=1.1, accepted=False),
    plan(2.0, 0.1, judged=0.9, measured_ms=2.0, accepted=True, chosen=True, origin="<cross>"),
    plan(3.0, 0.2),
    plan(4.0, 0.05),
    plan(5.0, None),
)


def test_nothing_searched_shows_nothing() -> None:
    assert search(Report(source="m", target="t", threads=1, seed=0)) == "" == search(report())


def test_front_verdicts_and_predictions() -> None:
    page = search(report(*PLANS))
    assert "5 plans were run" in page and "3 of them are on the front" in page and "2 were judged" in page
    assert page.count("rejected: by its estimate it breaks a promise") == 1 and page.count(">chosen</span>") == 1
    assert page.count("not judged: the chosen plan is predicted to be faster") == 1
    assert "off by at most 9 %" in page and "rank correlation of 1.00" in page
    assert "<cross>" not in page and "&lt;cross&gt;" in page


def test_no_plan_that_keeps_the_promises() -> None:
    assert "By their estimates, none keeps the promises." in search(report(*[{**p, "chosen": False} for p in PLANS]))
    assert "none keeps" not in search(report(*PLANS))


def test_rank_correlation() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486833)  # scipy.stats.spearmanr
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == 0


def circles(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="4"', svg)]


def test_points_are_where_their_values_are() -> None:
    svg = scatter([Series("", [Point(0, 1), Point(5, 10), Point(10, 100)])], ChartAxis("x"), ChartAxis("y", log=True))
    (x0, y0), (x1, y1), (x2, y2) = circles(svg)
    assert x0 < x1 < x2 and x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y0 > y1 > y2 and y1 == pytest.approx((y0 + y2) / 2, abs=0.1)  # upwards, and logarithmic


def test_values_that_an_axis_cannot_show_are_left_out() -> None:
    points = [Point(1, 0), Point(1, -1), Point(float("nan"), 1), Point(1, float("inf")), Point(1, 1)]
    assert len(circles(scatter([Series("", points)], ChartAxis("x"), ChartAxis("y", log=True)))) == 1
    assert scatter([Series("", points[:1])], ChartAxis("x"), ChartAxis("y", log=True)) == ""


@pytest.mark.parametrize(
    ("axis", "low", "high", "ticks"),
    [
        (ChartAxis(""), 0.0, 10.0, [0, 2, 4, 6, 8, 10]),
        (ChartAxis(""), 0.13, 0.29, [0.15, 0.2, 0.25]),
        (ChartAxis("", log=True), 0.9, 11.0, [1, 2, 5, 10]),
        (ChartAxis("", log=True), 1e-4, 2.0, [1e-4, 1e-3, 1e-2, 0.1, 1]),
    ],
)
def test_ticks_are_round(axis: ChartAxis, low: float, high: float, ticks: list[float]) -> None:
    assert axis.ticks(low, high) == pytest.approx(ticks)


def test_one_point_alone_can_be_drawn() -> None:
    for axis in (ChartAxis("x"), ChartAxis("x", log=True)):
        assert len(circles(scatter([Series("", [Point(3, 3)])], axis, axis, diagonal=0.1))) == 1
