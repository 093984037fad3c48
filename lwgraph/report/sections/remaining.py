"""Why it is not faster: what the time of the result goes to, and what stood against each option there.

Shows `sites`, `layers`, `skipped`, `details["layer_times"]["after"]` (node name -> [operator, ms]) and the reasons of
`details["quantization"]`.
"""

from __future__ import annotations

from html import escape

from lwgraph.report.parts import table
from lwgraph.report.record import Layer, Report, SiteChoice
from lwgraph.report.words import percent

ROWS = 20


def remaining(report: Report) -> str:
    """The table, the longest first; "" where no choice was made for any layer."""
    sites = {site.name: site for site in report.sites if site.operator not in ("channels", "block")}
    if not sites:
        return ""
    after = {name: (op, ms) for name, (op, ms) in (report.details.get("layer_times") or {}).get("after", {}).items()}
    whole = sum(ms for _, ms in after.values())
    rows: list[tuple[float | None, tuple[str, str, str, list[str]]]] = []
    for layer in report.layers:
        op, ms = after.pop(layer.name, (layer.operator, None))
        why = _against(report, layer, sites.get(layer.stands_for or layer.name))
        rows.append((ms, (layer.name, op or layer.operator, " ".join((layer.precision, layer.form)).strip(), why)))
    rows += [(ms, (name, op, "", ["it is no layer with weights"])) for name, (op, ms) in after.items()]
    rows.sort(key=lambda row: -(row[0] or 0.0))  # stable: without times in the order of the graph
    cells = [
        [
            f"<code>{escape(str(name))}</code>",
            escape(str(op)),
            "" if ms is None else f"{ms:.4g}",
            "" if ms is None or not whole else percent(ms / whole),
            escape(str(now)),
            _folded(why),
        ]
        for ms, (name, op, now, why) in rows
    ]
    head = [("node", False), ("operator", False), ("ms", True), ("share", True), ("now", False), ("against", False)]
    told = (
        "What takes the time of the result, by the runtime's own profile, and what stood against each option."
        if whole
        else "What stood against each option. The times of the layers are not known."
    )
    more = cells[ROWS:]
    rest = f"<details><summary>{len(more)} more</summary>{table(head, more)}</details>" if more else ""
    return f"<h2>Why not faster</h2><p>{told}</p>{table(head, cells[:ROWS])}{rest}"


def _folded(lines: list[str]) -> str:
    """The first line, and the others when it is opened: rows of a long table stay short."""
    first, *others = (escape(line) for line in lines)
    if not others:
        return first
    return f"<details><summary>{first} (and {len(others)} more)</summary>{'<br>'.join(others)}</details>"


def _against(report: Report, layer: Layer, site: SiteChoice | None) -> list[str]:
    """One line for each option that was refused there; what the layer has already is told as such."""
    names = {layer.name, layer.stands_for}
    lines = {f"{skip['pass']}: {skip['reason']}": None for skip in report.skipped if skip["place"] in names}
    known = " ".join(lines)
    if site is not None and site.reason and site.reason not in known:
        lines[site.reason] = None
    for each in (report.details.get("quantization") or {}).get("layers") or ():
        if each["name"] in names and each.get("reason") and each["reason"] not in known:
            lines[f"integers: {each['reason']}"] = None
    return list(lines) or ["nothing was refused: no option tried was better within the promises"]


__all__ = ["remaining"]
