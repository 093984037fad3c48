"""Mixed precision: chooses the nodes that stay in float so that the accuracy asked for costs least time.

Times come from the runtime's profile of the float and of the all-integer model, damages from `sensitivities`; `cut`
turns both into a ladder of choices from the fastest to the most accurate. What is chosen from the ladder is built,
judged and timed against the float model, so an estimate only proposes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lwgraph import ir
from lwgraph.calibrate.capture import measured_shapes
from lwgraph.executor import Executor, Feeds, Run, untimed
from lwgraph.measure.distance import Distance
from lwgraph.measure.latency import paired_latency
from lwgraph.measure.node_times import Border, can_profile, measured_border, node_seconds
from lwgraph.passes.quantize.graph.quantizer import Built, Quantizer
from lwgraph.passes.quantize.grids.better_ranges import better_ranges, refined
from lwgraph.passes.quantize.judging.before_softmax import Logits, has_logits
from lwgraph.passes.quantize.judging.sensitivity import sensitivities
from lwgraph.passes.quantize.placing.min_cut import Assignment, Part, TensorLink, evaluate, ladder
from lwgraph.passes.quantize.placing.readback import failures
from lwgraph.passes.quantize.placing.region import Region
from lwgraph.plan.roles import Mix
from lwgraph.progress import Progress, silent

MeasureLoss = Callable[[Run], float]  # the loss of a prepared model, comparable with max_loss; lower is better
RATE = 8.0  # without max_loss: halving the loss is worth a ninth more time (2 ** (1 / RATE))
ENOUGH = 1e-3  # a relative squared error this small is hardly worth time
CEILING = 0.02  # a larger error is not traded for time where a mix without it is faster than the float model
CLEARLY = 1.5  # times closer must be what clips ranges or evens channels: other data may go further
RACED = 7  # mixes that are timed where all in integers exceed the ceiling
FEW = 4  # samples on which sensitivities are measured
SURELY = 1.25  # times better must be what leaves more in float: times are measured, and must not decide by their noise
_SECONDS = 1.0  # seconds of timing for each comparison with the float model
EVEN = 0.98  # integers must take less than this share of the float model's time


@dataclass(frozen=True)
class NodeFacts:
    """Measurements of a node that the target could compute in integers.

    Attributes:
        damage: the loss at the network's outputs from its rounded weights and its output's grid; None: not measured.
        float_ms, integer_ms: by the runtime's profile, in place; None: the runtime does not tell.
        reason: why it stays in float; "" when it computes in integers.
    """

    name: str
    op_type: str
    damage: float | None
    float_ms: float | None
    integer_ms: float | None
    reason: str = ""


@dataclass
class Mixed:
    """A quantized model and how its precision was chosen.

    Attributes:
        model: the model; the float model itself when nothing was worth quantizing.
        kept: nodes left in float -> why.
        nodes: what was measured about each node, in graph order.
        loss: the judge's loss of `model`; None when nothing had to be judged.
        integer_loss: the loss with every node in integers that can be.
        float_ms, ms: seconds of the float model and of `model` in thousandths, paired; None: not measured.
        built: names as in the float model; None where no node is between QuantizeLinear and DequantizeLinear.
        running: nodes whose grids are taken as the model runs: products, and recurrent nodes as loops over them.
    """

    model: ir.Model
    kept: dict[str, str]
    nodes: list[NodeFacts] = field(default_factory=list)
    loss: float | None = None
    integer_loss: float | None = None
    float_ms: float | None = None
    ms: float | None = None
    built: Built | None = None
    running: list[str] = field(default_factory=list)

    @property
    def speedup(self) -> float | None:
        """The speed-up over the float model."""
        return self.float_ms / self.ms if self.float_ms and self.ms else None


def race(runs: Mapping[str, Run], feed: Feeds) -> dict[str, float]:
    """The shortest seconds of each model, timed in turn."""
    times = paired_latency(runs, [feed], seconds=_SECONDS)
    return {name: times.timing(name).minimum for name in runs}


def worth(
    max_loss: float | None, seconds: float, loss: float | None, new_seconds: float, new_loss: float, slack: float = 1.0
) -> bool:
    """Whether less time is worth a higher loss: it keeps `max_loss`; without one, by RATE, ENOUGH and `slack`."""
    if max_loss is not None:
        return new_loss <= max_loss
    return bool(_cost(new_seconds, new_loss) <= slack * _cost(seconds, loss or 0.0))


def _cost(seconds: float, loss: float) -> float:
    return float(seconds**RATE * (loss + ENOUGH))


@dataclass(frozen=True)
class _Measured:
    """What is known before anything is chosen: the network all in integers, its region, why other nodes stay in float,
    its loss, and what choices follow from; nothing after `refused` where no node can be in integers."""

    whole: Built
    region: Region
    refused: dict[str, str]
    loss: float = 0.0
    parts: Sequence[Part] = ()
    links: Sequence[TensorLink] = ()
    choices: Sequence[Assignment] = ()


@dataclass
class Mixer:
    """Finds the precision of each node for one quantizer.

    Args:
        original: the float model that the result is compared with and whose outputs are aimed at.
        quantizer: ranges and weights; its model may differ from `original` (channels evened out).
        executor: the target.
        feeds: samples to judge on.
        judge: None: the relative squared error of the outputs on `feeds`.
        refused: nodes that stay in float, and why.
        runs: variants of the model that may be measured for sensitivities.
        parts: nodes of `original` that the quantizer's model has in parts -> the names of those beside its own.
        methods: calibration methods whose ranges may be tried where those of the quantizer do damage.
        race: seconds of prepared models on one sample.
    """

    original: ir.Model
    quantizer: Quantizer
    executor: Executor
    feeds: Sequence[Feeds]
    judge: MeasureLoss | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    runs: int = 48
    methods: Sequence[tuple[str, float]] = ()
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    race: Callable[[Mapping[str, Run], Feeds], dict[str, float]] = race
    progress: Progress = silent

    def __post_init__(self) -> None:
        self.untimed = untimed(self.executor)
        self.smooth: Executor = Logits(self.untimed) if has_logits(self.original) else self.untimed
        self.distance = Distance(self.smooth.prepare(self.original), self.feeds)
        self.unit = 1.0  # factor from distances before a last Softmax to distances of the outputs
        self.floats: dict[str, float] = {}
        self.integers: dict[str, float] = {}
        self.damage: dict[str, float] = {}
        self._judged: dict[frozenset[str], tuple[Built, float]] = {}

    def find(self, max_loss: float | None = None) -> Mixed:
        """The fastest model with at most `max_loss`; None: as much accuracy as is worth its time, and CEILING kept if
        a model faster than the float one keeps it.

        The float model when that is not slower, or nothing else keeps `max_loss`.
        """
        known = self._measured(ENOUGH if max_loss is None else max_loss)
        if not known.whole.compute:
            return Mixed(self.original, dict(known.whole.reasons))
        region, refused, choices, loss = known.region, known.refused, known.choices, known.loss
        everything = frozenset(p.name for p in known.parts)
        self._judged[everything] = known.whole, loss
        found = self._pick(choices, region, refused, max_loss)
        if found is None:
            why = f"keeps max_loss {max_loss:.3g}" if choices else "saves time"
            return self._float(region, refused, f"no mix of integers and floats {why}", loss)
        if max_loss is None and self.judge is None and loss > CEILING:
            found = self._raced(choices, region, refused) or found
            if found[2] <= CEILING:
                made = self._timed(region, refused, *found, loss, everything, CEILING)
                if made.built is not None:
                    return made
        return self._timed(region, refused, *found, loss, everything, max_loss)

    def weigh(self) -> tuple[list[NodeFacts], list[Mix]]:
        """What was measured of each node, and the mixes of integers and floats that are predicted to be faster than
        floats alone, from the fastest on; none of them is built, and no whole network timed.

        Of the nodes have a reason those that stay in float in the mix which is worth its time.
        """
        known = self._measured(ENOUGH)
        floats = sum(part.float_seconds for part in known.parts)
        faster = [choice for choice in known.choices if choice.seconds <= EVEN * floats]
        if not faster:
            return self._facts(known.region, {}), []

        def kept(choice: Assignment) -> tuple[str, ...]:
            return tuple(name for node in known.region.nodes if (name := node.name or "") not in choice.integer)

        worth = self._worthwhile([c for c in faster if self.judge is None and c.damage <= CEILING] or faster)
        nodes = self._facts(known.region, dict.fromkeys(kept(worth), "not worth its time or what it does to outputs"))
        whole = evaluate(known.parts, known.links, frozenset(part.name for part in known.parts)).damage
        return nodes, [Mix(kept(c), c.damage / whole, c.seconds / floats) for c in faster] if whole > 0 else []

    def _measured(self, enough: float) -> _Measured:
        """The network all in integers: times, and, where its loss is over `enough`, what each node does to outputs."""
        refused = dict(self.refused)
        whole = self.quantizer.build(refused)
        for name, why in self._without_kernel(whole).items():
            refused[name] = why
        if len(refused) > len(self.refused):
            whole = self.quantizer.build(refused)
        region = Region(self.quantizer, refused)
        if not whole.compute:
            return _Measured(whole, region, refused)
        border = self._profile(whole)
        loss = self._whole_loss(whole)
        if loss > enough:
            whole, region, loss = self._refine(whole, region, refused, loss)
        sizes = measured_shapes(self.quantizer.model, region.values(), self.feeds[0], self.executor)
        parts = region.parts(self.floats, self.integers, self.damage)
        links = region.links(sizes, border, self.damage)
        return _Measured(whole, region, refused, loss, parts, links, ladder(parts, links))

    def _whole_loss(self, whole: Built) -> float:
        """The loss of all in integers; where a Softmax ends the model, that of what it reads is scaled to it."""
        if self.judge is not None:
            return self.judge(self.untimed.prepare(whole.model))
        loss = before = self.distance(self.smooth.prepare(whole.model))
        if self.smooth is not self.untimed:
            outputs = Distance(self.untimed.prepare(self.original), self.feeds)
            loss = outputs(self.untimed.prepare(whole.model))
            self.unit = loss / before if before > 0 else 1.0
        return loss

    def loss(self, model: ir.Model) -> float:
        """The judge's loss of a model, or the distance of its outputs; see `_whole_loss`."""
        if self.judge is not None:
            return self.judge(self.untimed.prepare(model))
        return self.unit * self.distance(self.smooth.prepare(model))

    def _without_kernel(self, built: Built) -> dict[str, str]:
        return dict(failures(self.executor, built.model, built.compute) or {})

    def _profile(self, whole: Built) -> Border:
        if not can_profile(self.executor):
            return Border()
        self.progress("timing layers", 0, 2)
        self.floats = node_seconds(self.executor, self.original, self.feeds[0]) or {}
        for name, parts in self.parts.items():
            if name in self.floats:  # no part is worth computing in float without the others
                self.floats |= dict.fromkeys((name, *parts), self.floats[name] / (1 + len(parts)))
        self.integers = node_seconds(self.executor, whole.model, self.feeds[0]) or {}
        return measured_border(self.executor)

    def _refine(
        self, whole: Built, region: Region, refused: Mapping[str, str], loss: float
    ) -> tuple[Built, Region, float]:
        """Measure the damages, and give the worst tensors better ranges where that brings the whole model closer."""
        sources, keys = region.sources()
        few = Distance(self.smooth.prepare(self.quantizer.model), self.feeds[:FEW])
        found = sensitivities(
            self.quantizer.model,
            sources,
            few,
            self.smooth,
            self.runs,
            lambda done, total: self.progress("measuring sensitivities", done, total),
        )
        ranges = better_ranges(
            self.quantizer,
            region,
            sources,
            found,
            self.methods,
            few,
            self.smooth,
            lambda done, total: self.progress("trying ranges", done, total),
        )
        if ranges:
            quantizer = refined(self.quantizer, {name: method for name, (method, _) in ranges.items()})
            built = quantizer.build(refused)
            if CLEARLY * (new := self.loss(built.model)) < loss:
                self.quantizer, whole, loss = quantizer, built, new
                region = Region(quantizer, refused)
                found = [
                    ranges[s.name][1] if s.grid is not None and s.name in ranges else damage
                    for s, damage in zip(sources, found, strict=True)
                ]
        for key, damage in zip(keys, found, strict=True):
            self.damage[key] = self.damage.get(key, 0.0) + self.unit * damage
        return whole, region, loss

    def _pick(
        self, choices: Sequence[Assignment], region: Region, refused: Mapping[str, str], max_loss: float | None
    ) -> tuple[frozenset[str], Built, float] | None:
        if not choices:
            return None
        if max_loss is None:
            best = self._worthwhile(choices)
            built, loss = self._judge(best.integer, region, refused)
            return best.integer, built, loss
        low, high, found = 0, len(choices), None
        while low < high:  # losses fall along the ladder
            middle = (low + high) // 2
            built, loss = self._judge(choices[middle].integer, region, refused)
            if loss <= max_loss and built.compute:
                found, high = (choices[middle].integer, built, loss), middle
            else:
                low = middle + 1
        return found

    def _worthwhile(self, choices: Sequence[Assignment]) -> Assignment:
        """The one of least cost of some from the fastest to the most accurate, by what is predicted of them."""
        best = choices[0]
        for choice in choices[1:]:
            if SURELY * _cost(choice.seconds, choice.damage) < _cost(best.seconds, best.damage):
                best = choice
        return best

    def _raced(
        self, choices: Sequence[Assignment], region: Region, refused: Mapping[str, str]
    ) -> tuple[frozenset[str], Built, float] | None:
        """The rung of least cost among RACED of the ladder, by measured time, within CEILING if any is.

        Estimates of time leave out what many small parts in float cost together. None: none is faster than the float
        model.
        """
        plain, best = self.executor.prepare(self.original), None
        least = True, math.inf
        for index in sorted({round(i * (len(choices) - 1) / (RACED - 1)) for i in range(RACED)}) if choices else ():
            built, loss = self._judge(choices[index].integer, region, refused)
            if not built.compute:
                continue
            times = self.race({"float": plain, "mixed": self.executor.prepare(built.model)}, self.feeds[0])
            share = times["mixed"] / times["float"]
            rank = loss > CEILING, SURELY * _cost(share, loss)
            if share <= EVEN and rank < least:
                best, least = (choices[index].integer, built, loss), (loss > CEILING, _cost(share, loss))
        return best

    def _judge(self, integer: frozenset[str], region: Region, refused: Mapping[str, str]) -> tuple[Built, float]:
        if integer not in self._judged:
            why = {n.name or "": "" for n in region.nodes if (n.name or "") not in integer}
            built = self.quantizer.build({**refused, **why})
            self._judged[integer] = built, self.loss(built.model)
        return self._judged[integer]

    def _timed(
        self,
        region: Region,
        refused: Mapping[str, str],
        integer: frozenset[str],
        built: Built,
        loss: float,
        integer_loss: float,
        everything: frozenset[str],
        max_loss: float | None,
    ) -> Mixed:
        """Against the float model and the all-integer one; the mix must be worth it when measured."""
        runs = {"float": self.executor.prepare(self.original), "mixed": self.executor.prepare(built.model)}
        whole = self._judged[everything]
        if integer != everything:
            runs["whole"] = self.executor.prepare(whole[0].model)
        shortest = self.race(runs, self.feeds[0])
        if (
            integer != everything
            and shortest["whole"] < shortest["mixed"]
            and worth(max_loss, shortest["mixed"], loss, shortest["whole"], whole[1], SURELY)
        ):
            integer, built, loss = everything, *whole
            shortest["mixed"] = shortest["whole"]
        if shortest["mixed"] > EVEN * shortest["float"] and can_profile(self.executor):
            made = self._float(
                region,
                refused,
                f"integers save no time: {1e3 * shortest['mixed']:.3g} ms against "
                f"{1e3 * shortest['float']:.3g} ms in float",
                integer_loss,
            )
            made.float_ms = made.ms = 1e3 * shortest["float"]
            return made
        kept = self._reasons(region, refused, integer, built)
        return Mixed(
            built.model,
            kept,
            self._facts(region, kept),
            loss,
            integer_loss,
            1e3 * shortest["float"],
            1e3 * shortest["mixed"],
            built,
        )

    def _float(self, region: Region, refused: Mapping[str, str], why: str, integer_loss: float) -> Mixed:
        kept = {**refused, **{n.name or "": why for n in region.nodes}}
        return Mixed(self.original, kept, self._facts(region, kept), 0.0, integer_loss)

    def _reasons(
        self, region: Region, refused: Mapping[str, str], integer: frozenset[str], built: Built
    ) -> dict[str, str]:
        found = {**built.reasons, **refused}
        done = {*built.compute, *built.others}
        for node in region.nodes:
            name = node.name or ""
            if name in integer and name in done:
                continue
            a, b = self.floats.get(name), self.integers.get(name)
            if a is not None and b is not None and a <= b:
                found[name] = f"not faster in integers: {1e3 * b:.3g} ms against {1e3 * a:.3g} ms in float"
            elif (damage := self._damage(region, name)) > 0:
                time = f", which saves {1e3 * (b - a):+.3g} ms" if a is not None and b is not None else ""
                found[name] = f"integers would add {damage:.2g} of the outputs' relative error here{time}"
            else:
                found[name] = "its neighbours are in float: converting costs more than integers save"
        return found

    def _damage(self, region: Region, name: str) -> float:
        return self._damages(region).get(name, 0.0)

    def _damages(self, region: Region) -> dict[str, float]:
        found: dict[str, float] = {}
        for tensor in region.tensors.values():
            if tensor.maker is not None:
                name = tensor.maker.name or ""
                found[name] = found.get(name, 0.0) + self.damage.get(tensor.value.name or "", 0.0)
        for node in region.nodes:
            name = node.name or ""
            found[name] = found.get(name, 0.0) + self.damage.get(f"node:{name}", 0.0)
        return found

    def _facts(self, region: Region, kept: Mapping[str, str]) -> list[NodeFacts]:
        damages = self._damages(region)
        times = ({k: 1e3 * v for k, v in t.items()} for t in (self.floats, self.integers))
        floats, integers = times
        return [
            NodeFacts(
                n.name or "",
                n.op_type,
                damages.get(n.name or "") if self.damage else None,
                floats.get(n.name or ""),
                integers.get(n.name or ""),
                kept.get(n.name or "", ""),
            )
            for n in region.nodes
        ]


__all__ = ["CLEARLY", "ENOUGH", "EVEN", "RATE", "MeasureLoss", "Mixed", "Mixer", "NodeFacts", "race", "worth"]
