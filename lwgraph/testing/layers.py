"""A grid of small dense layers, and their input patches by brute force: the independent truth for forms."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lwgraph import ir
from lwgraph.arrays import Array, Floats, Ints
from lwgraph.calibrate.patches import Patches
from lwgraph.layers.moments import Moments, Pooled
from lwgraph.layers.probe import Probe
from lwgraph.layers.site import Site, find_sites


@dataclass(frozen=True, eq=False)
class SampleLayer:
    """A model of one layer from "x" to "y", and the shape of an input sample batch."""

    name: str
    model: ir.Model
    shape: tuple[int, ...]

    @property
    def site(self) -> Site:
        """The layer."""
        (site,) = find_sites(self.model)
        return site

    def samples(self, seed: int = 0) -> npt.NDArray[np.float32]:
        """Inputs with correlated channels, neighbours that resemble each other, and a mean that is not zero."""
        random = np.random.default_rng(seed)
        x = random.standard_normal(self.shape)
        if len(self.shape) > 2:
            for axis in range(2, len(self.shape)):
                x = x + 0.6 * np.roll(x, 1, axis)
            mix = random.standard_normal((self.shape[1],) * 2) * np.arange(1, self.shape[1] + 1) ** -0.5
            x = np.einsum("dc,nc...->nd...", mix, x)
        else:
            mix = random.standard_normal((self.shape[-1],) * 2) * np.arange(1, self.shape[-1] + 1) ** -0.5
            x = x @ mix.T
        return np.asarray(x + 0.5, np.float32)


def make_layer(
    op_type: str,
    shape: Sequence[int],
    weight: Sequence[int],
    *,
    bias: bool = True,
    seed: int = 0,
    dynamic: bool = True,
    **attributes: Any,
) -> ir.Model:
    """A model of one Conv, ConvTranspose, Gemm or MatMul (with an Add for its bias) and random weights.

    Args:
        op_type: the operator.
        shape: of the input "x".
        weight: the shape of the weight as ONNX wants it.
        bias: whether there is one.
        seed: of the weights.
        dynamic: whether the batch and the image size are left open.
        attributes: of the node.
    """
    random = np.random.default_rng(seed)
    matrix = op_type in ("Gemm", "MatMul")
    transposed = op_type == "MatMul" or (op_type == "Gemm" and not attributes.get("transB"))
    outputs = weight[1] * attributes.get("group", 1) if op_type == "ConvTranspose" else weight[int(transposed)]
    open_axes = {0, *range(2, len(shape))} if not matrix else set(range(len(shape) - 1))
    sizes = [None if dynamic and axis in open_axes else size for axis, size in enumerate(shape)]
    tensor = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", type=tensor, shape=ir.Shape(sizes))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 17}, name=op_type)
    fan_in = np.prod(weight) / outputs
    w = random.standard_normal(tuple(weight)) / np.sqrt(fan_in)
    operands = [x, ir.add_initializer(graph, w.astype(np.float32), "weight")]
    nodes = []
    b = ir.add_initializer(graph, random.standard_normal(outputs).astype(np.float32), "bias") if bias else None
    if b is not None and op_type != "MatMul":
        operands.append(b)
    nodes.append(ir.make_node(op_type, operands, attributes))
    nodes[0].name = "layer"
    if b is not None and op_type == "MatMul":
        nodes.append(ir.make_node("Add", [nodes[0].outputs[0], b]))
    graph.extend(nodes)
    y = nodes[-1].outputs[0]
    y.name, y.type = "y", tensor
    graph.outputs.append(y)
    return ir.Model(graph, ir_version=9)


def layers() -> Iterator[SampleLayer]:
    """Strides, dilations, even and lopsided pads, each auto_pad, groups, no bias, odd sizes, 1-D, 2-D, products."""
    grid: list[tuple[str, str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
        ("plain", "Conv", (3, 20, 13, 15), (24, 20, 3, 3), {"pads": (1, 1, 1, 1)}),
        ("strided", "Conv", (8, 18, 15, 17), (20, 18, 3, 3), {"pads": (0, 1, 1, 0), "strides": (2, 2)}),
        ("dilated", "Conv", (4, 18, 15, 13), (18, 18, 3, 3), {"dilations": (2, 2), "pads": (2, 2, 2, 2)}),
        ("same-upper", "Conv", (9, 18, 14, 13), (20, 18, 3, 3), {"auto_pad": "SAME_UPPER", "strides": (2, 2)}),
        ("same-lower", "Conv", (4, 18, 12, 13), (20, 18, 4, 3), {"auto_pad": "SAME_LOWER"}),
        ("valid", "Conv", (5, 18, 13, 11), (20, 18, 3, 3), {"auto_pad": "VALID", "bias": False}),
        ("oblong", "Conv", (6, 12, 14, 11), (16, 12, 5, 3), {"pads": (2, 1, 2, 1), "strides": (1, 2)}),
        ("row", "Conv", (4, 20, 9, 15), (24, 20, 1, 3), {"pads": (0, 1, 0, 1)}),
        ("grouped", "Conv", (4, 36, 9, 11), (40, 18, 3, 3), {"group": 2, "pads": (1, 1, 1, 1)}),
        ("pointwise", "Conv", (2, 40, 9, 11), (48, 40, 1, 1), {}),
        ("pointwise-strided", "Conv", (6, 40, 9, 11), (24, 40, 1, 1), {"strides": (2, 2), "bias": False}),
        ("one-dimensional", "Conv", (6, 20, 40), (24, 20, 5), {"pads": (2, 2), "strides": (2,)}),
        ("gemm", "Gemm", (300, 48), (40, 48), {"transB": 1}),
        ("gemm-scaled", "Gemm", (300, 48), (48, 64), {"alpha": 0.5, "beta": 2.0}),
        ("matmul", "MatMul", (3, 90, 48), (48, 40), {}),
        ("transposed", "ConvTranspose", (3, 20, 9, 11), (20, 18, 3, 3),
         {"strides": (2, 2), "pads": (1, 1, 1, 1), "output_padding": (1, 1)}),
        ("transposed-grouped", "ConvTranspose", (4, 24, 7, 9), (24, 10, 4, 4),
         {"group": 2, "strides": (2, 2), "pads": (1, 1, 1, 1), "bias": False}),
    ]  # fmt: skip
    for index, (name, op_type, shape, weight, attributes) in enumerate(grid):
        yield SampleLayer(
            name, make_layer(op_type, shape, weight, seed=index, dynamic=index % 2 == 0, **attributes), shape
        )


def patches(site: Site, x: Array) -> Floats:
    """Every input patch of the layer, (groups, positions, D) with D in the order (channel, *tap); zeros in the padding.

    By gathering tap by tap; shares no code with calibration. y = patches @ W.reshape(o, D).T + b for each group.
    """
    x = np.asarray(x, np.float64)
    if not site.kernel:
        return x.reshape(1, -1, x.shape[-1])
    for axis, index in enumerate(_taken(site, x.shape[2:])):
        at = 2 + 2 * axis  # earlier axes became (tap, position)
        padded = np.concatenate([x, np.zeros_like(np.take(x, [0], at))], at)
        x = np.take(padded, index, at)
    rank = len(site.kernel)
    order = [0, *(3 + 2 * a for a in range(rank)), 1, *(2 + 2 * a for a in range(rank))]
    x = x.transpose(order)  # (n, *positions, c, *taps)
    x = x.reshape(int(np.prod(x.shape[: 1 + rank])), site.group, site.fan_in)
    return np.ascontiguousarray(x.swapaxes(0, 1))


def moments_on(site: Site, x: Array) -> Moments:
    """The moments of all input patches of an input, and of what else a form looks at: of every position."""
    found = patches(site, x)
    gram = Pooled(np.asarray(found.swapaxes(1, 2) @ found) / found.shape[1], found.mean(1), found.shape[1])

    def measure(look: Callable[[Site], Site | Probe]) -> Pooled:
        probe = look(site)
        seen, values = Patches.of(probe), probe.values(x) if isinstance(probe, Probe) else x
        rows = seen.rows(values, np.arange(seen.count(values.shape))).astype(np.float64).swapaxes(0, 1)
        return Pooled(np.asarray(rows.swapaxes(1, 2) @ rows) / rows.shape[1], rows.mean(1), rows.shape[1])

    return Moments(site, gram, measure)


def _taken(site: Site, sizes: Sequence[int]) -> Iterator[Ints]:
    """The input index that tap k reads at output p, per axis, (taps, positions); in the padding, the input's size."""
    rank = len(site.kernel)
    for a, size in enumerate(sizes):
        k, s, d = site.kernel[a], site.strides[a], site.dilations[a]
        reach = (k - 1) * d + 1
        begin, end = site.pads[a], site.pads[rank + a]
        if site.kind == "conv_transpose":
            out = (size - 1) * s + site.output_padding[a] + reach - begin - end
            index = np.full((k, out), size)
            for tap, p in itertools.product(range(k), range(out)):
                position = p + begin - tap * d
                if position % s == 0 and 0 <= position // s < size:
                    index[tap, p] = position // s
            yield index
            continue
        if site.auto_pad.startswith("SAME"):
            total = max((-(-size // s) - 1) * s + reach - size, 0)
            begin = total // 2 if site.auto_pad == "SAME_UPPER" else total - total // 2
            end = total - begin
        out = (size + begin + end - reach) // s + 1
        index = np.arange(out)[None] * s + np.arange(k)[:, None] * d - begin
        yield np.where((index < 0) | (index >= size), size, index)


__all__ = ["SampleLayer", "layers", "make_layer", "moments_on", "patches"]
