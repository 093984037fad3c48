"""The rows of the report, made of what the steps of a run returned."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lwgraph import ir
from lwgraph.layers.site import Site, find_sites
from lwgraph.optimizer.candidates import Candidates
from lwgraph.optimizer.request import Request
from lwgraph.plan.plan import KEEP, Plan, Removed, Width
from lwgraph.plan.search.plan_search import Search
from lwgraph.report import Layer, PassRun, SiteChoice
from lwgraph.report.words import several
from lwgraph.rewrite import Step
from lwgraph.rewrite.base import Skipped
from lwgraph.views.residual import find_residuals
from lwgraph.views.written import INT8, put_out


def plain(request: Request) -> dict[str, object]:
    """What was asked for, as plain data: values that are no text, number or list become their `repr`."""
    found: dict[str, object] = {}
    for f in dataclasses.fields(request):
        value = getattr(request, f.name)
        if value != f.default:
            found[f.name] = value if isinstance(value, (str, int, float, bool)) else repr(value)[:200]
    return found


def pass_rows(steps: Iterable[Step]) -> list[PassRun]:
    """One row for each pass that ran."""
    return [PassRun(str(step.spec), step.spec.contract.name.lower(), step.count, step.seconds) for step in steps]


def idle(ran: Iterable[PassRun], skipped: Iterable[Skipped]) -> list[str]:
    """One line for each approximate pass that did nothing, with its most frequent reason.

    Exact and rounding passes are left out: that there was nothing to clean is no news.
    """
    refusals = list(skipped)
    lines = []
    for run in ran:
        if run.rewrites or run.contract != "approximate":
            continue
        name = run.name.split("{")[0]
        reasons = Counter(refusal.reason for refusal in refusals if refusal.pass_name == name)
        if not reasons:
            lines.append(f"{name} changed nothing: it found nothing to change")
            continue
        (reason, count), total = reasons.most_common(1)[0], sum(reasons.values())
        places = "" if total == 1 else f" ({count} of {total} places; --explain names each)"
        lines.append(f"{name} changed nothing: {reason}{places}")
    return lines


def choices(
    clean: ir.Model,
    plan: Plan,
    skipped: Sequence[Skipped],
    shapes: Mapping[str, Sequence[int | None]],
    result: ir.Model,
    written: Sequence[Layer],
) -> list[SiteChoice]:
    """A row for each block that is gone, for each layer that lost channels, and for each layer: what stands there in
    the file, or why it stayed.

    Args:
        clean: the model that the plan is of.
        plan: what was to be done; nothing but predictions and reasons is taken from it.
        skipped: refusals.
        shapes: measured sizes by value name.
        result: as it is written.
        written: its layers.
    """
    sites = find_sites(clean, shapes)
    standing: dict[str, list[Layer]] = {}
    for layer in written:
        standing.setdefault(layer.stands_for, []).append(layer)
    rows = [*_blocks(clean, plan, sites, standing), *_channels(plan, sites, put_out(result))]
    why: dict[str, str] = {}  # of layers that stay: what planning itself says wins over what a form or pass says
    for s in sorted(skipped, key=lambda s: s.pass_name == "plan"):
        why[s.place] = s.reason
    for site in sites:
        shape = "x".join(map(str, site.shape)) + (f", {site.group} groups" if site.group > 1 else "")
        row = SiteChoice(site.name, site.node.op_type, shape, None, None, None, None)
        rows.append(_stands(row, standing.get(site.name, []), plan, why.get(site.name, "")))
    return rows


def _blocks(
    clean: ir.Model, plan: Plan, sites: Sequence[Site], standing: Mapping[str, Sequence[Layer]]
) -> list[SiteChoice]:
    """A row for each residual block of which no layer stands in the file."""
    names, rows = {site.node: site.name for site in sites}, dict[str, SiteChoice]()
    for block in find_residuals(clean)[0]:
        layers = [names[node] for node in block.branch if node in names]
        if layers and not any(name in standing for name in layers):
            gone = plan.blocks.get(block.name, Removed())
            rows[block.name] = SiteChoice(block.name, "block", "", "removed", gone.error, *gone.ms)
    return list(rows.values())


def _channels(plan: Plan, sites: Sequence[Site], put_out: Mapping[str, ir.Dims]) -> list[SiteChoice]:
    """A row for each layer that puts out fewer channels in the file; what is predicted is that of its whole group."""
    rows = []
    for site in sites:
        before, sizes = site.shape[0], put_out.get(site.name)
        after = sizes[1 if "conv" in site.kind else -1] if sizes else None
        if isinstance(after, int) and after < before:
            width = plan.groups.get(site.name, Width(after, before))
            change = f"{before} to {after} channels"
            rows.append(SiteChoice(site.name, "channels", str(before), change, width.error, *width.ms))
    return rows


def _stands(row: SiteChoice, there: Sequence[Layer], plan: Plan, why: str) -> SiteChoice:
    """The row of a layer, with what the file has in its place."""
    if not there:
        return replace(row, reason="it was removed")
    form = next((layer.form for layer in there if layer.form), None)
    choice = plan.sites.get(row.name)
    if form is not None and choice is not None and choice.form.partition("{")[0] == form.partition("{")[0]:
        row = replace(row, predicted_error=choice.error, dense_ms=choice.ms[0], form_ms=choice.ms[1])
    precision = ", ".join(dict.fromkeys(layer.precision for layer in there))
    row = replace(row, form=form, precision=precision)
    if INT8 not in precision and plan.precision.passes:
        kept = row.name in plan.precision.keep_float
        return replace(
            row,
            reason=why or ("the plan keeps it in floating point" if kept else "there is no integer kernel for it here"),
        )
    return row if form is not None or precision == INT8 else replace(row, reason=why)


def computed_in(details: Mapping[str, Any], written: Sequence[Layer]) -> dict[str, Any]:
    """Details of the report in which each layer of the quantization computes in what the file has for it."""
    found = dict(details.get("quantization") or {})
    if not found.get("layers"):
        return dict(details)
    integer = {layer.name: layer.precision == INT8 for layer in written}
    layers = [dict(layer) for layer in found["layers"]]
    for layer in layers:
        if layer["name"] in integer:
            layer["precision"] = "integer" if integer[layer["name"]] else "float"
    return {**details, "quantization": {**found, "layers": layers}}


def searched(candidates: Candidates, search: Search | None) -> dict[str, Any]:
    """What was tried: all candidates that were looked at, and the trial plans of the search."""
    chosen = candidates.incumbent.candidate
    looked = [made.candidate for made in candidates.all()]
    known = {c.key: c for c in ([] if search is None else search.found())} | {c.key: c for c in looked}
    objective, left_out = str(candidates.request.objective), ("plan", "choice")
    return {
        "objective": objective,
        "seconds": 0.0 if search is None else search.spent,
        "base_ms": candidates.base_ms,
        "predicted_ms": None if chosen is None else chosen.predicted_ms,
        "measured_ms": None if chosen is None else chosen.measured_ms,
        "candidates": [
            {key: value for key, value in dataclasses.asdict(each).items() if key not in left_out}
            | {"chosen": chosen is not None and each.key == chosen.key, "summary": summary(each.plan)}
            for each in sorted(known.values(), key=lambda c: (c.amount(objective), c.predicted_loss))
        ],
    }


def summary(plan: Plan | None) -> str:
    """A plan in a few words: "low-rank 3, 2 groups of channels narrower, 1 block removed, quantize"; "" for none."""
    if plan is None:
        return ""
    forms = Counter(choice.form.partition("{")[0] for choice in plan.sites.values() if choice.form != KEEP)
    words = [f"{form} {number}" for form, number in forms.most_common()]
    if plan.groups:
        words.append(f"{several(len(plan.groups), 'group')} of channels narrower")
    if plan.blocks:
        words.append(f"{several(len(plan.blocks), 'block')} removed")
    words += [name.partition("{")[0] for name in plan.precision.passes]
    if plan.precision.keep_float:
        words.append(f"{several(len(plan.precision.keep_float), 'layer')} kept in float")
    return ", ".join(words) or "every layer as it is"


def moments(candidates: Candidates) -> list[dict[str, Any]]:
    """When the incumbent changed, and how fast each was, as plain data."""
    base = candidates.base_ms
    return [
        {
            "seconds": moment.seconds,
            "origin": moment.origin,
            "speed": None if moment.milliseconds is None else base / moment.milliseconds,
            "score": moment.score,
        }
        for moment in candidates.moments
    ]


__all__ = ["choices", "computed_in", "idle", "moments", "pass_rows", "plain", "searched", "summary"]
