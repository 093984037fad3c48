"""What the report says of a plan: each group, block and layer, and what was searched."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lwgraph import ir
from lwgraph.arrays import Shapes
from lwgraph.layers.site import find_sites
from lwgraph.optimizer.backoff import Outcome
from lwgraph.plan.plan import KEEP, Plan
from lwgraph.report import SiteChoice
from lwgraph.rewrite.base import Skipped


def choices(clean: ir.Model, plan: Plan, skipped: Sequence[Skipped], shapes: Shapes) -> list[SiteChoice]:
    """A row for each group and block that goes, and for each layer: what stands there, or why it stayed.

    Args:
        clean: the model that the plan is of.
        plan: what was done.
        skipped: refusals.
        shapes: measured sizes by value name.
    """
    rows = []
    for name, width in plan.groups.items():
        change = f"{width.of} to {width.keep} channels"
        rows.append(SiteChoice(name, "channels", str(width.of), change, width.error, *width.ms))
    for name, gone in plan.blocks.items():
        rows.append(SiteChoice(name, "block", "", "removed", gone.error, *gone.ms))
    why: dict[str, str] = {}  # of layers that stay: what planning itself says wins over what a form or pass says
    for s in sorted(skipped, key=lambda s: s.pass_name == "plan"):
        why[s.place] = s.reason
    floats = set(plan.precision.keep_float)
    for site in find_sites(clean, shapes):
        choice = plan.sites.get(site.name)
        shape = "x".join(map(str, site.shape)) + (f", {site.group} groups" if site.group > 1 else "")
        row = SiteChoice(site.name, site.node.op_type, shape, None, None, None, None, why.get(site.name, ""))
        if choice is not None and choice.form != KEEP:
            row = SiteChoice(site.name, site.node.op_type, shape, choice.form, choice.error, *choice.ms)
        if plan.precision.passes and site.name not in floats:
            row = replace(row, form=f"{row.form}, int8" if row.form else "int8", reason="")
        rows.append(row)
    return rows


def searched(outcome: Outcome) -> dict[str, Any]:
    """What was tried, for the report's details."""
    front, chosen = outcome.front, outcome.candidate
    left_out = ("plan", "choice")
    return {
        "objective": front.objective,
        "seconds": front.seconds,
        "base_ms": front.base_ms,
        "predicted_ms": None if chosen is None else chosen.predicted_ms,
        "measured_ms": None if chosen is None else chosen.measured_ms,
        "candidates": [
            {key: value for key, value in dataclasses.asdict(each).items() if key not in left_out}
            | {"chosen": chosen is not None and each.key == chosen.key}
            for each in front.candidates
        ],
    }


__all__ = ["choices", "searched"]
