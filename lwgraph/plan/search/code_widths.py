"""How many bits the codes of each layer's weights get: a knapsack of bytes over what each width does to the outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Floats
from lwgraph.executor import Feeds
from lwgraph.layers.coded_weights import Coded, find_coded
from lwgraph.plan.roles import CodesLayers, CodesWeights, Removal
from lwgraph.plan.search.sensitivity import measure_sensitivity
from lwgraph.plan.search.solver import BUCKETS, Knapsack, Menu
from lwgraph.rewrite.base import Context, Log

MEASURED = 128  # of single layers at one width, at most; of fewer layers each is measured at two widths
GAINED = 4.0  # times less squared error for each further bit (6.02 dB: Bennett 1948), where it was not measured
LEAST = 1e-3  # of the median loss, what a layer's is at least
MOST = 1e6  # a loss, at most: a model that gives no numbers
BUCKETS_EACH = 64  # steps of the budget for each layer, at least, as each is rounded up to whole steps


@dataclass(frozen=True)
class Widths:
    """Bits for the codes of all weights.

    Attributes:
        bits: by layer; of all others `others`.
        saved: bytes that are saved against codes of the reference width, about; negative: what they take more.
        loss: that is predicted at the network's outputs, see `sensitivity.Reference.loss`.
    """

    others: int
    saved: float
    loss: float
    bits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Layer:
    """A weight that can be in codes: the name of the first layer that reads it, and bytes by width."""

    name: str
    bytes: Mapping[int, float]


@dataclass(frozen=True)
class Mixtures:
    """What may be chosen.

    Attributes:
        reference: one width for all.
        front: the choices that no other is predicted to beat in both bytes and loss, the fewest bytes first.
    """

    reference: Widths
    front: Sequence[Widths]


def uniform(coder: CodesWeights, reference: int, size: int) -> Mixtures:
    """The choices of one width for all layers, where nothing is known of single ones.

    Args:
        coder: with its widths.
        reference: one of them.
        size: bytes of the codes in this width, about.
    """
    ladder = [Widths(bits, size * (1 - bits / reference), GAINED**-bits) for bits in sorted(coder.bits)]
    return Mixtures(next(each for each in ladder if each.others == reference), ladder)


def mixtures(
    model: ir.Model, coder: CodesLayers, reference: int, context: Context, feeds: Sequence[Feeds]
) -> Mixtures | None:
    """The choices of a width for each layer; None where nothing becomes codes, or nothing can be measured.

    One layer at a time gets codes of few bits, alone, and the network runs with it; what other widths of it do
    follows by interpolating logarithms. Then a knapsack adds up bytes and losses for all budgets at once (SPDY: Frantar
    and Alistarh 2022, section 3.2). Costs a fit and a run on `feeds` for each measurement, at most MEASURED about.

    Args:
        model: in floats; it is not changed.
        coder: which has at least two widths.
        reference: a width of it.
        context: with statistics of the model, and what runs it.
        feeds: to measure on.
    """
    layers = _layers(model, coder, reference, _quiet(context))
    losses = _losses(model, layers, coder, context, feeds) if layers else {}
    layers = [layer for layer in layers if layer.name in losses]
    if not layers:
        return None
    widths = sorted(coder.bits)
    menus = [Menu.of([layer.bytes[b] for b in widths], [losses[layer.name][b] for b in widths]) for layer in layers]
    knapsack = Knapsack(menus, buckets=max(BUCKETS, BUCKETS_EACH * len(layers)))
    known = knapsack.total([widths.index(reference)] * len(layers))
    front = []
    for solution in knapsack.front():
        bits = {layer.name: widths[o] for layer, o in zip(layers, solution.choice, strict=True)}
        common = max(widths, key=list(bits.values()).count)
        others = {name: width for name, width in bits.items() if width != common}
        front.append(Widths(common, known.cost - solution.cost, solution.loss, others))
    return Mixtures(Widths(reference, 0.0, known.loss), front)


def _layers(model: ir.Model, coder: CodesLayers, reference: int, context: Context) -> list[_Layer]:
    """What becomes codes, the largest first."""
    coded = ir.clone(model)
    coder.coded(reference).run(coded, context)
    at = {node: index for index, node in enumerate(coded.graph)}
    found: dict[str, dict[int, float]] = {}
    for value, each in find_coded(coded.graph):
        readers = sorted((use.node for use in value.uses() if use.node in at), key=at.__getitem__)
        if readers and readers[0].name:
            sizes = found.setdefault(readers[0].name, dict.fromkeys(coder.bits, 0.0))  # a recurrent layer has two
            for bits in sizes:
                sizes[bits] += _bytes(each, bits)
    return sorted((_Layer(*each) for each in found.items()), key=lambda layer: (-layer.bytes[reference], layer.name))


def _bytes(coded: Coded, bits: int) -> float:
    constants = len(coded.tables) << bits
    return coded.codes.size * bits / 8 + constants * coded.tables.itemsize


def _quiet(context: Context) -> Context:
    """Where passes take the statistics that there are, try no runtime, and what they tell is told later."""
    return context.beside(data=None, executor=None, log=Log(memory=context.memory))


@dataclass(frozen=True)
class _Alone:
    """Puts single layers into codes, as `measure_sensitivity` asks for it: what is kept of a layer are so many bits."""

    coder: CodesLayers
    layers: tuple[str, ...]
    name: str = "codes"

    def __str__(self) -> str:
        return str(self.coder.coded(max(self.coder.bits)))

    def options(self, model: ir.Model, context: Context) -> list[Removal]:
        """All layers at all widths."""
        return [Removal(name, bits, 32, 0, 0.0, (name,)) for name in self.layers for bits in sorted(self.coder.bits)]

    def apply(self, model: ir.Model, kept: Mapping[str, int], context: Context, *, refit: bool = False) -> int:
        """Put each of the layers named into codes of so many bits, by the statistics of the context."""
        count, context = 0, _quiet(context)
        for name, bits in kept.items():
            others = [each for each in self.layers if each != name]
            count += self.coder.coded(bits, others).run(model, context)
        return count


def _losses(
    model: ir.Model, layers: Sequence[_Layer], coder: CodesLayers, context: Context, feeds: Sequence[Feeds]
) -> dict[str, dict[int, float]]:
    """By layer and width, the loss at the outputs; of layers beyond MEASURED as the median for each of their bytes."""
    widths = sorted(coder.bits)
    measured = layers[:MEASURED]
    probed = widths[:3:2] if 2 * len(measured) <= MEASURED else widths[1:2] or widths
    alone = _Alone(coder, tuple(layer.name for layer in layers))
    options = [Removal(layer.name, bits, 32, 0, 0.0, (layer.name,)) for layer in measured for bits in probed]
    points: dict[str, dict[int, float]] = {}
    for each in measure_sensitivity(model, alone, context, feeds, options=options):
        points.setdefault(each.removal.item, {})[each.removal.kept] = min(each.loss, MOST)
    known = [loss for each in points.values() for loss in each.values() if loss > 0]
    if not known:
        return {}
    floor = LEAST * float(np.median(known))
    found = {
        name: _between({bits: max(loss, floor) for bits, loss in each.items()}, widths) for name, each in points.items()
    }
    sizes = {layer.name: layer.bytes[widths[0]] for layer in layers}
    typical = {b: float(np.median([lost[b] / sizes[name] for name, lost in found.items()])) for b in widths}
    for layer in layers[MEASURED:]:
        found[layer.name] = {bits: typical[bits] * sizes[layer.name] for bits in widths}
    return found


def _between(points: Mapping[int, float], widths: Sequence[int]) -> dict[int, float]:
    """The losses at all widths, through the logarithms of those that were measured, never rising."""
    at = np.array(sorted(points), np.float64)
    logs = np.log([points[int(bits)] for bits in at])
    bits = np.asarray(widths, np.float64)
    inner = np.interp(bits, at, logs)
    outer = np.maximum(bits - at[-1], 0) + np.minimum(bits - at[0], 0)
    losses: Floats = np.minimum.accumulate(np.exp(inner - math.log(GAINED) * outer))
    return {width: float(loss) for width, loss in zip(widths, losses, strict=True)}


__all__ = ["Mixtures", "Widths", "mixtures", "uniform"]
