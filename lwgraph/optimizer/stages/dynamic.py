"""Integers whose grids are taken as the model runs: which layers compute in them."""

from __future__ import annotations

from collections.abc import Sequence

from lwgraph import ir
from lwgraph.executor import untimed
from lwgraph.layers.site import find_sites
from lwgraph.measure.distance import Loss
from lwgraph.optimizer.stages.base import Work
from lwgraph.plan import precision
from lwgraph.plan.choices import Precision
from lwgraph.plan.roles import QuantizesDynamically
from lwgraph.rewrite.base import Log

SENSED_SECONDS, FEWEST = 8.0, 3  # of running one network for each layer, about; samples at least
SURE = 0.8  # of what may be lost is aimed at, as squared errors of layers do not add up exactly
HALF = 0.5  # of the loss remains, where nothing says how much it is


def dynamic_precision(work: Work) -> Precision | None:
    """What was settled on, or all in such integers but for what is no faster so.

    See `faster_so`.
    """
    return work.integers.running or faster_so(work)


def faster_so(work: Work) -> Precision | None:
    """All in such integers but for what is no faster so; found out once.

    None where the target or the plugin has no such integers, where products of matrices do too little of the work, and
    where nothing is faster.
    """
    if not work.oracle.measures or not precision.available():
        return None
    key = "integers with dynamic grids", ir.fingerprint(work.clean)
    if key not in work.context.memory:
        work.context.memory[key] = None  # what fails is not tried again
        work.context.memory[key] = precision.dynamic_grids(work.clean, work.shapes, work.context)
    found = work.context.memory[key]
    return found if isinstance(found, Precision) else None


def recurrent(work: Work) -> tuple[str, ...]:
    """Names of the layers LSTM and GRU, which become loops over integers."""
    found = (node.name or "" for node in work.clean.graph if ir.operator(node) in ir.GATED)
    return tuple(name for name in found if name)


def recurrent_alone(work: Work) -> Precision | None:
    """These layers in integers and all others in floats; None where the plugin has no such integers."""
    quantizes = precision.quantizer()
    if not isinstance(quantizes, QuantizesDynamically):
        return None
    others = tuple(site.name for site in find_sites(work.clean, work.shapes))
    return Precision((str(quantizes.dynamic()),), others)


def gentler(work: Work, whole: Precision, share: float | None) -> Precision | None:
    """`whole` with those layers left in floats that cost most for the work they do, so that about `share` of its loss
    remains; None where that is all of them, or none.

    Each layer is put into integers alone, and what that does to the outputs is measured. O(layers) runs over samples.
    """
    quantizes = precision.quantizer()
    assert isinstance(quantizes, QuantizesDynamically)
    sites = [site for site in find_sites(work.clean, work.shapes) if not site.kernel and site.node.name]
    macs = {site.node.name or "": site.macs() for site in sites if site.node.name not in whole.keep_float}
    samples = work.samples(work.float_ms * max(len(macs), 1), SENSED_SECONDS, FEWEST)
    loss = Loss(untimed(work.executor).prepare(work.clean), samples)

    def damage(floats: Sequence[str]) -> float:
        model = ir.clone(work.clean)
        p = quantizes.dynamic().sparing((*whole.keep_float, *floats))
        p.run(model, work.context.beside(log=Log()))
        return float(loss(untimed(work.executor).prepare(model)))

    tables = damage(list(macs))  # what is in integers besides, such as tables of embeddings, costs something, too
    alone: dict[str, float] = {}
    for done, name in enumerate(macs):
        work.context.progress("measuring sensitivities", done, len(macs))
        with work.context.failures.guard(f"integers with dynamic grids: layer '{name}'"):
            alone[name] = max(damage([other for other in macs if other != name]) - tables, 0.0)
    left, aim = sum(alone.values()), (HALF if share is None else share) * sum(alone.values())
    kept: list[str] = [name for name in macs if name not in alone]
    for name in sorted(alone, key=lambda name: -alone[name] / max(macs[name], 1)):
        if left <= aim:
            break
        left -= alone[name]
        kept.append(name)
    if not kept or len(kept) == len(macs):
        return None
    return Precision(whole.passes, (*whole.keep_float, *kept))


def remaining(base: float, judged: float | None, floor: float | None) -> float | None:
    """The share of a plan's loss that may remain, from the scores of the input, the plan, and what is promised."""
    if judged is None or floor is None or judged >= base:
        return None
    return SURE * (base - floor) / (base - judged)


__all__ = ["dynamic_precision", "faster_so", "gentler", "recurrent", "recurrent_alone", "remaining"]
