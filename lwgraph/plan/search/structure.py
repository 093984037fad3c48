"""Which channels and residual blocks go: the part of a plan that is decided first.

Every layer's price and every form's fit depend on how wide the layers are, so structures are found by a knapsack of
their own, over coupling groups and residual blocks, and the forms and precisions of the layers by another one on the
network that a structure leaves (`Planner`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph import ir, registry
from lwgraph.executor import Feeds
from lwgraph.failures import Failures
from lwgraph.plan.plan import Plan, Removed, Width
from lwgraph.plan.roles import BLOCKS, GROUPS, Removal, Removes, RemovesBlocks
from lwgraph.plan.search.sensitivity import measure_sensitivity, to_measured
from lwgraph.plan.search.solver import Knapsack, Menu
from lwgraph.rewrite.base import Context
from lwgraph.views.coupling import couple_channels
from lwgraph.views.residual import find_residuals

LEVELS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)  # shares of the layers' time that structures leave, about
OFF = 0.06  # by which a structure may miss its level
REFITTED = 0.45  # of what removed channels lose, the share that is left once all layers are fitted anew, about
CLEARLY_LESS = 0.7  # of the loss without blocks must be left where blocks go: they take long to make up for
HOPELESS = 0.3  # predicted loss of a structure that is not looked at
BLOCK_SECONDS, BLOCK_RUNS = 10.0, 6  # of judging blocks, about; runs of the network for each block and sample, about
LEAST_SAMPLES, MOST_SAMPLES = 8, 64  # for it
WORTH = 0.9  # share of the time that all groups together may save: of groups that save least, in haste, beyond it none
PROBED = 12  # items of which two sizes are measured at the outputs; of more, one of each


@dataclass(frozen=True, eq=False)
class Structure:
    """What goes, and what that does, as predicted.

    Attributes:
        plan: groups and blocks only.
        share: of the time of the network's layers that is left.
        loss: at the network's outputs.
    """

    plan: Plan
    share: float = 1.0
    loss: float = 0.0


NOTHING = Structure(Plan())


@dataclass(frozen=True, eq=False)
class Offer:
    """One item, and the sizes that it may have.

    Attributes:
        role: what can leave it out, GROUPS or BLOCKS.
        sizes: largest first.
        losses: (n,) at the network's outputs.
    """

    role: str
    sizes: Sequence[Removal]
    losses: np.ndarray[Any, np.dtype[np.float64]]

    @property
    def item(self) -> str:
        """Its name."""
        return self.sizes[0].item


def find_offers(
    model: ir.Model,
    context: Context,
    feeds: Sequence[Feeds],
    run_ms: float | None = None,
    probed: int = PROBED,
    block_seconds: float = math.inf,
    times: Mapping[str, float] | None = None,
) -> list[Offer]:
    """What may go, with the losses measured at the outputs for some sizes and predicted for those between.

    Args:
        model: the cleaned model; it is not changed.
        context: statistics, `data` and the executor to compensate with; refusals are recorded in it.
        feeds: to measure losses on; the statistics should not have seen them.
        run_ms: of one run of the model, about; on slow networks blocks are judged on fewer samples, or not at all.
        probed: groups of which two sizes are measured; of more, one of each.
        block_seconds: of judging blocks, about, where they are judged on more than the fewest samples.
        times: milliseconds by the layers' names; None: every group is measured, however little it may save.
    """
    offers = []
    for role in (GROUPS, BLOCKS):
        if role not in registry.names("roles"):
            continue
        remover = registry.role(role, Removes)
        if role == BLOCKS and (samples := block_samples(model, run_ms, block_seconds)) is not None:
            if samples < LEAST_SAMPLES:
                context.skip("plan", remover.name, f"a run takes {run_ms:.0f} ms: to judge every block takes too long")
                continue
            remover = registry.role(role, RemovesBlocks).judging(samples)
        by_item: dict[str, list[Removal]] = {}
        points: dict[str, list[tuple[int, float]]] = {}
        with context.failures.guard(f"structure: {remover.name}"):
            for option in remover.options(model, context):
                by_item.setdefault(option.item, []).append(option)
            if times is not None and role != BLOCKS:
                by_item = {item: by_item[item] for item in _worth_most(by_item, times)}
            probes = (
                []
                if role == BLOCKS
                else [p for sizes in by_item.values() for p in _probes(sizes, len(by_item) <= probed)]
            )
            for each in measure_sensitivity(model, remover, context, feeds, options=probes) if probes else []:
                points.setdefault(each.removal.item, []).append((each.removal.width - each.removal.kept, each.loss))
        for item, sizes in by_item.items():
            losses = np.array([size.error for size in sizes])
            if role != BLOCKS and item not in points:
                continue  # what it does to the outputs could not be measured
            if item in points:
                losses = to_measured([size.width - size.kept for size in sizes], losses, points[item])
            offers.append(Offer(role, sizes, losses * (1.0 if role == BLOCKS else REFITTED)))
    return offers


def find_structures(
    model: ir.Model, offers: Sequence[Offer], times: Mapping[str, float], failures: Failures | None = None
) -> list[Structure]:
    """The structures of least predicted loss that leave about LEVELS of the time, the gentlest first.

    The knapsack adds up what the items save; what a structure leaves is then counted as it is: a layer that reads one
    group and makes another keeps the product of what these leave of it.

    Args:
        model: the cleaned model; it is not changed.
        offers: see `find_offers`.
        times: milliseconds by the layers' names; layers that are not named cost nothing.
        failures: where a structure that cannot be made is recorded; None: it is raised.
    """
    offers = [offer for offer in offers if _saved(offer.sizes[-1], times) > 0]
    whole = sum(times.values())
    if not offers or not whole > 0:
        return []
    channels = [offer for offer in offers if offer.role != BLOCKS]
    gentle, any_ = (_front(some, times, whole) for some in (channels, offers))
    kept: list[Structure] = []
    for level in LEVELS:
        found = _nearest(gentle, level)
        other = _nearest(any_, level) if len(channels) < len(offers) else None
        if found is None or (other is not None and other.loss < CLEARLY_LESS * found.loss):
            found = other
        if found is not None and found not in kept:
            kept.append(found)
    useful = [s for i, s in enumerate(kept) if all(s.loss < other.loss for other in kept[i + 1 :])]
    failures, possible = failures or Failures(strict=True), list[Structure]()
    for structure in useful:
        with failures.guard("structure: what blocks leave of groups"):
            possible.append(_possible(model, structure))
    return possible


def _front(offers: Sequence[Offer], times: Mapping[str, float], whole: float) -> list[Structure]:
    menus = []
    for offer in offers:
        most = max(_saved(size, times) for size in offer.sizes)
        menus.append(Menu.of([most, *(most - _saved(size, times) for size in offer.sizes)], [0.0, *offer.losses]))
    found = []
    for solution in Knapsack(menus).front() if menus else []:
        if 0 < solution.loss < HOPELESS:
            chosen = [
                (offer, offer.sizes[o - 1], float(offer.losses[o - 1]))
                for offer, o in zip(offers, solution.choice, strict=True)
                if o
            ]
            found.append(_structure(chosen, times, whole, solution.loss))
    return found


def _nearest(structures: Sequence[Structure], level: float) -> Structure | None:
    near = min(structures, key=lambda s: (abs(s.share - level), s.loss), default=None)
    return near if near is not None and abs(near.share - level) < OFF else None


def block_samples(model: ir.Model, run_ms: float | None, seconds: float) -> int | None:
    """On how many samples blocks are judged within BLOCK_SECONDS, and within `seconds` unless these are very few; None:
    as many as the pass likes."""
    blocks = len(find_residuals(model)[0])
    if run_ms is None or not blocks:
        return None
    a_second = 1e3 / (blocks * BLOCK_RUNS * max(run_ms, 1e-3))
    affordable = min(BLOCK_SECONDS * a_second, max(seconds * a_second, LEAST_SAMPLES))
    return int(affordable) if affordable < MOST_SAMPLES else None


def _probes(sizes: Sequence[Removal], twice: bool) -> list[Removal]:
    """The sizes at which an item's effect is measured: about a quarter and a half of what may go, or one between."""
    shares = (4, 2) if twice else (3,)
    return [sizes[i] for i in sorted({(len(sizes) - 1) // share for share in shares})]


def _worth_most(by_item: Mapping[str, Sequence[Removal]], times: Mapping[str, float]) -> list[str]:
    """The fewest items that together save WORTH of what all may save, in their order."""
    most = {item: max(_saved(size, times) for size in sizes) for item, sizes in by_item.items()}
    kept, left = set(), WORTH * sum(most.values())
    for item in sorted(most, key=lambda item: -most[item]):
        if left <= 0:
            break
        kept.add(item)
        left -= most[item]
    return [item for item in by_item if item in kept]


def _saved(size: Removal, times: Mapping[str, float]) -> float:
    return sum(times.get(node, 0.0) * (1 - left) for node, left in zip(size.nodes, size.left, strict=True))


def _structure(
    chosen: Sequence[tuple[Offer, Removal, float]], times: Mapping[str, float], whole: float, loss: float
) -> Structure:
    left = dict.fromkeys(times, 1.0)
    groups, blocks = {}, {}
    for offer, size, lost in chosen:
        before = sum(times.get(node, 0.0) for node in size.nodes)
        ms = (before, before - _saved(size, times))
        if offer.role == BLOCKS:
            blocks[size.item] = Removed(lost, ms)
        else:
            groups[size.item] = Width(size.kept, size.width, lost, ms)
        for node, share in zip(size.nodes, size.left, strict=True):
            if node in left:
                left[node] *= share
    share = sum(times[node] * part for node, part in left.items()) / whole
    return Structure(Plan(groups=groups, blocks=blocks), share, loss)


def _possible(model: ir.Model, structure: Structure) -> Structure:
    """The structure without groups that are not there, or not as they were, once its blocks are gone."""
    plan = structure.plan
    if not plan.blocks or not plan.groups:
        return structure
    copy = ir.clone(model)
    registry.role(BLOCKS, Removes).apply(copy, dict.fromkeys(plan.blocks, 0), Context())
    widths = {group.name: group.width for group in couple_channels(copy).groups}
    groups = {name: width for name, width in plan.groups.items() if widths.get(name) == width.of}
    return Structure(Plan(groups=groups, blocks=plan.blocks), structure.share, structure.loss)


__all__ = [
    "HOPELESS",
    "LEVELS",
    "NOTHING",
    "PROBED",
    "Offer",
    "Structure",
    "block_samples",
    "find_offers",
    "find_structures",
]
