"""Ranges inside the forms of trial plans, each observed once: with its form alone in the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lwgraph import ir
from lwgraph.arrays import Shapes
from lwgraph.errors import LwgraphError
from lwgraph.layers.form import Fitted
from lwgraph.plan.carry_out import Samples, carry_out
from lwgraph.plan.plan import KEEP, Plan
from lwgraph.rewrite.base import Context, Log


def observe_forms(
    model: ir.Model,
    plan: Plan,
    context: Context,
    fitted: Mapping[str, Fitted],
    *,
    shapes: Shapes | None = None,
    samples: Samples | None = None,
) -> None:
    """Add to `context.ranges` those inside the forms of a plan that are to compute in integers.

    The first trial with a form pays for it, and no run goes beyond that form. Where a form cannot be looked at alone,
    its ranges are observed in each trial.

    Args:
        model: the network without forms.
        plan: of a trial.
        context: `data`, `executor`, and `ranges` of the network; nothing is done where these are not known yet.
        fitted: fits by the names of layers.
        shapes, samples: as for `carry_out`.
    """
    known = context.ranges
    if known is None or known.learning or not plan.precision.passes:
        return
    new = {
        name: choice
        for name, choice in plan.sites.items()
        if choice.form != KEEP and name in fitted and name not in plan.precision.keep_float
        if (name, choice.form) not in known.asked
    }
    if not new:
        return
    quiet = context.beside(ranges=known.of_one_form(), log=Log(memory=context.memory, proved=context.log.proved))
    for name, choice in new.items():
        floats = tuple(layer for layer in known.floats if layer != name)
        alone = replace(plan, sites={name: choice}, precision=replace(plan.precision, keep_float=floats))
        known.asked.add((name, choice.form))
        try:
            carry_out(
                model,
                alone,
                quiet,
                shapes=shapes,
                fitted={name: fitted[name]},
                samples=samples or Samples(),
            )
        except LwgraphError:
            continue


__all__ = ["observe_forms"]
