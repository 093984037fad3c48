"""A plan carried out as it is delivered: what changes the structure has the layers fitted to what they see then."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from lwgraph import ir
from lwgraph.arrays import Shapes
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.calibrate.subsample import spread
from lwgraph.layers.apply import Record
from lwgraph.layers.form import Fitted
from lwgraph.plan.carry_out import carry_out, cut, statistics_of
from lwgraph.plan.plan import Plan, Precision, apply_plan
from lwgraph.plan.refit.sequential import refit
from lwgraph.rewrite.base import Context

RANGE_SAMPLES, RANGE_SECONDS = 128, 12.0  # that integer ranges are taken from; about how long these may run
REFIT_SAMPLES, REFIT_SECONDS = 256, 10.0  # that layers are fitted anew to; the same
LEAST_SAMPLES = 48  # for either, however long they run


def deliver(
    model: ir.Model,
    plan: Plan,
    context: Context,
    *,
    shapes: Shapes | None = None,
    fitted: Mapping[str, Fitted] | None = None,
    run_ms: float | None = None,
) -> tuple[ir.Model, list[Record]]:
    """A copy of `model` with `plan` carried out, and what became of each choice.

    As `carry_out`, but with calibration data all layers are fitted anew, in order, to what they see: after blocks and
    channels were removed, and again after forms were put in, before anything goes into integers.

    Args:
        model: that the plan is of; not changed.
        plan: the choices.
        context: `data` and `executor` to fit with, `statistics` of `model`, `reference`, `seed`.
        shapes: measured sizes by value name, of `model`.
        fitted: fits by site name; used only when the plan removes nothing before the sites.
        run_ms: of one run of the network, about: of slow ones fewer samples are used; None: unknown.

    Raises:
        UsageError, DataError: see `carry_out`.
    """
    made, known = ir.clone(model), bool(context.data) and context.executor is not None
    records = cut(made, plan, context, refit=known)
    base = ir.clone(made) if records else model
    if records and context.executor is not None and context.feeds:
        shapes, fitted = layer_shapes(made, next(iter(context.feeds)), context.executor), None
    with statistics_of(base, context, base is not model):
        forms = apply_plan(made, plan, context, shapes=shapes, fitted=fitted)
        if known and any(record.done for record in forms):
            refit(base, made, context, samples=affordable(REFIT_SAMPLES, REFIT_SECONDS, run_ms))
    records += forms
    with statistics_of(made, context, any(record.done for record in records)):
        records += compute(made, plan.precision, context, affordable(RANGE_SAMPLES, RANGE_SECONDS, run_ms))
    return made, records


def compute(model: ir.Model, precision: Precision, context: Context, samples: int) -> list[Record]:
    """The precision of a plan alone, in place, with ranges from at most so many of the context's samples."""
    ranges = dataclasses.replace(context, data=spread(context.data, samples) if context.data else context.data)
    return carry_out(model, Plan(precision=precision), ranges)


def affordable(samples: int, seconds: float, run_ms: float | None) -> int:
    """At most `samples`, fewer where a network of `run_ms` milliseconds (None: unknown) takes longer than `seconds`."""
    if run_ms is None:
        return samples
    return min(samples, max(LEAST_SAMPLES, int(1e3 * seconds / max(run_ms, 1e-3))))


__all__ = ["RANGE_SAMPLES", "RANGE_SECONDS", "affordable", "compute", "deliver"]
