"""The report as one self-contained HTML page: no files beside it, nothing from the network, readable in light and dark.

Its script only sorts, zooms and shows tooltips; the page is complete without it.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files

from lwgraph.report.record import Report
from lwgraph.report.sections import SECTIONS, Section

STYLE, SCRIPT = (files("lwgraph.report").joinpath(name).read_text("utf8") for name in ("report.css", "page.js"))
# Whatever a model's names may smuggle in, the browser loads nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def to_html(report: Report) -> str:
    """The page as text. Every value from the model is escaped."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>lwgraph: {escape(report.source)}{' (unproven)' * report.unproven}</title><style>{STYLE}</style>"
        f'<h1>{escape(report.source)}</h1>{_banner(report)}<p class="lead">{escape(_lead(report))}</p>'
        f"{''.join(_safe(section, report) for section in SECTIONS)}<script>{SCRIPT}</script></html>\n"
    )


def _safe(section: Section, report: Report) -> str:
    """A section; where it fails, one line in its place: the page tells of a result and must not take it away."""
    try:
        return section(report)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        return f'<p class="bad">The part "{section.__name__}" could not be made: {escape(what)}</p>'


def _banner(report: Report) -> str:
    if not report.unproven:
        return ""
    return (
        '<p class="bad">Unproven: fitted to and judged on generated inputs. What is lost on real ones is not known.</p>'
    )


def _lead(report: Report) -> str:
    words = "" if report.outcome == "done" else f"{report.outcome}. "
    return words + f"Target {report.target}, {report.threads} thread{'s' * (report.threads != 1)}, seed {report.seed}."
