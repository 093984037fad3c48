"""Writes a report folder: report.json and report.html."""

from __future__ import annotations

import os
from pathlib import Path

from lwgraph.errors import UsageError
from lwgraph.report.html import to_html
from lwgraph.report.record import Report


def write(report: Report, folder: str | os.PathLike[str]) -> Path:
    """Write `report.json` and `report.html` into `folder` (made when missing); return the path of the page.

    Raises:
        UsageError: the folder cannot be made or written.
    """
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        (target / "report.json").write_text(report.to_json() + "\n", encoding="utf8")
        page = target / "report.html"
        page.write_text(to_html(report), encoding="utf8")
    except OSError as error:
        message = f"report folder '{target}' cannot be written: {error.strerror}; name another with --report"
        raise UsageError(message) from error
    return page
