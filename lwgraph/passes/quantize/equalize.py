"""equalize: scales channels across layers so that every channel of a tensor uses the whole grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from lwgraph import ir, registry
from lwgraph.arrays import Array, Ints, slabs
from lwgraph.calibrate.ranges import Observed, collect
from lwgraph.passes.quantize.graph.channels import Channels, ScaledLayer, oi_weight
from lwgraph.passes.quantize.graph.shapes import infer
from lwgraph.passes.quantize.placing.already_quantized import quantized_already
from lwgraph.rewrite import Context, Contract, Pass

_LEAST = 0.05  # channels quieter than this share of the loudest are treated as this loud: other data may wake them
_SHARES = (0.0, 0.35, 0.7, 1.0)  # exponents tried
_HEADROOM = 2.0  # times further than on the data a quiet channel may go before it leaves the tensor's range


@dataclass(frozen=True)
class Equalize(Pass):
    """Scale channels up in one layer and down in the next, so that quantization loses less; outputs stay the same."""

    name: ClassVar[str] = "equalize"
    contract: ClassVar[Contract] = Contract.APPROXIMATE

    weight_bits: Annotated[int, "the weights' width that the balance is struck for"] = 8
    per_channel: Annotated[bool, "whether weights will have one scale per output channel"] = True

    def __post_init__(self) -> None:
        self.check_option("weight_bits", 2 <= self.weight_bits <= 16, self.weight_bits, "2 to 16")

    def run(self, model: ir.Model, context: Context) -> int:
        """Equalize by the ranges of activations with data, and by those of weights without."""
        known = quantized_already(model)
        if known is not None:
            context.skip(self.name, model.graph.name or "the model", f"already quantized: {known}")
            return 0
        working = ir.clone(model)  # what is inferred is not recorded where nothing is scaled
        count = self._run(working, context)
        if count:
            ir.replace_contents(model, working)
        return count

    def _run(self, model: ir.Model, context: Context) -> int:
        infer(model)
        channels = Channels.of(model.graph)
        if not channels.layers:
            return 0
        names = [v.name or "" for v in observed_tensors(channels)]
        if context.data and names:
            executor = context.executor or registry.executor("ort", threads=context.threads)
            return self.balance(
                model,
                collect(
                    model, context.data, executor, names, channels=dict.fromkeys(names, 1), samples=0, seed=context.seed
                ),
            )
        return apply_scales(channels, weight_scales(channels))

    def balance(self, model: ir.Model, seen: Mapping[str, Observed], least: float = 0.0) -> int:
        """Equalize by the observed ranges of the tensors of `wanted`; returns the number of layers changed.

        Nothing is changed where the layers' errors, summed, are predicted to fall by less than the factor `least`.
        """
        infer(model)
        channels = Channels.of(model.graph)
        scales = activation_scales(channels, seen, self.weight_bits, self.per_channel)
        if least > 0 and self._errors(channels, np.ones_like(scales), seen) < least * self._errors(
            channels, scales, seen
        ):
            return 0
        return apply_scales(channels, scales)

    def _errors(self, channels: Channels, scales: Array, seen: Mapping[str, Observed]) -> float:
        return sum(
            _predicted(layer, scales[channels.roots(layer.inputs)], seen, self.weight_bits, self.per_channel)
            for layer in channels.layers
        )


def wanted(model: ir.Model) -> list[str]:
    """Names of the tensors whose channels, axis 1, must be observed for `Equalize.balance`; none: nothing can be evened
    out by the ranges of activations. `model` has its shapes inferred."""
    channels = Channels.of(model.graph)
    return [v.name or "" for v in observed_tensors(channels)] if channels.layers else []


def observed_tensors(channels: Channels) -> list[ir.Value]:
    """The tensors with free channels whose ranges matter: the inputs of layers, and what is clipped."""
    found = [
        x
        for layer in channels.layers
        if (x := layer.node.inputs[0]) is not None and not channels.frozen(layer.inputs).all()
    ]
    found += [value for value, _, _ in channels.clips if not channels.frozen(channels.ids[value]).all()]
    return list(dict.fromkeys(found))


def activation_scales(channels: Channels, seen: Mapping[str, Observed], bits: int, per_channel: bool) -> Array:
    """(variables,) what each channel is divided by: between its share of the tensor's range and 1.

    A tensor's step is its loudest channel's range over 255, and the noise that a channel c adds to the next layer is
    step^2 / 12 * d_c^2 * |w_c|^2, with w_c the weights that read it: it falls with d_c^2. The tensor's range does not
    grow as long as d_c is at least the channel's share of it. On the other side the next layer's weights become
    less even, w_c d_c, and their own rounding weighs more. The exponent of the share is chosen per coupled group so
    that the predicted sum of both is least. Shares are taken _HEADROOM times as large and at least _LEAST, so that
    clips and ranges stay right for data that go further in quiet channels than those that were seen.
    """
    share = np.zeros(channels.size)
    for layer in channels.layers:
        reach = _reach(layer, seen)
        if reach is not None and reach.max() > 0:
            np.maximum.at(share, channels.roots(layer.inputs), np.maximum(reach / reach.max(), _LEAST))
    for value, low, high in channels.clips:
        found = seen.get(value.name or "")
        if found is not None and found.channel_low is not None and found.channel_high is not None:
            used = np.maximum(found.channel_high / high, found.channel_low / low if low < 0 else 0.0)
            np.maximum.at(share, channels.roots(channels.ids[value]), np.clip(used, 0.0, 1.0))
    share[share == 0] = 1.0
    share = np.minimum(_HEADROOM * share, 1.0)
    held = channels.frozen(np.arange(channels.size))
    share[held] = 1.0
    for value, ids in channels.ids.items():
        if (found := seen.get(value.name or "")) is not None and found.unfit:
            share[channels.roots(ids)] = 1.0
    groups = _groups(channels)
    loss = np.zeros((len(_SHARES), int(groups.max(initial=-1)) + 1))
    for k, exponent in enumerate(_SHARES):
        for layer in channels.layers:
            roots = channels.roots(layer.inputs)
            loss[k, groups[roots[0]]] += _predicted(layer, share[roots] ** exponent, seen, bits, per_channel)
            if not per_channel:
                outputs = share[channels.roots(layer.outputs)] ** exponent
                loss[k, groups[channels.roots(layer.outputs)[0]]] += _producer_loss(layer, outputs, seen, bits)
    best = np.array(_SHARES)[np.argmin(loss, axis=0)]
    scales: Array = share ** best[groups]
    return scales


def weight_scales(channels: Channels) -> Array:
    """(variables,) by the weights alone: sqrt(what produces the channel / what reads it), Nagel et al. 2019 (DFQ)."""
    out = np.zeros(channels.size)
    into = np.zeros(channels.size)
    for layer in channels.layers:
        weight = ir.constant(layer.node.inputs[1])
        assert weight is not None
        grouped = np.abs(oi_weight(layer.node, weight))
        np.maximum.at(out, channels.roots(layer.outputs), grouped.max(axis=(2, 3)).reshape(-1))
        np.maximum.at(into, channels.roots(layer.inputs), grouped.max(axis=(1, 3)).reshape(-1))
    free = (out > 0) & (into > 0) & ~channels.frozen(np.arange(channels.size))
    for value, _, _ in channels.clips:  # without data nobody knows who would reach them
        free[channels.roots(channels.ids[value])] = False
    scales = np.ones(channels.size)
    scales[free] = np.clip(np.sqrt(out[free] / into[free]), 1e-3, 1e3)
    return scales


def apply_scales(channels: Channels, scales: Array) -> int:
    """Divide every channel by its scale where it is made, multiply it where it is read; how many layers changed."""
    changed: set[ir.Node] = set()
    for layer in channels.layers:
        into, out = scales[channels.roots(layer.inputs)], scales[channels.roots(layer.outputs)]
        if np.all(into == 1) and np.all(out == 1):
            continue
        weight = ir.constant(layer.node.inputs[1])
        assert weight is not None
        scaled = np.array(weight, np.promote_types(weight.dtype, np.float32), order="C")  # no wider: it may be large
        grouped = oi_weight(layer.node, scaled)  # a view
        grouped *= into.reshape(grouped.shape[0], 1, -1, 1)
        grouped /= out.reshape(grouped.shape[0], -1, 1, 1)
        _set(layer.node, 1, scaled, weight.dtype)
        bias = ir.constant(layer.node.inputs[2]) if len(layer.node.inputs) > 2 else None
        if bias is not None:
            _set(layer.node, 2, bias.astype(np.float64) / out.reshape((*bias.shape[:-1], -1)), bias.dtype)
        changed.add(layer.node)
    for (node, index), ids in channels.constants.items():
        out = scales[channels.roots(ids)]
        constant, output = ir.constant(node.inputs[index]), node.outputs[0]
        assert constant is not None and output.shape is not None
        if np.all(out == 1):
            continue
        shape = [1] * len(output.shape)
        shape[1] = len(out)
        _set(node, index, constant.astype(np.float64) / out.reshape(shape), constant.dtype)
    return len(changed)


def _set(node: ir.Node, index: int, array: Array, dtype: Any) -> None:
    """Give one input of one node other contents; whoever shared the constant keeps the old ones."""
    value = node.inputs[index]
    assert value is not None and node.graph is not None
    new = ir.add_initializer(ir.graph_of(node.graph), array.astype(dtype, copy=False), value.name or "constant")
    node.replace_input_with(index, new)
    if ir.is_removable_initializer(value):
        ir.graph_of(node.graph).initializers.pop(value.name or "")


def _reach(layer: ScaledLayer, seen: Mapping[str, Observed]) -> Array | None:
    x = layer.node.inputs[0]
    found = seen.get(x.name or "") if x is not None else None
    if found is None or found.channel_low is None or found.channel_high is None:
        return None
    reach: Array = np.maximum(np.abs(found.channel_low), np.abs(found.channel_high))
    return reach


def _predicted(layer: ScaledLayer, scale: Array, seen: Mapping[str, Observed], bits: int, per_channel: bool) -> float:
    """Squared output error of a layer whose input channels are divided by `scale`, relative to its signal."""
    reach = _reach(layer, seen)
    if reach is None or not reach.any():
        return 0.0
    energy, groups = layer.energy, len(layer.energy)
    x = layer.node.inputs[0]
    assert x is not None
    found = seen[x.name or ""]
    assert found.channel_square is not None and found.channel_mean is not None
    power = np.maximum(found.channel_square - found.channel_mean**2, 0).reshape(groups, -1)  # the mean goes to the bias
    into = scale.reshape(groups, -1)
    step = float((reach / scale).max()) / 255
    activation = step**2 / 12 * float((into**2 * energy).sum())
    limit = 2 ** (bits - 1) - 1
    whole = layer.largest
    largest = [(whole[:, part] * into[:, None]).max(axis=2) for part in slabs(whole.shape, 1)]
    steps = np.concatenate(largest, axis=1) / limit  # (groups, outputs)
    if not per_channel:
        steps = np.full_like(steps, steps.max())
    inputs = (power / into**2).sum(axis=1) * layer.taps
    rounding = float((steps**2 / 12 * inputs[:, None]).sum())
    signal = float((power * energy).sum())
    return float((activation + rounding) / max(signal, 1e-30))


def _producer_loss(layer: ScaledLayer, outputs: Array, seen: Mapping[str, Observed], bits: int) -> float:
    """The relative rounding error of the layer's weight, with one scale per tensor, after its outputs are scaled."""
    x = layer.node.inputs[0]
    found = seen.get(x.name or "") if x is not None else None
    if found is None or found.channel_square is None or found.channel_mean is None:
        return 0.0
    energy, groups = layer.energy, len(layer.energy)
    power = np.maximum(found.channel_square - found.channel_mean**2, 0).reshape(groups, -1)
    scale = outputs.reshape(groups, -1)
    step = float((layer.largest.max(axis=2) / scale).max()) / (2 ** (bits - 1) - 1)
    rounding = step**2 / 12 * float((scale**2 * (power.sum(axis=1) * layer.taps)[:, None]).sum())
    return float(rounding / max(float((power * energy).sum()), 1e-30))


def _groups(channels: Channels) -> Ints:
    """(variables,) the number of the coupled group: channels that meet in some layer's input."""
    parent = np.arange(channels.size)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for ids in [x for layer in channels.layers for x in (layer.inputs, layer.outputs)]:
        roots = channels.roots(ids)
        for other in roots[1:]:
            parent[root(int(other))] = root(int(roots[0]))
    found = np.array([root(int(channels.roots(np.array([i]))[0])) for i in range(channels.size)], np.int64)
    return np.unique(found, return_inverse=True)[1].astype(np.int64)


__all__ = ["Equalize", "activation_scales", "apply_scales", "wanted", "weight_scales"]
