"""The measurement behind `lwgraph inspect --sensitivity`, and its table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lwgraph.errors import UsageError

if TYPE_CHECKING:
    from lwgraph import ir
    from lwgraph.plan.roles import Removal
    from lwgraph.plan.search.sensitivity import Sensitivity


def parse_ratios(text: str) -> list[float]:
    """`0.25,0.5` as shares to remove; UsageError for anything else."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < ratio < 1 for ratio in found):
        raise UsageError(f"--ratios '{text}' is not a list of shares between 0 and 1, such as 0.25,0.5,0.75")
    return found


def measure(
    model: ir.Model,
    pass_text: str | None,
    ratios: Sequence[float],
    data: str,
    preprocess: str | None,
    samples: int,
    threads: int,
    seed: int,
) -> tuple[list[Sensitivity], list[str]]:
    """Measure the sensitivity to each removal of a pass (None: of channels) on a quarter of the data, with warnings."""
    from lwgraph import registry
    from lwgraph.calibrate import Statistics, open_data
    from lwgraph.cli.progress import Progressed
    from lwgraph.plan.roles import GROUPS, Removes
    from lwgraph.plan.search.sensitivity import measure_sensitivity, split_feeds
    from lwgraph.rewrite import Pass
    from lwgraph.rewrite.base import Context

    remover = registry.role(GROUPS, Removes) if pass_text is None else Pass.parse(pass_text)
    if not isinstance(remover, Removes):
        raise UsageError(
            f"pass '{pass_text}' cannot list what it could remove; "
            "allowed: a pass with the methods of lwgraph.plan.roles.Removes"
        )
    executor = registry.executor("ort", threads=threads)
    feeds = list(open_data(data, model, preprocess=preprocess, limit=samples))
    fit, held = split_feeds(feeds)
    with Progressed() as progress:
        statistics = Statistics(model, fit, executor, seed, progress=progress)
        context = Context(
            executor=executor, data=fit, statistics=statistics, seed=seed, threads=threads, progress=progress
        )
        options = nearest(remover.options(model, context), ratios)
        found = measure_sensitivity(model, remover, context, held, options=options)
    notes = list(context.warnings)
    if len(feeds) == 1:
        notes.append("there is only one sample, so the losses are measured on data that the fits have seen")
    return found, notes


def nearest(options: Sequence[Removal], ratios: Sequence[float]) -> list[Removal]:
    """The sizes of each item that are nearest to the ratios, without repeats, largest first."""
    items: dict[str, list[Removal]] = {}
    for option in options:
        items.setdefault(option.item, []).append(option)
    chosen = []
    for sizes in items.values():
        picked = {
            min(range(len(sizes)), key=lambda i: abs(sizes[i].kept / sizes[i].width - 1 + ratio)) for ratio in ratios
        }
        chosen += [sizes[index] for index in sorted(picked)]
    return chosen


def as_rows(found: Sequence[Sensitivity]) -> list[list[str]]:
    """One row for each measurement, those that cost most at the outputs first."""
    ordered = sorted(found, key=lambda each: -each.loss)
    return [
        [
            each.removal.item,
            f"{each.removal.kept} of {each.removal.width}",
            f"{each.loss:.3g}",
            f"{each.removal.error:.3g}",
            f"{each.removal.macs:,}",
        ]
        for each in ordered
    ]
