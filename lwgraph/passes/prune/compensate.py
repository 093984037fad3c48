"""Refits, in closed form, the layers that read removed channels, so that the kept weights compensate for them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Floats, Ints, Weights
from lwgraph.calibrate.sketch import FactoredGram
from lwgraph.layers.emit import OPTIONAL_BIAS
from lwgraph.layers.moments import Moments, Pooled, pooled
from lwgraph.layers.site import Site
from lwgraph.passes.prune.readers import GroupReader, PruneView
from lwgraph.views.coupling import Group


def own_biases(scene_model: ir.Model, sites: list[Site]) -> list[tuple[ir.Node, ir.Value]]:
    """Give each Conv, ConvTranspose and Gemm a bias of its own, so that it can take up a mean; the new ones, zero.

    A MatMul has none: its Add may be shared with nobody either, but none is put behind it.
    """
    made = []
    for site in sites:
        node = site.node
        if len(site.nodes) > 1:
            add = site.nodes[1]
            value = next(v for v in add.inputs if v is not node.outputs[0])
            if value is not None and value.is_initializer():
                ir.copy_on_write(value, add)
        elif site.kind != "matmul":
            bias = node.inputs[2] if len(node.inputs) > 2 else None
            if site.kind == "gemm" and ir.attribute(node, "beta", 1.0) == 0:
                node.attributes.pop("beta")
                bias = None  # it counts for nothing, and no mean divided by beta could be put into it
            if bias is not None:
                if bias.is_initializer():
                    ir.copy_on_write(bias, node)
                continue
            if len(node.inputs) < 3:
                node.resize_inputs(3)
            zeros = ir.add_initializer(scene_model.graph, np.zeros(site.outputs, site.dtype), f"{site.name}_bias")
            node.replace_input_with(2, zeros)
            made.append((node, zeros))
    return made


def drop_zero_biases(model: ir.Model, made: list[tuple[ir.Node, ir.Value]]) -> None:
    """Take back the biases of `own_biases` that nothing was put into."""
    for node, _ in made:
        current = node.inputs[2] if len(node.inputs) > 2 else None
        array = ir.constant(current)
        if current is not None and array is not None and not array.any():
            if node.op_type == "Gemm" and ir.opset(node) < OPTIONAL_BIAS:
                continue
            node.resize_inputs(2)
            model.graph.initializers.pop(current.name or "")


def compensate(view: PruneView, removed: Mapping[Group, Ints]) -> None:
    """Refit every layer that reads removed channels on those that stay, in place, before they are cut.

    With moments R of a layer's patches and K the entries that stay, the weight W R_:K (R_KK)^-1 loses least of the
    output (He, Zhang, Sun 2017, "Channel Pruning", eq. 4, solved on moments), and the bias keeps the mean output.
    Weights of removed entries are left as they are. O(D^3) per layer with patches of length D.
    """
    gone: dict[int, tuple[GroupReader, list[list[Ints]]]] = {}
    for group, channels in removed.items():
        if not len(channels):
            continue
        for reader in view.readers(group):
            _, columns = gone.setdefault(id(reader.site), (reader, [[] for _ in reader.columns]))
            for place, each in zip(columns, reader.columns, strict=True):
                place.append(each[channels].reshape(-1))
    for reader, columns in gone.values():
        _refit(view, reader, [np.unique(np.concatenate(each)) for each in columns])


def _refit(view: PruneView, reader: GroupReader, gone: list[Ints]) -> None:
    moments, site = view.moments(reader), reader.site
    has_bias = site.bias is not None
    if not has_bias and view.context.statistics is not None:
        moments = uncentred(view, reader)  # no bias can take up the mean
    exact = moments.exact  # else the weight may be large, and copies in float64 have no room
    kernel = np.array((site.weight if exact else site.stored).reshape(site.group, -1, site.fan_in), order="C")
    lost = np.zeros(kernel.shape[:2])
    for index, (loss, columns) in enumerate(zip(moments.losses, gone, strict=True)):
        kept = np.setdiff1d(np.arange(site.fan_in), columns)
        kernel[index][:, kept] = loss.onto(kept)
        lost[index] = kernel[index][:, columns] @ moments.mean[index][columns]
    shift = moments.shift(kernel) + lost.reshape(-1) if has_bias else np.zeros(site.outputs)
    set_weight(site, kernel.reshape(site.shape))
    if has_bias and shift.any():
        for each in reader.sites:
            add_to_bias(each, shift)


def uncentred(view: PruneView, reader: GroupReader) -> Moments:
    """The moments of what a group's readers see, about zero instead of their mean: where no bias can take that up."""
    statistics = view.context.statistics
    assert statistics is not None
    gram = pooled([statistics.gram(site) for site in reader.sites])
    if isinstance(gram, FactoredGram):
        return Moments(reader.site, gram.uncentred)
    return Moments(reader.site, Pooled(gram.matrix, np.zeros_like(gram.mean), gram.count))


def set_weight(site: Site, kernel: Weights) -> None:
    """Give a layer (and those that share its weight) another canonical weight (o, c/g, *k)."""
    value, raw = site.node.inputs[1], kernel
    assert value is not None
    if site.kind == "conv_transpose":
        outputs, inputs = site.outputs // site.group, site.inputs // site.group
        raw = kernel.reshape(site.group, outputs, inputs, *site.kernel).swapaxes(1, 2)
        raw = raw.reshape(site.group * inputs, outputs, *site.kernel)
    elif site.kind == "gemm":
        raw = kernel / ir.attribute(site.node, "alpha", 1.0)
        raw = raw if ir.attribute(site.node, "transB", 0) else raw.T
    elif site.kind == "matmul":
        raw = kernel.T
    ir.set_constant(value, np.ascontiguousarray(raw, site.dtype))


def bias_value(site: Site) -> ir.Value | None:
    """The constant that is the layer's bias, None when it has none."""
    if len(site.nodes) > 1:
        return next(v for v in site.nodes[1].inputs if v is not site.node.outputs[0])
    return site.node.inputs[2] if len(site.node.inputs) > 2 and site.kind != "matmul" else None


def bias_of(site: Site) -> Floats | None:
    """The layer's bias (o,), None when it has none that can be set."""
    value = bias_value(site)
    return site.bias if value is not None and value.is_initializer() else None


def set_bias(site: Site, bias: Floats) -> None:
    """Give a layer, which must have one of its own (`own_biases`), another bias (o,)."""
    value = bias_value(site)
    array = ir.constant(value)
    assert value is not None and array is not None
    site.node.attributes.pop("beta", None)  # of a Gemm; it may be 0
    ir.set_constant(value, bias.astype(array.dtype).reshape(*array.shape[:-1], site.outputs))


def add_to_bias(site: Site, shift: Floats) -> None:
    """Add (o,) to a layer's own bias (`own_biases`) as it is by now: several groups may give to one.

    `site.bias` is what it was.
    """
    array = ir.constant(bias_value(site))
    assert array is not None
    beta = ir.attribute(site.node, "beta", 1.0) if site.kind == "gemm" else 1.0
    set_bias(site, np.asarray(array, np.float64).reshape(-1) * beta + shift)
