"""quantize: 8-bit weights and activations, placed as the target's integer kernels want them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from lwgraph import ir, registry
from lwgraph.calibrate.subsample import spread
from lwgraph.errors import LwgraphError, UsageError, did_you_mean
from lwgraph.executor import Executor, Feeds, untimed
from lwgraph.measure.compare import compare
from lwgraph.measure.distance import Distance
from lwgraph.passes.quantize.dynamic import Dynamic, quantize_tables
from lwgraph.passes.quantize.equalize import Equalize, wanted
from lwgraph.passes.quantize.graph.activations import Opened, close_activations, open_activations
from lwgraph.passes.quantize.graph.dynamic_products import dynamic_sites, quantize_products
from lwgraph.passes.quantize.graph.emit import FLOAT
from lwgraph.passes.quantize.graph.quantizer import Built, GridOptions, Quantizer, name_nodes, rounding
from lwgraph.passes.quantize.graph.raise_opset import raise_opset
from lwgraph.passes.quantize.graph.recode import decode_weights, encode_weights
from lwgraph.passes.quantize.graph.shapes import infer
from lwgraph.passes.quantize.graph.smooth_chains import find_chains
from lwgraph.passes.quantize.grids.bases import Base, Bases, key_of, remember, remembered
from lwgraph.passes.quantize.grids.better_ranges import refined
from lwgraph.passes.quantize.grids.observer import Observer, elements_counted, judged, parted
from lwgraph.passes.quantize.grids.second_order_weights import finer, rounds, weight_share
from lwgraph.passes.quantize.judging.before_softmax import Logits
from lwgraph.passes.quantize.judging.describe import describe
from lwgraph.passes.quantize.judging.mixed_precision import (
    CLEARLY,
    EVEN,
    MeasureLoss,
    Mixed,
    Mixer,
    NodeFacts,
    race,
    worth,
)
from lwgraph.passes.quantize.placing.already_quantized import quantized_already
from lwgraph.passes.quantize.placing.readback import failures
from lwgraph.passes.quantize.placing.roles import OTHER_TYPE
from lwgraph.passes.quantize.placing.spellings import refusals, spell_out
from lwgraph.passes.quantize.placing.target import Target, has_vnni, load_target, target_names
from lwgraph.passes.quantize.recurrent import QuantizeRecurrent
from lwgraph.passes.quantize.smooth_quant import SmoothQuant
from lwgraph.plan.roles import Mix
from lwgraph.rewrite import Context, Contract, Pass
from lwgraph.rewrite.base import Log

DESCRIBED = 2  # samples on which the report compares every tensor
BIAS_OPSET = 11  # that of Round, with which ONNX Runtime rounds the bias of a float layer between integers
WIDE_OPSET = 21  # the opset of QuantizeLinear with 4-bit and 16-bit integers
ORT = "ort-cpu"  # the target that is taken where the runtime's name says nothing; those that begin so are like it
JUDGED = 12  # rows of samples on which variants are compared
MARGIN = 1.2  # times closer to be taken must be what clips ranges or evens channels, on samples that it does not know
PROMISING = 1.03  # times less predicted error that channels must give to be tried evened out
_NEEDS_DATA = "pass 'quantize' needs calibration samples, to know the ranges of activations; give --data"
_STATIC = (
    "calibration_method",
    "percentile",
    "activation_type",
    "weight_type",
    "rounding",
    "max_loss",
    "dynamic_nodes",
)
AUTO = (("minmax", 100.0), ("moving-average", 100.0), ("percentile", 99.99), ("mse", 100.0))


@dataclass(frozen=True)
class Weighed:
    """What integers do to a network.

    Attributes:
        nodes, mixes: see `Mixer.weigh`.
        method: the calibration method whose ranges brought the outputs nearest.
        even: whether channels that were evened out brought them nearer.
    """

    nodes: Sequence[NodeFacts]
    mixes: Sequence[Mix]
    method: str
    even: bool


@dataclass(frozen=True)
class _Variant:
    """A network in integers.

    Attributes:
        base, method: what it is quantized from, and the calibration method with its percentile.
        quantizer, built: of it.
        distance: of its outputs from the float model's; 0 where nothing else is tried.
        rank: that, with a handicap for what may fit the samples alone.
    """

    base: Base
    method: tuple[str, float]
    quantizer: Quantizer
    built: Built
    distance: float
    rank: float


@dataclass(frozen=True)
class _Begun:
    """All in integers that can be.

    Attributes:
        opened: activations that were taken apart.
        refused: nodes that stay in float, and why.
        quantizer, built: of the variant whose outputs are closest.
        failed: nodes of it that the runtime does not compute in integers, and why.
        measurable: whether times and kernels of the target can be had here.
    """

    opened: Sequence[Opened]
    refused: dict[str, str]
    quantizer: Quantizer
    built: Built
    failed: Mapping[str, str]
    measurable: bool


@dataclass(frozen=True)
class Quantize(Pass):
    """Compute in 8-bit integers where the target has kernels for it (static QDQ); needs calibration data."""

    name: ClassVar[str] = "quantize"
    contract: ClassVar[Contract] = Contract.APPROXIMATE
    spares: ClassVar[str] = "nodes_to_exclude"

    target: Annotated[
        str,
        "auto (the runtime that runs the models), ort-cpu, ort-cpu-avx2, openvino, tensorrt, qnn, or the path of a "
        "target file",
    ] = "auto"
    activations: Annotated[
        Literal["static", "dynamic"],
        "static: grids from calibration data; dynamic: MatMul and Gemm take the grid of what they read as the model "
        "runs, and LSTM, GRU and embeddings become integers; needs no data",
    ] = "static"
    calibration_method: Annotated[
        Literal["auto", "minmax", "moving-average", "percentile", "entropy", "mse"],
        "how ranges are chosen; auto tries all but entropy and keeps what is closest to the float outputs",
    ] = "auto"
    percentile: Annotated[float, "for calibration_method=percentile: share of the values inside, in %"] = 99.99
    activation_type: Annotated[str | None, "integer type of activations; none: the target's"] = None
    weight_type: Annotated[str | None, "integer type of weights; none: the target's"] = None
    per_channel: Annotated[bool | None, "one weight scale per output channel; none: as the target can"] = None
    reduce_range: Annotated[bool | None, "7-bit weights, for processors that saturate; none: detected"] = None
    equalize: Annotated[
        bool, "also try to even out channels across layers, and behind normalizations, and keep what is closer"
    ] = True
    rounding: Annotated[
        Literal["auto", "nearest", "second-order"],
        "of weights: to the nearest integer, or by the moments of their inputs (round-weights); auto: "
        "the second where it is closer",
    ] = "auto"
    bias_correction: Annotated[bool, "shift biases by the mean error of the rounded weights"] = True
    keep: Annotated[
        Literal["auto", "none"],
        "auto: leave in float what is not faster in integers or harms the outputs most; none: only what "
        "has no integer kernel",
    ] = "auto"
    max_loss: Annotated[
        float | None,
        "with keep=auto: the largest relative squared error of the outputs on the "
        "calibration data; none: as little as is worth its time",
    ] = None
    dynamic_nodes: Annotated[
        tuple[str, ...],
        "with activations=static: names of MatMul and Gemm nodes whose grids are taken as the model runs",
    ] = ()
    nodes_to_exclude: Annotated[tuple[str, ...], "names of nodes that stay in float"] = ()
    op_types_to_quantize: Annotated[tuple[str, ...], "only these operators; empty: all that the target has"] = ()
    ignored_scope: Annotated[tuple[str, ...], "nodes that stay in float: name, type:Conv, or re:expression"] = ()

    def __post_init__(self) -> None:
        self.check_option("percentile", 50 < self.percentile <= 100, self.percentile, "above 50, up to 100")
        self.check_option("max_loss", self.max_loss is None or self.max_loss > 0, self.max_loss, "over 0, or none")
        if self.activations == "dynamic":
            for name in _STATIC:
                value, usual = getattr(self, name), type(self).__dataclass_fields__[name].default
                self.check_option(
                    name, value == usual, value, f"{usual!r}, with activations=dynamic, which takes no ranges"
                )

    def run(self, model: ir.Model, context: Context) -> int:
        """Raises UsageError without calibration samples and for names that the model does not have."""
        known = quantized_already(model)
        if known is not None:
            context.skip(self.name, model.graph.name or "the model", f"already quantized: {known}; left as it is")
            return 0
        if self.activations != "dynamic" and not context.data:
            raise UsageError(f"{_NEEDS_DATA}, or take quantize{{activations=dynamic}}")
        coded = decode_weights(model)
        # Channels that are evened out, and second-order rounding, would leave each output channel more values than
        # codes can tell apart.
        step = replace(self, equalize=False, rounding="nearest") if coded and self.activations == "static" else self
        count = step._dynamic(model, context) if self.activations == "dynamic" else step._static(model, context)
        encode_weights(model, coded)
        return count

    def gains(self, model: ir.Model, context: Context) -> bool:
        """Whether a run with `activations=dynamic` would change `model`, which may be changed here.

        What that would leave alone is skipped. The weights of products are not rounded, which takes longest.
        """
        if quantized_already(model) is not None:
            return False
        decode_weights(model)
        return self._dynamic(model, context, products=False) > 0

    def _static(self, model: ir.Model, context: Context) -> int:
        assert context.data
        mixed = self.within(model, context, self.max_loss)
        typed = not mixed.built and bool(mixed.kept) and set(mixed.kept.values()) == {OTHER_TYPE}
        for node, reason in () if typed else mixed.kept.items():
            context.skip(self.name, node, reason)
        if context.details is not None:
            executor = context.executor or registry.executor("ort", threads=context.threads)
            context.details["quantization"] = describe(
                model, mixed, spread(context.data, DESCRIBED), executor, context.seed
            )
        count = len(mixed.running) + (len(mixed.built.compute) + len(mixed.built.others) if mixed.built else 0)
        if count:
            ir.replace_contents(model, mixed.model)
        elif typed or not mixed.kept:
            why = f"it has no layer that {self.rules(context.executor).name} computes in integers"
            why += ": none is float32" if typed else ""
            context.skip(self.name, model.graph.name or "the model", why)
        return count

    def within(
        self, model: ir.Model, context: Context, max_loss: float | None = None, judge: MeasureLoss | None = None
    ) -> Mixed:
        """Quantize a copy of `model` so that its loss is at most `max_loss`, as fast as can be.

        For callers that plan: the result has the quantized model (`model`; the float model where integers do not pay or
        nothing keeps `max_loss`), the nodes left in float with the reasons (`kept`), and for every node that the target
        could compute in integers its damage at the outputs and its times in float and in integers (`nodes`).

        Args:
            model: a float model; it is not changed.
            context: its `data` calibrate and are judged on; its executor is the target.
            max_loss: in the judge's unit; None: as much accuracy as is worth its time. With
                `keep=none` it is not looked at.
            judge: the loss of a prepared model, lower is better, below or equal 0 for the float model; None: the
                relative squared error of the outputs against the float model's (see `distance.Distance`).

        Raises:
            UsageError: there are no calibration samples, names that the model does not have, or types that need
                a newer opset than the model can be brought to.
        """
        target, executor, working, why = self._workable(model, context)
        if why:
            return Mixed(working, {model.graph.name or "the model": why})
        refused = self.refused(working.graph, target.roles)
        later = {name: why for name, why in self._dynamic_nodes(working, context).items() if name not in refused}
        mixed = self._placed(working, target, executor, refused | later, context, max_loss, judge)
        self._products(mixed, target, later, refused, context)
        loops = [n for n in working.graph if target.has(ir.operator(n), "recurrent", opset_of(working))]
        if any((n.name or "") not in refused for n in loops):
            self._recurrent(working, mixed, target, executor, refused, context, max_loss, judge)
        old, new = opset_of(model), opset_of(mixed.model)
        if old < target.minimum_opset and (mixed.built or mixed.running):
            context.warn(f"{self.name} converted the model from opset {old}, which has no integers, to opset {new}")
        return mixed

    def _dynamic(self, model: ir.Model, context: Context, *, products: bool = True) -> int:
        target = self.resolved_target(context)
        if not target.name.startswith(ORT):
            raise self._no_kernels(target, "activations", self.activations)
        dynamic = Dynamic(target.reduced_range, target.per_channel, self.keep == "auto", self.name)
        return dynamic.run(model, context, partial(self.refused, roles=target.roles), products=products)

    def _dynamic_nodes(self, model: ir.Model, context: Context) -> dict[str, str]:
        """The names in `dynamic_nodes` of products that can do so -> why the static grids leave them alone."""
        if not self.dynamic_nodes:
            return {}
        nodes = {node.name or "" for node in model.graph}
        sites, reasons = dynamic_sites(model, {})
        able = {site.node.name or "" for site in sites}
        loops = {node.name or "" for node in model.graph if ir.operator(node) in ir.GATED}
        for name in self.dynamic_nodes:
            if name not in nodes:
                raise UsageError(
                    f"option 'dynamic_nodes' names '{name}', which the model does not have{did_you_mean(name, nodes)}"
                )
            if name not in able and name not in loops:  # these are loops over such integers in any case
                why = reasons.get(name, "it is no MatMul or Gemm with a constant weight")
                context.skip(self.name, name, f"no grid that is taken as the model runs: {why}")
        return {name: "its grid is taken as the model runs" for name in self.dynamic_nodes if name in able}

    def _products(
        self, mixed: Mixed, target: Target, names: Collection[str], refused: Mapping[str, str], context: Context
    ) -> None:
        """Grids taken as the model runs, in place of floats, for the nodes of these names; with 8 bits for tables of
        embeddings, as `activations=dynamic` has them."""
        if not names:
            return
        if not target.name.startswith(ORT):
            raise self._no_kernels(target, "dynamic_nodes", self.dynamic_nodes[0])
        model = ir.clone(mixed.model)  # it may be the model that others look at
        sites = [site for site in dynamic_sites(model, {})[0] if site.node.name in names]
        quantize_products(
            model.graph, sites, opset_of(model), reduced=target.reduced_range, per_channel=target.per_channel
        )
        quantize_tables(model, refused, context)
        mixed.model = model
        mixed.running += [site.node.name or "" for site in sites]
        mixed.kept = {name: why for name, why in mixed.kept.items() if name not in names}

    def _no_kernels(self, target: Target, option: str, value: str) -> UsageError:
        return UsageError(
            f"option '{option}': '{value}' needs kernels that {target.name} lacks; allowed with "
            "ort-cpu and ort-cpu-avx2; otherwise activations=static"
        )

    def _workable(self, model: ir.Model, context: Context) -> tuple[Target, Executor, ir.Model, str]:
        """What integers are for, what runs the model, a copy of it with shapes and names at an opset that has integers,
        and why there is no such opset, "" where there is."""
        if not context.data:
            raise UsageError(_NEEDS_DATA)
        target = self.resolved_target(context)
        executor = context.executor or registry.executor("ort", threads=context.threads)
        working, why = self._raised(model, target, context.data[0], executor, context)
        if not why:
            infer(working)
            name_nodes(working.graph)
        return target, executor, working, why

    def _raised(
        self, model: ir.Model, target: Target, feed: Feeds, executor: Executor, context: Context
    ) -> tuple[ir.Model, str]:
        """A copy, at the opset that one scale per output channel, integers of 4 or 16 bits or the runtime need where it
        is older, or that any integers need; and why it is at none that integers could be written in, "" where it is."""
        opset, least, why = opset_of(model), target.minimum_opset, ""
        wide = [t for t in (target.activation_type, target.weight_type) if t not in ("int8", "uint8")]
        convolves = any(ir.operator(n) in ir.CONVOLUTIONS for n in model.graph)
        channels = target.per_channel_opset if target.per_channel and convolves else 0
        wanted = max(WIDE_OPSET if wide else 0, channels, BIAS_OPSET)
        for goal in [g for g in dict.fromkeys((max(wanted, least), least)) if opset < g]:
            copy = ir.clone(model)
            try:
                raise_opset(copy, goal)
                found = compare(executor.prepare(model)(feed), executor.prepare(copy)(feed), Contract.ROUNDING)
                why = "" if found.ok else f"the outputs changed: {found.first_failure}"
            except LwgraphError as error:
                why = str(error)
            if not why:
                return copy, ""
            if wide and opset < WIDE_OPSET:
                raise UsageError(
                    f"{wide[0]} needs opset {WIDE_OPSET} and the model has {opset}: {why}; allowed here: int8, uint8"
                )
            if goal > least:
                what = "weights keep one scale per tensor" if opset < channels else f"it stays at opset {opset}"
                context.skip(self.name, model.graph.name or "the model", f"{what}: {why}")
        return ir.clone(model), f"opset {opset} has no QuantizeLinear: {why}" if opset < least else ""

    def _placed(
        self,
        working: ir.Model,
        target: Target,
        executor: Executor,
        refused: dict[str, str],
        context: Context,
        max_loss: float | None,
        judge: MeasureLoss | None,
    ) -> Mixed:
        """Quantize with QuantizeLinear and DequantizeLinear."""
        begun = self._begun(working, target, executor, refused, context)
        if self.keep == "none" or not begun.built.compute or not begun.measurable:
            for node, reason in begun.failed.items():
                context.warn(f"'{node}' was quantized but does not run in integers: {reason}")
            built = begun.built
            mixed = (
                Mixed(built.model, dict(built.reasons), built=built)
                if built.compute
                else Mixed(working, dict(built.reasons))
            )
        else:
            mixed = self._mixer(begun, working, executor, context, judge).find(max_loss)
        _close(mixed, begun.opened)
        return mixed

    def weighed(self, model: ir.Model, context: Context) -> Weighed | None:
        """What integers do to each node of a model, and the mixes that may be worth a look; none is built or timed.

        Args:
            model: a float model; it is not changed.
            context: as for `within`.

        Returns:
            None where no node can compute in integers; without nodes where times of the target cannot be had here.
        """
        target, executor, working, why = self._workable(model, context)
        if why:
            return None
        begun = self._begun(working, target, executor, self.refused(working.graph, target.roles), context)
        if not begun.built.compute:
            return None
        # Plans cannot state ranges tensor by tensor, so that none are looked for.
        mixer = replace(self._mixer(begun, working, executor, context, None), methods=())
        nodes, mixes = mixer.weigh() if begun.measurable else ([], [])
        return Weighed(nodes, mixes, begun.quantizer.recipe.method, begun.built.even)

    def _mixer(
        self, begun: _Begun, working: ir.Model, executor: Executor, context: Context, judge: MeasureLoss | None
    ) -> Mixer:
        assert context.data
        return Mixer(
            working,
            begun.quantizer,
            executor,
            judged(working, context.data, JUDGED),
            judge,
            begun.refused,
            parts={one.name: one.parts for one in begun.opened},
            methods=AUTO if self.calibration_method == "auto" else (),
            progress=context.progress,
        )

    def _begun(
        self, working: ir.Model, target: Target, executor: Executor, refused: dict[str, str], context: Context
    ) -> _Begun:
        """All in integers that can be, with the ranges that were found to be best."""
        assert context.data
        opened_model = ir.clone(working)
        # What stays in float is put together again: whatever it is, the same values are observed.
        opened = open_activations(opened_model, target)
        refused = refused | {part: refused[one.name] for one in opened if one.name in refused for part in one.parts}
        here = executor.name.partition(":")[0] == target.name  # the executor is the runtime that the rules are of
        measurable = here or target.name.startswith(ORT)
        name_nodes(opened_model.graph)
        spell_out(opened_model)
        # A file for another runtime must run in this one, too, which checks it.
        refused = refused | refusals(opened_model, target, executor, refused, context.data[0])
        for each in opened_model.graph:
            if (each.name or "") in refused:
                each.meta[FLOAT] = True
        quantizer, built = self.best(opened_model, target, context.data, executor, refused, context)
        asked = here or (measurable and self.keep == "none")
        failed = failures(executor, built.model, built.compute) if asked and built.compute else None
        if here and failed:
            # Rules go by operators; what a runtime fuses into kernels of floats, only its own graph tells.
            refused, even = {**refused, **failed}, built.even
            built = quantizer.build(refused)
            built.even = even
            failed = failures(executor, built.model, built.compute) if built.compute else None
        return _Begun(opened, refused, quantizer, built, failed or {}, measurable)

    def _recurrent(
        self,
        original: ir.Model,
        mixed: Mixed,
        target: Target,
        executor: Executor,
        refused: dict[str, str],
        context: Context,
        max_loss: float | None,
        judge: MeasureLoss | None,
    ) -> None:
        """Loops over integer products in place of LSTM and GRU, kept where measured faster and accurate enough."""
        assert context.data
        inner = Context(log=Log(limit=context.log.limit))
        trial = ir.clone(mixed.model)
        names = [n.name or "" for n in trial.graph if target.has(ir.operator(n), "recurrent", opset_of(trial))]
        scope = tuple(n for n in names if n in refused)
        count = QuantizeRecurrent(target.reduced_range, scope).run(trial, inner)
        skipped = {s.place: s.reason for s in inner.skipped}
        mixed.kept.update(skipped)
        if not count:
            return
        done = [n for n in names if n not in skipped]
        if self.keep == "none":  # nothing is asked of what was said to be in integers
            mixed.model, mixed.running = trial, mixed.running + done
            return
        feeds = judged(original, context.data, JUDGED)
        runs = {"before": executor.prepare(mixed.model), "after": executor.prepare(trial)}
        loss = judge or Distance(untimed(executor).prepare(original), feeds)
        times, lost = race(runs, feeds[0]), loss(runs["after"])
        why = ""
        if times["after"] > EVEN * times["before"]:
            why = (
                f"no faster as a loop over integers: {1e3 * times['after']:.3g} ms against "
                f"{1e3 * times['before']:.3g} ms for the model"
            )
        elif not worth(max_loss, times["before"], mixed.loss, times["after"], lost):
            why = f"a loop over integers raises the loss to {lost:.3g}"
        if why:
            mixed.kept.update(dict.fromkeys(done, why))
            return
        mixed.model, mixed.loss, mixed.running = trial, lost, mixed.running + done
        mixed.ms = 1e3 * times["after"] * (mixed.ms / (1e3 * times["before"]) if mixed.ms else 1.0)
        mixed.float_ms = mixed.float_ms or 1e3 * times["before"]

    def rules(self, executor: Executor | None) -> Target:
        """The target as its file states it; of `auto` that of the executor's name, where there is one, or `ort-cpu`."""
        runtime = "" if executor is None else executor.name.partition(":")[0]
        return load_target(self.target if self.target != "auto" else runtime if runtime in target_names() else ORT)

    def resolved_target(self, context: Context) -> Target:
        """The target with this pass's options; weights keep to 7 bits on a processor that saturates."""
        target = self.rules(context.executor)
        reduced = self.reduce_range
        if reduced is None and target.vnni and not has_vnni():
            reduced = True
            context.warn(
                "this processor has no VNNI, so weights use 7 bits to keep products from saturating "
                "(quantize{reduce_range=false} overrides)"
            )
        return target.with_types(self.activation_type, self.weight_type, self.per_channel, reduced)

    def best(
        self,
        model: ir.Model,
        target: Target,
        data: Sequence[Feeds],
        executor: Executor,
        refused: dict[str, str],
        context: Context,
    ) -> tuple[Quantizer, Built]:
        """The variant whose outputs are closest to the float model's: each method, with even channels and without.

        They are judged on the last quarter of the samples, which their ranges and channel scales do not know yet; the
        ranges of the one that is taken then learn these samples, too.
        """
        methods = AUTO if self.calibration_method == "auto" else ((self.calibration_method, self.percentile),)
        bases = self._bases(model, target, data, executor, context, methods)
        fixed = refused if self.keep == "none" else None  # no other placement will be asked for
        every, asked = bases.every[: None if self.equalize else 1], (self.equalize, methods, frozenset(refused))
        known, fast = bases.chosen.get(asked), Logits(untimed(executor))
        floats = {node.name for node in model.graph if node.meta.get(FLOAT)}
        distance = None
        if self.rounding == "auto" or (len(every) * len(methods) > 1 and known is None):
            distance = Distance(fast.prepare(model), judged(model, bases.unseen or data, JUDGED))
        margin = MARGIN if bases.unseen else CLEARLY

        def made(base: Base, method: tuple[str, float]) -> _Variant:
            quantizer = self._quantizer(base, target, bases.seen, method, fixed)
            for node in quantizer.model.graph:  # others may stay in float than when the base was made
                node.meta.pop(FLOAT, None)
                if node.name in floats:
                    node.meta[FLOAT] = True
            built = quantizer.build(refused)
            found = 0.0 if distance is None or not built.compute else distance(fast.prepare(built.model))
            handicap = 1.0 if method[0] == "minmax" and base is bases.every[0] else margin
            return _Variant(base, method, quantizer, built, found, handicap * found)

        if known is not None:
            best = made(*known)
        else:
            variants = (made(base, method) for base in every for method in methods)
            best = min(variants, key=lambda variant: variant.rank)
            bases.chosen[asked] = best.base, best.method
        quantizer, built, base, score = best.quantizer, best.built, best.base, best.distance
        if not built.compute:
            return quantizer, built
        second = self._second_order(quantizer, built, bases.seen, distance, fast, score, margin, refused, context)
        quantizer = second or quantizer
        if bases.unseen:
            quantizer = refined(quantizer, observed=base.observer.extended(bases.unseen, quantizer.observed))
        if bases.unseen or second:
            built = quantizer.build(refused)
        built.even = base is not bases.every[0]
        return quantizer, built

    def _second_order(
        self,
        quantizer: Quantizer,
        built: Built,
        known: Sequence[Feeds],
        distance: Distance | None,
        executor: Executor,
        score: float,
        margin: float,
        refused: dict[str, str],
        context: Context,
    ) -> Quantizer | None:
        """The quantizer with weights rounded by second moments, where asked for or `margin` times closer than `score`;
        else None. Where the weights' part of the distance is too small for that, nothing is tried."""
        if self.rounding == "nearest" or not built.compute:
            return None
        if not rounds(quantizer):
            if self.rounding == "second-order":
                context.skip(
                    self.name,
                    "rounding",
                    "second-order needs a step for each output channel and at most 8 "
                    "bits for weights: rounded to the nearest",
                )
            return None
        if self.rounding == "second-order":
            return finer(quantizer, built.compute, known, context)
        assert distance is not None
        if weight_share(quantizer, refused, score, distance, executor) < 1 - 1 / margin:
            return None
        second = finer(quantizer, built.compute, known, context)
        return second if margin * distance(executor.prepare(second.build(refused).model)) < score else None

    def _bases(
        self,
        model: ir.Model,
        target: Target,
        data: Sequence[Feeds],
        executor: Executor,
        context: Context,
        methods: Sequence[tuple[str, float]],
    ) -> Bases:
        """The model, and with `equalize` the model with even channels where that makes a difference.

        What evening out the channels of convolutions needs is observed in the same runs as the ranges; behind
        normalizations `SmoothQuant` looks at products. Where several variants are tried,
        others will probably follow, so that what any may need is observed, and remembered.
        """
        shaped = ir.clone(model)
        infer(shaped)
        smooth = self.equalize and bool(find_chains(shaped, lambda place, why: None))
        several = self.equalize or len(methods) > 1 or self.rounding == "auto"
        counted = elements_counted(methods, len(data), self.keep == "none")
        key = key_of(model, target, data, executor, context)
        known = remembered(key, counted, self.equalize, context)
        if known is not None and (context.ranges is None or not several):
            return known if context.ranges is None else known.in_search(data, counted, context)
        seen, unseen = parted(data) if several else (data, ())
        channels = wanted(shaped) if self.equalize else []

        def base(on: ir.Model, names: Sequence[str] = ()) -> Base:
            observer = Observer(on, executor, context, len(data), counted, names)
            made = Base(on, observer, rounding(target, GridOptions()))
            if several:
                self._quantizer(made, target, seen, methods[0], None)  # observes what any variant may need
            return made

        bases = Bases([base(shaped, channels)], seen, unseen, self.equalize)
        even, changed, first = ir.clone(shaped), 0, bases.every[0].observer
        fitting: Any = seen  # read one by one, like the list that a Context has otherwise
        quiet = context.beside(data=fitting, executor=executor, log=Log())
        per_channel = target.per_channel and opset_of(model) >= target.per_channel_opset
        able = all(name in first.axes for name in channels)  # else no node may be in integers
        if channels and able:
            pass_ = Equalize(per_channel=per_channel)
            if all(first.axes[name] == 1 for name in channels):
                changed = pass_.balance(even, first.observed, PROMISING)
            else:
                changed = pass_.run(even, quiet)
        if smooth and able:
            changed += SmoothQuant(per_channel=per_channel).run(even, quiet)
        if changed:
            bases.every.append(base(even))
        if several and context.ranges is None:
            remember(key, bases, context)
        return bases

    def _quantizer(
        self,
        base: Base,
        target: Target,
        data: Sequence[Feeds],
        method: tuple[str, float],
        fixed: Mapping[str, str] | None = None,
    ) -> Quantizer:
        """Of a base, by one calibration method and its percentile; `fixed`: see `only` of `Quantizer`."""
        return Quantizer(
            base.model,
            target,
            lambda names, axes: base.observer.observe(data, names, axes),
            GridOptions(*method, bias_correction=self.bias_correction),
            only=fixed,
            weights=base.weights,
        )

    def refused(self, graph: ir.Graph, roles: Collection[str]) -> dict[str, str]:
        """Names of the nodes that the options keep in float -> why; `roles`: the operators that the target knows."""
        nodes = {node.name or "": node for node in graph}
        found: dict[str, str] = {}
        for name in self.nodes_to_exclude:
            if name not in nodes:
                raise UsageError(
                    f"option 'nodes_to_exclude' names '{name}', which the model does not have"
                    f"{did_you_mean(name, nodes)}"
                )
            found[name] = "excluded by nodes_to_exclude"
        for entry in self.ignored_scope:
            kind, _, text = entry.partition(":")
            if kind == "type":
                matches = [n for n, node in nodes.items() if node.op_type == text]
            elif kind == "re":
                matches = [n for n in nodes if _expression(text).search(n)]
            else:
                matches = [entry] if entry in nodes else []
            if not matches:
                raise UsageError(
                    f"option 'ignored_scope': '{entry}' matches no node of the model; "
                    "allowed: a node's name, type:Conv, re:expression"
                )
            found.update((n, f"excluded by ignored_scope ({entry})") for n in matches)
        if self.op_types_to_quantize:
            known = {*roles, *(node.op_type for node in nodes.values())}
            for kind in self.op_types_to_quantize:
                if kind not in known:
                    raise UsageError(
                        f"option 'op_types_to_quantize': neither the target nor the model has '{kind}'"
                        f"{did_you_mean(kind, known)}"
                    )
            found.update(
                (n, "not in op_types_to_quantize")
                for n, node in nodes.items()
                if node.op_type not in (*self.op_types_to_quantize, "Relu", "Clip")
            )
        return found


def _expression(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(f"option 'ignored_scope': 're:{text}' is no regular expression: {error}") from None


def _close(mixed: Mixed, opened: Sequence[Opened]) -> None:
    """Put together what stayed in float; what was only a part of it is not spoken of."""
    close_activations(mixed.model, opened)
    present = {node.name or "" for node in mixed.model.graph}
    gone = {part for one in opened for part in one.parts if part not in present}
    mixed.kept = {name: why for name, why in mixed.kept.items() if name not in gone}
    mixed.nodes = [facts for facts in mixed.nodes if facts.name not in gone]


def opset_of(model: ir.Model) -> int:
    """The opset of ONNX's own operators."""
    return model.graph.opset_imports.get("", 1)


__all__ = ["AUTO", "JUDGED", "Quantize"]
