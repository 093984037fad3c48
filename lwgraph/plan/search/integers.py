"""What integers do to one network, as measured: which ranges trials get, and what each layer's integers cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from lwgraph import ir
from lwgraph.cache import Rows, cache_path, facts_of
from lwgraph.calibrate.capture import main_values
from lwgraph.calibrate.known_ranges import KnownRanges
from lwgraph.calibrate.subsample import spread
from lwgraph.executor import Executor, Run, untimed
from lwgraph.plan.carry_out import RANGE_SAMPLES
from lwgraph.plan.plan import Plan, Precision
from lwgraph.plan.precision import DYNAMIC, INT8, quantizer, spelling
from lwgraph.plan.roles import Mix, Survey
from lwgraph.plan.search.planner import QUICK_SAMPLES, Planner
from lwgraph.rewrite.base import Context, Log

VERSION = 5  # part of the file name: raise it when the meaning of a survey changes
KEY = "survey"
CLEARLY = 1.25  # times less loss must be what clips ranges: other samples may go further
ALIKE, NEGLIGIBLE = 1.5, 1e-3  # a loss up to this many times another, and this much more, is like it
LEAST = 1e-3  # a layer's integers cost at least this share of the median: a few samples may not show what they do


def quick_integers(
    planner: Planner, loss: Callable[[Run], float], executor: Executor, even: bool | None = None
) -> tuple[Planner, ir.Model, float]:
    """Choose the ranges with which plans are tried, by the loss of the whole network in integers.

    The ranges are chosen on as many samples as ranges are taken from in earnest, and by samples that these do not know;
    plans that may be delivered get it, too, so that the pass need not try all ranges for each. Then trials get the
    fewest samples with which the network loses about as little: a few may miss what an output can be.

    Args:
        planner, loss, executor: see `weigh_integers`.
        even: whether channels are evened out in what may be delivered; None: the pass finds out each time.

    Returns:
        the planner that has them, that network with its ranges taken in earnest, and its loss.

    Raises:
        LwgraphError: the network cannot be quantized with any of its ranges.
    """
    choice, able = planner.chosen(planner.uniform(INT8)), quantizer()
    best: tuple[Planner, ir.Model, float] | None = None
    reason: Exception | None = None
    enough = planner.samples.ranges or RANGE_SAMPLES
    known = KnownRanges(frozenset(main_values(planner.model)), planner.precision(choice).keep_float)
    for ranges in able.ranges:
        tried = planner.quantized(
            replace(
                planner.quantizing,
                quick=str(able.quick(ranges)),
                earnest=str(able.exactly(ranges, even)),
                samples=enough,
                known=known,
            )
        )
        try:
            model = tried.apply(choice, quick=True).model
            found = loss(untimed(executor).prepare(model))
        except Exception as error:
            reason = error
            continue
        if best is None or found * CLEARLY < best[2]:
            best = tried, model, found
    if best is None:
        assert reason is not None
        raise reason
    planner, whole, lost = best
    samples = QUICK_SAMPLES
    while samples < enough:
        tried = planner.quantized(replace(planner.quantizing, samples=samples))
        model = tried.apply(choice, quick=True).model
        if loss(untimed(executor).prepare(model)) <= ALIKE * lost + NEGLIGIBLE:
            break
        samples *= 2
    known.learning = False  # what follows are variants
    return planner.quantized(replace(planner.quantizing, samples=min(samples, enough))), whole, lost


def survey(model: ir.Model, context: Context, folder: Path | None = None, *, samples: int | None = None) -> Survey:
    """Let the quantizer look at a network, or remember what it found: its judgement takes many runs.

    Args:
        model: in floats; it is not changed.
        context: `data` and `executor`.
        folder: of the cache; None for the user's. Where it cannot be written, nothing is kept.
        samples: of the data that it looks at, at most; None: RANGE_SAMPLES.

    Raises:
        LwgraphError: the quantizer refuses the network.
    """
    feeds = spread(context.data or [], RANGE_SAMPLES if samples is None else samples)
    executor = context.executor or context.evaluator()
    facts = (ir.fingerprint(model), quantizer().judged(), *facts_of(executor))
    memory = Rows(cache_path(f"integers-{VERSION}", facts, feeds, folder=folder), "what integers do is")
    if (row := memory.get(KEY)) is not None:
        mixes = tuple(Mix(tuple(mix["kept"]), float(mix["share"]), float(mix["time"])) for mix in row["mixes"])
        return Survey(dict(row["damage"]), tuple(row["kept"]), float(row["slower"]), row["even"], row["method"], mixes)
    quiet = Context(
        executor=executor,
        reference=context.reference,
        data=feeds,
        seed=context.seed,
        threads=context.threads,
        progress=context.progress,
        log=Log(memory=context.memory),
    )
    found = quantizer().survey(model, quiet)
    memory.put(KEY, asdict(found))
    if memory.warning:
        context.warn(memory.warning)
    return found


def weigh_integers(
    planner: Planner, loss: Callable[[Run], float], executor: Executor, *, surveyed: bool = True
) -> tuple[Planner, ir.Model, Survey | None]:
    """Find out what integers cost, and the ranges with which plans are tried.

    Layers share out what the whole network in integers loses by what was measured of each, where it was.

    Args:
        planner: a weighed one that has integers to choose.
        loss: of a network, ready to run; 0 for the original.
        executor: the target, or what stands for it.
        surveyed: whether it is measured of each, which takes many runs; else it is predicted, and channels stay as
            they are.

    Returns:
        the planner that knows it, the whole network in integers, as trials are quantized, and the survey, if any.

    Raises:
        LwgraphError: the network cannot be quantized.
    """
    known = None
    if surveyed:
        known = survey(planner.model, planner.context, samples=planner.samples.ranges)
        planner = planner.with_damages(damages_of(planner, known.damage))
    planner, model, measured = quick_integers(planner, loss, executor, False if known is None else known.even)
    predicted = planner.predicted_loss(planner.uniform(INT8))
    if predicted > 0 and 0 < measured < math.inf:
        planner = planner.with_integers_scaled(measured / predicted)
    return planner, model, known


def weigh_dynamic(planner: Planner, loss: Callable[[Run], float], executor: Executor) -> tuple[Planner, ir.Model]:
    """Find out what integers cost whose grids are taken as the model runs.

    Layers share out what the whole network loses so as their errors are predicted.

    Args:
        planner, loss, executor: see `weigh_integers`.

    Returns:
        the planner that knows it, and the whole network in such integers.

    Raises:
        LwgraphError: the network cannot be quantized so.
    """
    choice = planner.uniform(DYNAMIC)
    model = planner.apply(planner.chosen(choice), quick=True).model
    measured, predicted = loss(untimed(executor).prepare(model)), planner.predicted_loss(choice)
    if predicted > 0 and 0 < measured < math.inf:
        planner = planner.with_integers_scaled(measured / predicted, DYNAMIC)
    return planner, model


def damages_of(planner: Planner, damage: Mapping[str, float]) -> dict[str, float]:
    """By item name, what the integers of its layers do to the outputs; only of items of which something is known."""
    found = {}
    for item in planner.items:
        known = [damage[node] for site in item.sites if (node := site.node.name or site.name) in damage]
        if known:
            found[item.name] = sum(known)
    middle = float(np.median([v for v in found.values() if v > 0] or [0.0]))
    return {name: max(value, LEAST * middle) for name, value in found.items()} if middle > 0 else {}


def whole_network(planner: Planner, survey: Survey) -> Plan | None:
    """All layers dense, in integers but for the nodes that the pass leaves in float; None where it leaves none."""
    precision = planner.precision(planner.chosen(planner.uniform(INT8)))
    kept = tuple(dict.fromkeys((*precision.keep_float, *survey.kept)))
    if set(kept) == set(precision.keep_float):
        return None
    return planner.planned(Precision((spelling(),), kept))


__all__ = ["damages_of", "quick_integers", "survey", "weigh_dynamic", "weigh_integers", "whole_network"]
