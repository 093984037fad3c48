"""Pieces of HTML that several sections use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    """Rows of ready HTML cells (already escaped); `head` says of each column whether it holds numbers."""
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
