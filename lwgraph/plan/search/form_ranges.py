"""Ranges inside the forms of trial plans, each observed once: in the network without any other form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lwgraph import ir
from lwgraph.arrays import Shapes
from lwgraph.errors import LwgraphError
from lwgraph.layers.apply import observable
from lwgraph.layers.form import Fitted
from lwgraph.layers.site import find_sites
from lwgraph.layers.substitute import put_beside
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

    All forms that no trial had before are put beside their layers, whose outputs go on as they were: so each sees what
    it would see alone, in one network and one run of it. The first trial with a form pays for it. Where forms cannot
    be looked at, their ranges are observed in each trial.

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
    new = [
        name
        for name, choice in plan.sites.items()
        if choice.form != KEEP and name in fitted and name not in plan.precision.keep_float
        if (name, choice.form) not in known.asked
    ]
    if not new:
        return
    known.asked |= {(name, plan.sites[name].form) for name in new}
    quiet = context.beside(ranges=known.of_one_form(), log=Log(memory=context.memory, proved=context.log.proved))

    def observe(names: Sequence[str]) -> None:
        beside = ir.clone(model)
        sites = {site.name: site for site in find_sites(beside, shapes)}
        there = [name for name in names if name in sites and observable(sites[name])]
        floats = tuple(layer for layer in known.floats if layer not in there)
        all_in_integers = replace(plan, sites={}, precision=replace(plan.precision, keep_float=floats))
        try:
            for name in there:
                put_beside(fitted[name].moved(sites[name]))
            carry_out(beside, all_in_integers, quiet, shapes=shapes, samples=samples or Samples())
        except LwgraphError:
            if len(there) > 1:  # it may be one of them
                for name in there:
                    observe([name])

    observe(new)


__all__ = ["observe_forms"]
