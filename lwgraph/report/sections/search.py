"""The search: the front, what was chosen and why, and how good the predictions were.

Shows `details["search"]`: "objective", "seconds", "base_ms", and "candidates", each with "predicted_ms",
"predicted_loss", "loss", "measured_ms", "judged", "accepted", "origin", "bytes", "macs", "chosen" and "summary" (of
the plan, in words).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lwgraph.report.chart import ChartAxis, Point, Series, scatter
from lwgraph.report.parts import table
from lwgraph.report.record import Report
from lwgraph.report.words import count, size

Plans = Sequence[Mapping[str, Any]]
AXES = {"latency": "predicted milliseconds", "bytes": "predicted bytes", "macs": "predicted multiply-adds"}
FIELDS = {"latency": "predicted_ms", "bytes": "bytes", "macs": "macs"}
HALF = 420  # width of each of two pictures side by side
BAND = 0.1  # predicted times within this of the measured are good


def search(report: Report) -> str:
    """The Pareto front, the plans on it, and predictions against measurements; "" when nothing was searched."""
    found = report.details.get("search")
    if not found or not found.get("candidates"):
        return ""
    plans: Plans = found["candidates"]
    objective = str(found.get("objective", "latency"))
    front = _front(plans, objective)
    judged = [p for p in plans if p.get("judged") is not None]
    words = (
        f"{len(plans)} plans were run on calibration data in {float(found.get('seconds', 0)):.0f} s. {len(front)} of "
        f"them are on the front: no other plan is better in both respects. {len(judged)} were judged on data that "
        f"neither the fits nor the search had seen."
    )
    if not any(p.get("chosen") for p in plans):
        words += " By their estimates, none keeps the promises."
    return (
        f"<h2>What was tried</h2><p>{escape(words)}</p>{_picture(plans, front, objective, found)}"
        f"{_plans(front, judged, report)}{_predictions(plans)}"
    )


def _front(plans: Plans, objective: str) -> Plans:
    """The plans that no other beats in the objective and the loss on calibration data, smallest first."""
    field = FIELDS.get(objective, "predicted_ms")
    kept: list[Mapping[str, Any]] = []
    for plan in sorted(plans, key=lambda p: (p[field], _loss(p))):
        if not kept or _loss(plan) < _loss(kept[-1]):
            kept.append(plan)
    return kept


def _loss(plan: Mapping[str, Any]) -> float:
    """Measured where it is known. (What was infinite is None in plain data: the plan could not be run.)"""
    if plan.get("loss") is not None:
        return float(plan["loss"])
    return math.inf if plan.get("predicted_loss") is None else float(plan["predicted_loss"])


def _picture(plans: Plans, front: Plans, objective: str, found: Mapping[str, Any]) -> str:
    field = FIELDS.get(objective, "predicted_ms")

    def points(some: Plans) -> list[Point]:
        return [Point(float(p[field]), _loss(p), _title(p)) for p in some]

    rejected = [p for p in plans if p.get("accepted") is False]
    kept = [p for p in plans if p.get("accepted")]
    series = [
        Series("run", points([p for p in plans if p not in front]), "var(--soft)", 2.5),
        Series("front", points(front), "var(--bar)", 3.5, line=True),
        Series("judged, estimated to break the promise", points(rejected), "var(--bad)", 5),
        Series("judged, estimated to keep it", points(kept), "var(--good)", 5),
        Series("chosen", points([p for p in plans if p.get("chosen")]), "var(--good)", 9, hollow=True),
    ]
    x = AXES.get(objective, AXES["latency"])
    if objective == "latency" and found.get("base_ms"):
        x += f" (input: {float(found['base_ms']):.3g})"
    return scatter(series, ChartAxis(x), ChartAxis("loss on calibration data", log=True))


def _title(plan: Mapping[str, Any]) -> str:
    words = [f"{_number(plan.get('predicted_ms'))} ms predicted, loss {_number(_loss(plan))}"]
    if plan.get("measured_ms") is not None:
        words.append(f"{_number(plan['measured_ms'])} ms measured")
    if plan.get("judged") is not None:
        words.append(f"judged {_number(plan['judged'])}")
    words.append(f"found by {plan.get('origin', '')}")
    return "; ".join([*words, str(plan["summary"])] if plan.get("summary") else words)


def _plans(front: Plans, judged: Plans, report: Report) -> str:
    shown = [*front, *(p for p in judged if p not in front)]
    shown.sort(key=lambda p: p["predicted_ms"])
    chosen = next((p for p in shown if p.get("chosen")), None)
    rows = [
        [
            _number(p.get("predicted_ms")),
            _number(p.get("measured_ms")),
            size(p["bytes"]) if p.get("bytes") else "",
            count(p["macs"]) if p.get("macs") else "",
            _number(p.get("predicted_loss")),
            _number(p.get("loss")),
            _number(p.get("judged")),
            escape(str(p.get("origin", ""))),
            _verdict(p, chosen),
        ]
        for p in shown
    ]
    score = report.score.name if report.score else "judged"
    head = [
        ("predicted ms", True),
        ("measured ms", True),
        ("size", True),
        ("multiply-adds", True),
        ("predicted loss", True),
        ("loss", True),
        (escape(score), True),
        ("found by", False),
        ("outcome", False),
    ]
    return f"<details><summary>{len(rows)} plans on the front or judged</summary>{table(head, rows)}</details>"


def _verdict(plan: Mapping[str, Any], chosen: Mapping[str, Any] | None) -> str:
    if plan.get("chosen"):
        return '<span class="good">chosen</span>'
    if plan.get("accepted") is False:
        return '<span class="bad">rejected: by its estimate it breaks a promise</span>'
    if plan.get("accepted"):
        return "its estimate keeps the promises, but the chosen plan is better"
    if chosen is not None and plan["predicted_ms"] > chosen["predicted_ms"]:
        return "not judged: the chosen plan is predicted to be faster"
    return "not judged"


def _predictions(plans: Plans) -> str:
    """Time and loss, predicted against measured."""
    timed = [p for p in plans if p.get("measured_ms") is not None]
    ran = [p for p in plans if p.get("loss") is not None and p.get("predicted_loss") is not None]
    times = [Point(float(p["predicted_ms"]), float(p["measured_ms"]), _title(p)) for p in timed]
    losses = [Point(float(p["predicted_loss"]), float(p["loss"]), _title(p)) for p in ran]
    left = scatter([Series("", times)], ChartAxis("predicted ms"), ChartAxis("measured ms"), diagonal=BAND, width=HALF)
    right = scatter(
        [Series("", losses)], ChartAxis("predicted loss", log=True), ChartAxis("measured loss", log=True), width=HALF
    )
    if not left and not right:
        return ""
    words = []
    if timed:
        off = max(abs(float(p["predicted_ms"]) / float(p["measured_ms"]) - 1) for p in timed)
        words.append(
            f"{len(timed)} plans were timed as a whole; their predicted times are off by at most {100 * off:.0f} %."
        )
    if len(ran) > 2:
        ranks = rank_correlation([p.x for p in losses], [p.y for p in losses])
        words.append(f"Predicted and measured losses of {len(ran)} plans have a rank correlation of {ranks:.2f}.")
    pair = f'<div class="pair"><div>{left}</div><div>{right}</div></div>'
    return f"<h2>Predicted against measured</h2><p>{escape(' '.join(words))}</p>{pair}"


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's: the correlation of the ranks, equal values sharing their mean rank; 0 when one is constant."""
    a, b = _ranks(x), _ranks(y)
    mean = (len(a) - 1) / 2
    da, db = [v - mean for v in a], [v - mean for v in b]
    scale = math.sqrt(sum(v * v for v in da) * sum(v * v for v in db))
    return sum(p * q for p, q in zip(da, db, strict=True)) / scale if scale else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(range(len(values)), key=lambda i: values[i])
    ranks = [0.0] * len(values)
    start = 0
    while start < len(ordered):
        end = start
        while end + 1 < len(ordered) and values[ordered[end + 1]] == values[ordered[start]]:
            end += 1
        for i in ordered[start : end + 1]:
            ranks[i] = (start + end) / 2
        start = end + 1
    return ranks


def _number(value: Any) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.4g}"


__all__ = ["rank_correlation", "search"]
