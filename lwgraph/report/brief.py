"""A report in three lines, and as a small table for notebooks."""

from __future__ import annotations

from html import escape

from lwgraph.report.record import Report
from lwgraph.report.words import codes, count, forms, precisions, several, size


def three_lines(report: Report, verdict: str) -> str:
    """What came out, what is known of the loss, and what stands in the model.

    Args:
        report: of the run.
        verdict: on all promises together.
    """
    before, after = report.stages[0], report.stages[-1]
    settled = not after.speed.startswith("not settled")
    fast = f"{after.speed} as fast" if after.speed and settled else f"its speed is {after.speed or 'not measured'}"
    sizes = f"{size(after.facts.bytes)} of {size(before.facts.bytes)}"
    mark = " (unproven)" * report.unproven
    first = f"{report.source} -> {after.name}{mark}: {fast}, {sizes}; promise {verdict}"
    return "\n".join((first, f"  {_loss(report)}", f"  {_contents(report)}"))


def table(report: Report, verdict: str) -> str:
    """The stages as a table in HTML, with the same lines around it; everything is escaped."""
    first, *lines = three_lines(report, verdict).split("\n")
    heads = ("model", "nodes", "parameters", "size", "ms", "speed", *([report.score.name] if report.score else []))
    rows = []
    for stage in report.stages:
        cells = [
            stage.name,
            count(stage.facts.nodes),
            count(stage.facts.parameters),
            size(stage.facts.bytes),
            "" if stage.milliseconds is None else f"{stage.milliseconds:.3f}",
            stage.speed.partition(" (")[0],
        ]
        if report.score:
            cells.append("" if stage.score is None else f"{stage.score:.4f}")
        rows.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    return "".join(
        (
            f"<div><strong>{escape(first)}</strong><table><thead><tr>",
            "".join(f"<th>{escape(head)}</th>" for head in heads),
            "</tr></thead><tbody>",
            "".join(f"<tr>{row}</tr>" for row in rows),
            "</tbody></table>",
            "".join(f"<div>{escape(line.strip())}</div>" for line in (*lines, *report.notes)),
            "</div>",
        )
    )


def _loss(report: Report) -> str:
    score = report.score
    if score is None:
        checked = [check for check in report.checks if check.ok]
        return f"accuracy was not measured; {len(checked)} of {len(report.checks)} checks of the outputs passed"
    return f"{score.name} {score.before:.4f} -> {score.after:.4f}" + (f": {score.text}" if score.text else "")


def _contents(report: Report) -> str:
    said = " ".join(line for line in (precisions(report.layers), codes(report.layers), forms(report.sites)) if line)
    return said or f"{several(report.stages[-1].facts.nodes, 'node')}, no layer with weights."


__all__ = ["table", "three_lines"]
