"""Chooses how many channels each group loses: a share of each, or those that cost least for the work saved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from lwgraph.arrays import Ints
from lwgraph.passes.prune.importance import Ranking
from lwgraph.passes.prune.readers import PruneView, Work
from lwgraph.plan.search.sensitivity import Sensitivity, to_measured
from lwgraph.views.coupling import Axis, Group


def step_of(group: Group, multiple: int) -> int:
    """The step in which a group may shrink, so that the layers that make it keep multiples of `multiple`.

    A channel that is several filters (one for each group of a grouped convolution) counts as so many.
    """
    steps = [multiple // math.gcd(multiple, each.indices.shape[1]) for each in group.weights("out")]
    return max(steps, default=1)


def kept_by_ratio(group: Group, ratio: float, multiple: int) -> int:
    """The multiple nearest to the share that stays (the larger of two), at least one."""
    step = step_of(group, multiple)
    if group.width <= step:
        return group.width
    wanted = (1 - ratio) * group.width
    return min(group.width, max(step, math.floor(wanted / step + 0.5) * step))


MENU = 8  # sizes of one group that are offered to a planner, at most


def menu(group: Group, step: int, most: float) -> list[int]:
    """Widths that a group may keep, largest first: multiples of `step`, at least 1 - most of it; evenly spread."""
    least = max(step, math.ceil((1 - most) * group.width))
    widths = list(range((group.width - 1) // step * step, least - 1, -step))
    if len(widths) <= MENU:
        return widths
    return [widths[round(i * (len(widths) - 1) / (MENU - 1))] for i in range(MENU)]


def by_group(rankings: Mapping[Group, Ranking], ratio: float, multiple: int) -> dict[Group, Ints]:
    """Each group loses the same share."""
    return {
        group: ranking.order[: group.width - kept_by_ratio(group, ratio, multiple)]
        for group, ranking in rankings.items()
    }


def by_work(
    rankings: Mapping[Group, Ranking], ratio: float, multiple: int, view: PruneView, most: float
) -> dict[Group, Ints]:
    """Remove a share of the multiply-accumulates: always the step that costs least for the work it saves.

    Args:
        rankings: of the groups that may shrink.
        ratio: the share of the model's work to remove.
        multiple: see `step_of`.
        view: the model.
        most: the largest share of any group that may go.

    Returns:
        the channels to remove. Less than asked for when nothing is left to remove.
    """
    work = Work(view)
    kept = {group: group.width for group in rankings}
    share: dict[Axis, float] = {}
    start = now = work.total(share)
    while now > (1 - ratio) * start + 0.5:
        best: tuple[float, Group, int, dict[Axis, float], float] | None = None
        for group, ranking in rankings.items():
            step = step_of(group, multiple)
            fewer = (kept[group] - 1) // step * step
            if fewer < max(step, math.ceil((1 - most) * group.width)):
                continue
            other = share | shares_after(group, kept[group], fewer, share)
            after = work.total(other)
            price = ranking.cost[group.width - fewer] - ranking.cost[group.width - kept[group]]
            if now - after > 0 and (best is None or price / (now - after) < best[0]):
                best = price / (now - after), group, fewer, other, after
        if best is None:
            break
        _, group, kept[group], share, now = best
    return {group: ranking.order[: group.width - kept[group]] for group, ranking in rankings.items()}


def at_outputs(rankings: Mapping[Group, Ranking], found: Iterable[Sensitivity]) -> dict[Group, Ranking]:
    """The rankings, their costs scaled to the losses that were measured at the network's outputs; see `to_measured`.

    A group that was not measured keeps its costs.
    """
    points: dict[str, list[tuple[int, float]]] = {}
    for each in found:
        points.setdefault(each.removal.item, []).append((each.removal.width - each.removal.kept, each.loss))
    scaled = dict(rankings)
    for group, ranking in rankings.items():
        if group.name in points:
            gone = np.arange(group.width + 1)
            scaled[group] = Ranking(ranking.order, to_measured(gone, ranking.cost, points[group.name]))
    return scaled


def shares_after(group: Group, before: int, after: int, share: Mapping[Axis, float]) -> dict[Axis, float]:
    """The shares left of the axes of the group's weights after it shrinks, `share` being left of them now."""
    found: dict[Axis, float] = {}
    for each in group.weights():
        root = each.axis.root()
        found[root] = share.get(root, 1.0) - (before - after) * each.indices.shape[1] / root.size
    return found
