"""Static quantization: 8-bit weights and activations, placed as the target's integer kernels want them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from lwgraph import ir, registry
from lwgraph.calibrate.ranges import Observed, collect
from lwgraph.errors import DataError, UsageError, did_you_mean
from lwgraph.executor import Executor, Feeds
from lwgraph.passes.quantize.distance import Distance
from lwgraph.passes.quantize.equalize import Equalize
from lwgraph.passes.quantize.quantizer import Built, Quantizer, Recipe, name_nodes
from lwgraph.passes.quantize.readback import failures
from lwgraph.passes.quantize.recognise import quantized_already
from lwgraph.passes.quantize.target import Target, has_vnni, load_target
from lwgraph.rewrite import Context, Contract, Pass

JUDGED = 12  # samples on which variants are compared
AUTO = (("minmax", 100.0), ("moving-average", 100.0), ("percentile", 99.99), ("mse", 100.0))


@dataclass(frozen=True)
class Quantize(Pass):
    """Compute in 8-bit integers where the target has kernels for it (static QDQ); needs calibration data."""

    name: ClassVar[str] = "quantize"
    contract: ClassVar[Contract] = Contract.APPROXIMATE

    target: Annotated[str, "ort-cpu, ort-cpu-avx2, openvino, tensorrt, qnn, or the path of a target file"] = "ort-cpu"
    calibration_method: Annotated[
        Literal["auto", "minmax", "moving-average", "percentile", "entropy", "mse"],
        "how ranges are chosen; auto tries all but entropy and keeps what is closest to the float outputs"] = "auto"
    percentile: Annotated[float, "for calibration_method=percentile: share of the values inside, in %"] = 99.99
    activation_type: Annotated[str | None, "integer type of activations; none: the target's"] = None
    weight_type: Annotated[str | None, "integer type of weights; none: the target's"] = None
    per_channel: Annotated[bool | None, "one weight scale per output channel; none: as the target can"] = None
    reduce_range: Annotated[bool | None, "7-bit weights, for processors that saturate; none: detected"] = None
    equalize: Annotated[bool, "also try with channels evened out across layers, and keep what is closer"] = True
    bias_correction: Annotated[bool, "shift biases by the mean error of the rounded weights"] = True
    nodes_to_exclude: Annotated[tuple[str, ...], "names of nodes that stay in float"] = ()
    op_types_to_quantize: Annotated[tuple[str, ...], "only these operators; empty: all that the target has"] = ()
    ignored_scope: Annotated[tuple[str, ...], "nodes that stay in float: name, type:Conv, or re:expression"] = ()

    def __post_init__(self) -> None:
        self.check_option("percentile", 50 < self.percentile <= 100, self.percentile, "above 50, up to 100")

    def run(self, model: ir.Model, context: Context) -> int:
        """Raises DataError without calibration data, UsageError for names that the model does not have."""
        known = quantized_already(model)
        if known is not None:
            context.skip(self.name, model.graph.name or "the model", f"already quantized: {known}; left as it is")
            return 0
        target = self.resolved_target(context)
        opset = model.graph.opset_imports.get("", 1)
        if opset < target.minimum_opset:
            context.skip(self.name, model.graph.name or "the model", f"opset {opset} has no QuantizeLinear; "
                         f"at least {target.minimum_opset} is needed: export or convert the model anew")
            return 0
        wide = [t for t in (target.activation_type, target.weight_type) if t not in ("int8", "uint8")]
        if wide and opset < 21:
            raise UsageError(f"{wide[0]} needs opset 21 and the model has {opset}; allowed here: int8, uint8")
        if not context.data:
            raise DataError("quantize needs calibration data to know the ranges of activations; give --data")
        executor = context.executor or registry.executor("ort", threads=context.threads)
        working = ir.clone(model)
        name_nodes(working.graph)
        refused = self.refused(working.graph)
        built = self.best(working, target, context.data, executor, refused, context)
        for node, reason in built.reasons.items():
            context.skip(self.name, node, reason)
        if not built.compute:
            return 0
        for node, reason in (failures(executor, built.model, built.compute) or {}).items():
            if target.name.startswith("ort-cpu"):
                context.warn(f"'{node}' was quantized but does not run in integers: {reason}")
        ir.replace_contents(model, built.model)
        return len(built.compute) + len(built.others)

    def resolved_target(self, context: Context) -> Target:
        """The target with this pass's options; weights keep to 7 bits on a processor that saturates."""
        target = load_target(self.target)
        reduced = self.reduce_range
        if reduced is None and target.vnni and not has_vnni():
            reduced = True
            context.warn("this processor has no VNNI: weights keep to 7 bits so that products do not saturate "
                         "(quantize{reduce_range=false} overrides)")
        return target.with_types(self.activation_type, self.weight_type, self.per_channel, reduced)

    def best(
        self, model: ir.Model, target: Target, data: Sequence[Feeds], executor: Executor, refused: dict[str, str],
        context: Context,
    ) -> Built:
        """The variant whose outputs are closest to the float model's: each method, with even channels and without."""
        made = self.variants(model, target, data, executor, refused, context)
        if self.equalize and made[0].compute:
            even = ir.clone(model)
            per_channel = target.per_channel and model.graph.opset_imports.get("", 1) >= target.per_channel_opset
            if Equalize(per_channel=per_channel).run(even, context):
                made += self.variants(even, target, data, executor, refused, context)
        if len(made) == 1 or not made[0].compute:
            return made[0]
        distance = Distance(executor.prepare(model), spread(data, JUDGED))
        scores = [distance(executor.prepare(b.model)) for b in made]
        return made[scores.index(min(scores))]

    def variants(
        self, model: ir.Model, target: Target, data: Sequence[Feeds], executor: Executor, refused: dict[str, str],
        context: Context,
    ) -> list[Built]:
        """One quantized model per calibration method asked for, from one run over the data."""
        observed: dict[str, Observed] = {}

        def observe(names: list[str], axes: dict[str, int]) -> dict[str, Observed]:
            if not observed:
                total = len(data)
                observed.update(collect(model, data, executor, names, channels=axes, seed=context.seed,
                                        progress=lambda done: context.progress("calibrating", done, total)))
            return observed

        methods = AUTO if self.calibration_method == "auto" else ((self.calibration_method, self.percentile),)
        recipe = Recipe(bias_correction=self.bias_correction)
        return [Quantizer(model, target, observe, replace(recipe, method=m, percentile=p)).build(refused)
                for m, p in methods]

    def refused(self, graph: ir.Graph) -> dict[str, str]:
        """Names of the nodes that the options keep in float -> why."""
        nodes = {node.name or "": node for node in graph}
        found: dict[str, str] = {}
        for name in self.nodes_to_exclude:
            if name not in nodes:
                raise UsageError(f"option 'nodes_to_exclude' names '{name}', which the model does not have"
                                 f"{did_you_mean(name, nodes)}")
            found[name] = "excluded by nodes_to_exclude"
        for entry in self.ignored_scope:
            kind, _, text = entry.partition(":")
            if kind == "type":
                matches = [n for n, node in nodes.items() if node.op_type == text]
            elif kind == "re":
                matches = [n for n in nodes if re.search(text, n)]
            else:
                matches = [entry] if entry in nodes else []
            if not matches:
                raise UsageError(f"option 'ignored_scope': '{entry}' matches no node of the model; "
                                 "allowed: a node's name, type:Conv, re:expression")
            found.update((n, f"excluded by ignored_scope ({entry})") for n in matches)
        if self.op_types_to_quantize:
            found.update((n, "not in op_types_to_quantize") for n, node in nodes.items()
                         if node.op_type not in (*self.op_types_to_quantize, "Relu", "Clip"))
        return found


def spread(data: Sequence[Feeds], count: int) -> list[Feeds]:
    """At most `count` of the samples, evenly spread."""
    step = max(len(data) / count, 1.0)
    return [data[int(i * step)] for i in range(min(count, len(data)))]


__all__ = ["AUTO", "JUDGED", "Quantize", "spread"]
