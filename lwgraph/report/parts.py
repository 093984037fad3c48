"""Pieces of HTML that several sections use."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"\s*([-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?)(?: ([kMGT])(?=B|\b))?")
_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def table(head: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    """Rows of ready HTML cells (already escaped); `head` says of each column whether it holds numbers.

    The page's script sorts by `data-value`, which a cell of a column of numbers has where it begins with one.
    """
    titles = "".join(
        f'<th class="n" data-sort="number" aria-sort="none">{h}</th>'
        if number
        else f'<th data-sort="text" aria-sort="none">{h}</th>'
        for h, number in head
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="n"{_data(c)}>{c}</td>' if number else f"<td>{c}</td>"
            for c, (_, number) in zip(row, head, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="wrap"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def value(cell: str) -> float | None:
    """The number that the text of an HTML cell begins with, its unit counted: "2.79 MB" -> 2790000.0; None: none."""
    found = _NUMBER.match(html.unescape(re.sub("<[^>]*>", "", cell)))
    if found is None:
        return None
    return float(found[1].replace(",", "")) * _UNITS.get(found[2], 1.0)


def _data(cell: str) -> str:
    number = value(cell)
    return "" if number is None else f' data-value="{number!r}"'


__all__ = ["table", "value"]
