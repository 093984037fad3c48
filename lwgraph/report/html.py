"""The report as one self-contained HTML page: no scripts, no files beside it, readable in light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from lwgraph.report.record import Report, SiteChoice, Stage
from lwgraph.report.words import count, percent, size, speed

STYLE = files("lwgraph.report").joinpath("report.css").read_text("utf8")


def to_html(report: Report) -> str:
    """The page as text. Every value from the model is escaped."""
    sections = [
        _tiles(report),
        _stages(report),
        _score(report),
        _latency_bars(report.stages),
        _sites(report.sites),
        _checks(report),
        _passes(report),
        _skipped(report),
        _footer(report),
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>lwgraph: {escape(report.source)}</title><style>{STYLE}</style>"
        f'<h1>{escape(report.source)}</h1><p class="lead">{escape(_lead(report))}</p>'
        f"{''.join(s for s in sections if s)}</html>\n"
    )


def _lead(report: Report) -> str:
    words = "" if report.outcome == "done" else f"{report.outcome}. "
    return words + f"Target {report.target}, {report.threads} thread{'s' * (report.threads != 1)}, seed {report.seed}."


def _table(head: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    """Rows of ready HTML cells; `head` says which columns are numbers."""
    titles = "".join(f'<th class="n">{h}</th>' if number else f"<th>{h}</th>" for h, number in head)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="n">{c}</td>' if number else f"<td>{c}</td>" for c, (_, number) in zip(row, head, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="wrap"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _tiles(report: Report) -> str:
    if len(report.stages) < 2:
        return ""
    first, last = report.stages[0], report.stages[-1]
    tiles = []
    if last.ratio:
        tiles.append((speed(last.ratio), "as fast as the input"))
    tiles.append((percent(last.facts.bytes / max(1, first.facts.bytes)), "of the input's bytes"))
    if first.facts.macs and last.facts.macs is not None:
        tiles.append((percent(last.facts.macs / first.facts.macs), "of the input's multiply-adds"))
    if report.score:
        tiles.append((f"{report.score.after:.4g}", f"{report.score.name}, was {report.score.before:.4g}"))
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in tiles)
        + "</div>"
    )


def _stages(report: Report) -> str:
    rows = [
        [
            escape(s.name),
            count(s.facts.nodes),
            count(s.facts.parameters),
            size(s.facts.bytes),
            count(s.facts.macs),
            "" if s.milliseconds is None else f"{s.milliseconds:.3f}",
            "" if s.ratio is None else speed(s.ratio),
            _spread(s),
            "" if s.score is None else f"{s.score:.4f}",
        ]
        for s in report.stages
    ]
    head = [
        ("model", False),
        ("nodes", True),
        ("parameters", True),
        ("size", True),
        ("multiply-adds", True),
        ("ms", True),
        ("speed", True),
        ("spread", True),
        ("score", True),
    ]
    return "<h2>Before and after</h2>" + _table(head, rows)


def _spread(stage: Stage) -> str:
    return "" if stage.ratio_spread is None else f"{speed(stage.ratio_spread[1])} to {speed(stage.ratio_spread[0])}"


def _score(report: Report) -> str:
    score = report.score
    if score is None:
        return ""
    kept = score.max_drop is None or score.drop <= score.max_drop
    asked = "" if score.max_drop is None else f", at most {score.max_drop:g} asked"
    samples = "" if score.samples is None else f" on {score.samples} samples"
    interval = ""
    if score.drop_interval is not None:
        interval = f" (95 % interval of the loss: {score.drop_interval[0]:.4g} to {score.drop_interval[1]:.4g})"
    looks = "" if score.looks < 2 else f" {score.looks} candidates were judged on this data."
    return (
        f"<h2>Accuracy</h2><p>{escape(score.name)}{samples}: "
        f"{score.before:.4f} before, {score.after:.4f} after{interval}; "
        f'<span class="{"good" if kept else "bad"}">{score.drop:.4g} {escape(score.unit)} lost{asked}</span>. '
        f"{escape(score.judged_on)}{looks}</p>"
    )


def _latency_bars(stages: Sequence[Stage]) -> str:
    timed = [s for s in stages if s.ratio is not None]
    if len(timed) < 2:
        return ""
    longest = max(s.ratio or 0 for s in timed)
    bars = ""
    for row, stage in enumerate(timed):
        width, top = 560 * (stage.ratio or 0) / longest, 24 * row
        bars += (
            f'<text x="0" y="{top + 16}">{escape(stage.name)}</text>'
            f'<rect x="110" y="{top + 4}" width="{width:.1f}" height="16" rx="3" fill="var(--bar)"/>'
            f'<text x="{118 + width:.1f}" y="{top + 16}">{percent(stage.ratio or 0)}</text>'
        )
    box = f'<svg viewBox="0 0 760 {24 * len(timed)}" width="100%" role="img">'
    return f"<h2>Latency, relative to the input</h2>{box}{bars}</svg>"


def _sites(sites: Sequence[SiteChoice]) -> str:
    if not sites:
        return ""
    rows = [
        [
            f"<code>{escape(s.name)}</code>",
            escape(s.operator),
            escape(s.shape),
            f"<code>{escape(s.form or 'dense')}</code>",
            "" if s.predicted_error is None else f"{100 * s.predicted_error:.3g} %",
            "" if s.dense_ms is None or s.form_ms is None else speed(s.form_ms / s.dense_ms),
            escape(s.reason),
        ]
        for s in sites
    ]
    head = [
        ("layer", False),
        ("operator", False),
        ("shape", False),
        ("form", False),
        ("predicted error", True),
        ("speed alone", True),
        ("why", False),
    ]
    return "<h2>Layer by layer</h2>" + _table(head, rows)


def _checks(report: Report) -> str:
    if not report.checks:
        return ""
    rows = [
        [
            escape(c.what),
            escape(c.executor),
            escape(c.contract),
            f'<span class="{"good" if c.ok else "bad"}">{"holds" if c.ok else "fails"}</span>',
            escape(c.detail),
        ]
        for c in report.checks
    ]
    return "<h2>Proof</h2>" + _table(
        [("what", False), ("executor", False), ("contract", False), ("result", False), ("detail", False)], rows
    )


def _passes(report: Report) -> str:
    rows = [
        [f"<code>{escape(p.name)}</code>", escape(p.contract), count(p.rewrites), f"{p.seconds:.3f}"]
        for p in report.passes
    ]
    return (
        ""
        if not rows
        else "<h2>Passes</h2>"
        + _table([("pass", False), ("contract", False), ("rewrites", True), ("seconds", True)], rows)
    )


def _skipped(report: Report) -> str:
    if not report.skipped:
        return ""
    rows = [
        [f"<code>{escape(s['pass'])}</code>", f"<code>{escape(s['place'])}</code>", escape(s["reason"])]
        for s in report.skipped
    ]
    table = _table([("pass", False), ("place", False), ("reason", False)], rows)
    return f"<h2>What was left alone</h2><details><summary>{len(rows)} refusals</summary>{table}</details>"


def _footer(report: Report) -> str:
    notes = "".join(f"<li>{escape(n)}</li>" for n in report.notes)
    facts = ", ".join(f"{k} {v}" for k, v in report.environment.items())
    times = ", ".join(f"{k} {v:.1f} s" for k, v in report.seconds.items())
    return (
        f"{'<h2>Notes</h2><ul>' + notes + '</ul>' if notes else ''}<h2>How it was made</h2>"
        f"<p>Recipe: <code>{escape(report.recipe)}</code></p><p>{escape(times)}</p><p>{escape(facts)}</p>"
    )
