"""What variants of one network are quantized from: the network itself, and the same with even channels.

Finding out takes most of the runs of a quantization. A search quantizes one network again and again, with other nodes
left in floats or other ways to take ranges: values, and the weights on their grids, are the same for all of these.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

from lwgraph import ir
from lwgraph.cache import digest_of, facts_of
from lwgraph.calibrate.ranges import Observed
from lwgraph.calibrate.subsample import spread
from lwgraph.executor import Executor, Feeds
from lwgraph.passes.quantize.grids.observer import Observer
from lwgraph.passes.quantize.grids.weight_grid import RoundedWeights
from lwgraph.passes.quantize.placing.target import Target
from lwgraph.rewrite.base import Context

TOLD_BY = 3  # samples, with their number, that tell data from others
KEPT_BYTES = 1 << 30  # of a network whose bases are kept; a second copy of the weights is among them


@dataclass(frozen=True, eq=False)
class Base:
    """One of them.

    Attributes:
        model: in floats; it is not changed.
        observer: of its values.
        weights: on their grids.
    """

    model: ir.Model
    observer: Observer
    weights: RoundedWeights


@dataclass
class Bases:
    """Those of one network on the same data.

    Attributes:
        every: the network itself first.
        seen: samples on which values are observed, and by which channels are evened out.
        unseen: on which variants are compared; ranges of the one that is taken learn these, too.
        equalized: whether even channels were tried.
        chosen: the base and the calibration method, with its percentile, of the variant whose outputs were closest, by
            what was tried.
    """

    every: list[Base]
    seen: Sequence[Feeds]
    unseen: Sequence[Feeds] = ()
    equalized: bool = False
    chosen: dict[object, tuple[Base, tuple[str, float]]] = field(default_factory=dict)

    def in_search(self, data: Sequence[Feeds], samples: int, context: Context) -> Bases:
        """The network alone, for variants that are only compared: `context.ranges` learns what is known of it.

        `data`: all samples; `samples`: elements of a tensor that are asked for.
        """
        base = self.every[0]
        observer = Observer(base.model, base.observer.executor, context, len(data), samples, prior=self._whole)
        return Bases([Base(base.model, observer, base.weights)], data)

    def _whole(self, names: list[str]) -> dict[str, Observed]:
        """Values of the network on all samples."""
        observer = self.every[0].observer
        observer.observe(self.seen, names, {})
        found = observer.extended(self.unseen, names) if len(self.unseen) else observer.observed
        return {name: copy.deepcopy(found[name]) for name in names}


def key_of(model: ir.Model, target: Target, data: Sequence[Feeds], executor: Executor, context: Context) -> object:
    """What tells the bases of a network from all others in the memory of a context."""
    facts = (ir.fingerprint(model), target, *facts_of(executor), context.seed, len(data))
    return "bases of integers", digest_of(facts, spread(data, TOLD_BY))


def remember(key: object, bases: Bases, context: Context) -> None:
    """Keep bases, but of networks that are too large for the memory of the run."""
    if ir.size(bases.every[0].model) <= context.bytes_of(KEPT_BYTES):
        context.memory[key] = bases


def remembered(key: object, samples: int, equalized: bool, context: Context) -> Bases | None:
    """What was kept, where at least so many elements of each value were counted in each run."""
    found = context.memory.get(key)
    if not isinstance(found, Bases) or found.every[0].observer.samples < samples:
        return None
    return found if found.equalized or not equalized else None


__all__ = ["Base", "Bases", "key_of", "remember", "remembered"]
