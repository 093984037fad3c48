"""Pieces of HTML that several sections use."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"\s*([-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?)(?: ([kMGT])(?=B|\b))?")
FITS = 2  # columns that fit the narrowest page
_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def table(head: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    """Rows of ready HTML cells (already escaped); `head` says of each column whether it holds numbers.

    A column in which every cell is empty is left out. The page's script sorts by `data-value`, which a cell of
    a column of numbers has where it begins with one. Where a page is narrow a row of more than FITS columns is a card,
    whose lines have the names of the columns.
    """
    known = [tuple(row) for row in rows]
    kept = [at for at in range(len(head)) if not known or any(row[at] for row in known)]
    titles = "".join(_title(*head[at]) for at in kept)
    cards = len(kept) > FITS
    body = "".join(f"<tr>{''.join(_cell(row[at], *head[at], cards) for at in kept)}</tr>" for row in known)
    kind = "wrap cards" if cards else "wrap"
    return f'<div class="{kind}"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _title(name: str, number: bool) -> str:
    kind = 'class="n" data-sort="number"' if number else 'data-sort="text"'
    return f'<th {kind} aria-sort="none">{name}</th>'


def _cell(cell: str, name: str, number: bool, named: bool) -> str:
    title = f' data-name="{html.escape(re.sub("<[^>]*>", "", name))}"' if named else ""
    if not number:
        return f"<td{title}>{cell}</td>"
    found = value(cell)
    data = "" if found is None else f' data-value="{found!r}"'
    return f'<td class="n"{title}{data}>{cell}</td>'


def value(cell: str) -> float | None:
    """The number that the text of an HTML cell begins with, its unit counted: "2.79 MB" -> 2790000.0; None: none."""
    found = _NUMBER.match(html.unescape(re.sub("<[^>]*>", "", cell)))
    if found is None:
        return None
    return float(found[1].replace(",", "")) * _UNITS.get(found[2], 1.0)


__all__ = ["table", "value"]
