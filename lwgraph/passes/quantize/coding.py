"""What passes that store weights as codes share: packed codes in the file, decoded once when a model is loaded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Floats
from lwgraph.errors import UsageError, did_you_mean
from lwgraph.layers.coded_weights import LEAST_OPSET, Coded, install, stored_bytes
from lwgraph.layers.site import FLOATS, Site, find_sites
from lwgraph.passes.quantize.graph.quantizer import name_nodes
from lwgraph.passes.quantize.graph.raise_opset import OpsetError, raise_opset
from lwgraph.passes.quantize.grids.levels import Levels
from lwgraph.passes.quantize.placing.already_quantized import quantized_already
from lwgraph.passes.quantize.placing.readback import kept
from lwgraph.passes.quantize.rounding import Rounded, Rounding
from lwgraph.rewrite import Context

_RAISED = 13  # the opset of models that are older than the decoder's operators
# Inputs that hold matrices which no site stands for: a table of rows, and a recurrent layer's weights.
_MATRICES = {"Gather": (0,), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2)}


@dataclass(frozen=True)
class Coding(Rounding):
    """Stores the weights of layers, recurrent layers and embeddings as codes and tables of levels.

    Weights that several layers share, and those that no site stands for, are rounded each to its nearest level.
    """

    # A layer that a plan keeps in floats computes in floats from codes, too, so there is nothing to spare it.
    spares: ClassVar[str] = ""

    widths: ClassVar[range]  # that `bits` may be

    bits: Annotated[int, "bits per weight"] = 4
    layer_bits: Annotated[
        tuple[tuple[str, int], ...], "bits of single layers, by name: [[conv1,3],[conv2,6]]; the others take `bits`"
    ] = ()
    minimum: Annotated[int, "weights of fewer elements stay as they are"] = 512

    def __post_init__(self) -> None:
        allowed = f"{self.widths[0]} to {self.widths[-1]}"
        self.check_option("bits", self.bits in self.widths, self.bits, allowed)
        for layer, bits in self.layer_bits:
            self.check_option("layer_bits", bits in self.widths, bits, f"{allowed} for '{layer}'")
        self.check_option("minimum", self.minimum >= 1, self.minimum, "1 or more")

    def at(self, layer: str) -> Coding:
        """See `Rounding.at`."""
        if not self.layer_bits:
            return self
        return replace(self, bits=dict(self.layer_bits).get(layer, self.bits), layer_bits=())

    @abstractmethod
    def constants(self, rows: int, columns: int) -> int:
        """Levels and scales that a weight of so many rows and columns takes."""

    @abstractmethod
    def fit(self, parts: Sequence[Floats], moments: Sequence[Floats]) -> tuple[list[Levels], list[Floats]]:
        """Levels and rounded rows (o/g, D) of each group of a layer; arguments as for `levels.fit_powers`."""

    def fits(self, columns: int) -> str:
        """Why rows of so many weights cannot be coded; "" when they can."""
        return ""

    def rounded(self, weight: Floats, moments: Sequence[Floats]) -> Rounded:
        """See `Rounding.rounded`."""
        levels, kernels = self.fit(list(weight), moments)
        return Rounded(np.stack(kernels), levels)

    def run(self, model: ir.Model, context: Context) -> int:
        """Rewrite in place; the number of weights that became codes.

        Layers whose inputs cannot be seen (no data, or inside a subgraph) are rounded by the weights alone, with a
        warning. A decoder that the context's runtime does not compute when it loads the model is taken back.
        """
        known = quantized_already(model)
        if known is not None:
            why = f"already quantized: {known}; put {self.name} before the pass that does that"
            context.skip(self.name, model.graph.name or "the model", why)
            return 0
        working = ir.clone(model)  # the opset and the names stay where nothing becomes codes
        if model.graph.opset_imports.get("", 1) < LEAST_OPSET:
            try:
                raise_opset(working, _RAISED)
            except OpsetError as error:
                context.skip(self.name, model.graph.name or "the model", str(error))
                return 0
        name_nodes(working.graph)
        self._check_layers(working)
        count = super().run(working, context)
        if count:
            ir.replace_contents(model, working)
        return count

    def _check_layers(self, model: ir.Model) -> None:
        known = {site.name for site in find_sites(model)} | {node.name or "" for node in model.graph}
        for layer, _ in self.layer_bits:
            if layer not in known:
                near = did_you_mean(layer, known)
                raise UsageError(f"option 'layer_bits' names '{layer}', which the model does not have{near}")

    def objection(self, site: Site) -> str:
        """See `Rounding.objection`."""
        if site.kind == "conv_transpose" and site.group > 1:
            return "a transposed convolution in groups: no decoder lays out its weight"
        return self._no_gain(site.outputs, site.fan_in, site.dtype.itemsize)

    def store(self, model: ir.Model, found: dict[str, Rounded], context: Context) -> int:
        """See `Rounding.store`."""
        made: dict[ir.Value, Coded] = {}
        for site in find_sites(model):
            if site.name in found:
                value = site.node.inputs[1]
                assert value is not None
                made[value] = _of_site(site, found[site.name], self.at(site.name).bits)
        others = {value: own for value, own in self._matrices(model, context) if value not in made}
        made |= {value: own._alone(value) for value, own in others.items()}
        decoders = install(model.graph, model.graph.opset_imports.get("", 1), made)
        self._take_back(model, decoders, context)
        return len(others)

    def _no_gain(self, rows: int, columns: int, itemsize: int) -> str:
        """Why a weight of so many rows and columns is not worth a decoder; "" when it is."""
        elements = rows * columns
        if elements < self.minimum:
            return f"its weight has {elements:,} elements; fewer than minimum={self.minimum:,}"
        if stored_bytes(elements, self.bits, itemsize * self.constants(rows, columns)) >= itemsize * elements:
            return "its tables and its decoder would take up what its codes save"
        return self.fits(columns)

    def _matrices(self, model: ir.Model, context: Context) -> Iterator[tuple[ir.Value, Coding]]:
        """Constant float weights of recurrent layers and embeddings, and those that several products share.

        Each comes with the pass as it treats the first layer that reads it.
        """
        shared = {id(site.node.inputs[1]) for site in find_sites(model) if site.shared}
        seen = set[ir.Value]()
        for node in model.graph:
            places = _MATRICES.get(ir.operator(node), (1,) if ir.operator(node) in ir.LINEAR else ())
            for place in places:
                value = node.inputs[place] if place < len(node.inputs) else None
                if value is None or value in seen or (places == (1,) and id(value) not in shared):
                    continue
                shape = ir.constant_shape(value)
                if shape is None or len(shape) < 2 or ir.constant_dtype(value) not in FLOATS:
                    continue
                seen.add(value)
                own = self.at(node.name or "")
                if reason := own._refusal(value, node, shape):
                    context.skip(self.name, node.name or "", reason)
                else:
                    yield value, own

    def _refusal(self, value: ir.Value, node: ir.Node, shape: tuple[int, ...]) -> str:
        dtype = ir.constant_dtype(value)
        assert dtype is not None
        if node.name in self.ignored_scope:
            return "in ignored_scope"
        if not value.is_initializer() or value.is_graph_input() or value.is_graph_output():
            return f"'{value.name}' is not an initializer that is read only; constants-to-initializers makes it one"
        if not ir.is_finite(value):
            return f"'{value.name}' holds infinity or NaN"
        return self._no_gain(int(np.prod(shape[:-1])), shape[-1], int(dtype.numpy().itemsize))

    def _alone(self, value: ir.Value) -> Coded:
        """A matrix rounded each weight by itself: rows along all axes but the last."""
        array = ir.constant(value)
        assert array is not None
        rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
        levels, kernels = self.fit([rows], [np.ones(rows.shape[1])])
        coded = _coded(Rounded(np.stack(kernels), levels), rows.shape, array.dtype, 1.0, self.bits)
        return coded.shaped(array.shape)

    def _take_back(self, model: ir.Model, decoders: dict[ir.Value, Coded], context: Context) -> None:
        """Store as they were the weights that the runtime would decode at every run."""
        if context.executor is None or not decoders:
            return
        computed = kept(context.executor, model, {str(value.name) for value in decoders})
        for value, coded in decoders.items():
            if value.name in computed:
                name = str(value.name)
                plain = ir.add_initializer(model.graph, coded.decode(), f"{name}_plain")
                maker = value.producer()
                ir.replace_uses(value, plain)
                if maker is not None:
                    ir.sweep([maker])
                context.skip(
                    self.name, name, "this runtime would decode it at every run; its rounded values are in the file"
                )


def _of_site(site: Site, rounded: Rounded, bits: int) -> Coded:
    """The codes of a layer's weight, with the axes as the layer has them."""
    alpha = float(ir.attribute(site.node, "alpha", 1.0)) if site.kind == "gemm" else 1.0
    shape = site.shape
    order: tuple[int, ...] = ()
    if site.kind == "conv_transpose":
        order = (1, 0, *range(2, len(shape)))
    elif site.kind == "matmul" or (site.kind == "gemm" and not ir.attribute(site.node, "transB", 0)):
        order = (1, 0)
    return _coded(rounded, shape, site.dtype, alpha, bits, order)


def _coded(
    rounded: Rounded,
    shape: tuple[int, ...],
    dtype: np.dtype[np.generic],
    alpha: float,
    bits: int,
    order: tuple[int, ...] = (),
) -> Coded:
    codes = np.concatenate([levels.encode(part) for levels, part in zip(rounded.levels, rounded.kernel, strict=True)])
    common = len(rounded.levels[0].tables) == 1 and rounded.levels[0].common
    tables = rounded.levels[0].tables if common else np.concatenate([each.tables for each in rounded.levels])
    scale = np.concatenate([each.scale for each in rounded.levels]) / alpha
    if common:
        return Coded(codes.reshape(shape), tables.astype(dtype), scale.astype(dtype), bits, order)
    return Coded(codes.reshape(shape), (tables / alpha).astype(dtype), None, bits, order)


__all__ = ["Coding"]
