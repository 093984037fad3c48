"""quantize-weights: matrices in 8 or 4 bits, activations in float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from lwgraph import ir
from lwgraph.calibrate import Statistics
from lwgraph.errors import UsageError
from lwgraph.layers.apply import moments_of, unfit
from lwgraph.layers.site import Site, find_sites
from lwgraph.passes.quantize.graph.embeddings import quantize_embeddings
from lwgraph.passes.quantize.graph.quantizer import name_nodes
from lwgraph.passes.quantize.graph.raise_opset import OpsetError, raise_opset
from lwgraph.passes.quantize.grids.block_weights import Stored, Writer, encode, stored_bytes
from lwgraph.passes.quantize.placing.already_quantized import quantized_already
from lwgraph.passes.quantize.placing.readback import unpacked
from lwgraph.rewrite import Context, Contract, Pass
from lwgraph.rewrite.base import Log

_BLOCKED_OPSET = 21  # blocks and int4 came with it
_CHANNEL_OPSET = 13
_LARGEST = 3e10  # multiply-accumulates of second-order rounding of one layer; larger layers are rounded to nearest
_UNPACKED = {
    "Conv": "ONNX Runtime unpacks a convolution's weights at every run, which is slower than float (benchmarks/"
    "QUANTIZE.md); 'quantize' computes convolutions in integers",
    "LSTM": "ONNX Runtime unpacks a recurrent layer's weights at every run, which is slower than float (benchmarks/"
    "QUANTIZE.md)",
}
_UNPACKED |= {"ConvTranspose": _UNPACKED["Conv"], "GRU": _UNPACKED["LSTM"], "RNN": _UNPACKED["LSTM"]}


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Store the weights of MatMul, Gemm and embeddings in 8 or 4 bits; activations stay float."""

    name: ClassVar[str] = "quantize-weights"
    contract: ClassVar[Contract] = Contract.APPROXIMATE
    spares: ClassVar[str] = "nodes_to_exclude"

    bits: Annotated[int, "8 or 4 bits per weight; embeddings take 8"] = 8
    block_size: Annotated[
        int | None,
        "inputs that share a scale, a power of two from 16 to 256; 0: one scale per "
        "output; none: 0 for 8 bits, 32 for 4",
    ] = None
    second_order: Annotated[
        bool | None, "with data, round by what the inputs make of it (GPTQ) instead of to nearest; none: for 4 bits"
    ] = None
    minimum: Annotated[int, "weights of fewer elements stay float"] = 4096
    op_types_to_quantize: Annotated[tuple[str, ...], "operators to quantize: MatMul, Gemm, Gather"] = (
        "MatMul",
        "Gemm",
        "Gather",
    )
    nodes_to_exclude: Annotated[tuple[str, ...], "names of nodes that stay in float"] = ()

    def __post_init__(self) -> None:
        self.check_option("bits", self.bits in (4, 8), self.bits, "4 or 8")
        self.check_option(
            "block_size",
            self.block_size in (None, 0, 16, 32, 64, 128, 256),
            self.block_size,
            "0, 16, 32, 64, 128 or 256",
        )
        self.check_option("minimum", self.minimum >= 1, self.minimum, "1 or more")
        for op in self.op_types_to_quantize:
            self.check_option("op_types_to_quantize", op in ("MatMul", "Gemm", "Gather"), op, "MatMul, Gemm, Gather")

    @property
    def block(self) -> int:
        """Inputs that share a scale; 0: all."""
        return (32 if self.bits == 4 else 0) if self.block_size is None else self.block_size

    def run(self, model: ir.Model, context: Context) -> int:
        """The number of weights stored in few bits. Raises UsageError for a node name that the model does not have."""
        known = quantized_already(model)
        if known is not None:
            context.skip(self.name, model.graph.name or "the model", f"already quantized: {known}; left as it is")
            return 0
        names = {node.name for node in model.graph}
        for excluded in self.nodes_to_exclude:
            if excluded not in names:
                raise UsageError(f"option 'nodes_to_exclude' names '{excluded}', which the model does not have")
        for scope in ir.scopes(model):
            for node in scope:
                if ir.operator(node) in _UNPACKED and self._large(node.inputs[1]):
                    context.skip(self.name, node.name or "", _UNPACKED[node.op_type])
        sites, tables = self._sites(model, context), self._tables(model, context)
        if not sites and not tables:
            return 0
        try:
            raise_opset(model, self._opset)
        except OpsetError as error:
            context.skip(self.name, model.graph.name or "the model", str(error))
            return 0
        name_nodes(model.graph)
        done = self._products(model, context)
        if tables and self.bits == 4:
            for node in self._tables(model, Context()):
                context.skip(self.name, node.name or "", "no runtime gathers int4: its table takes 8 bits")
        return done + self.run_tables(model, Context())

    def run_tables(self, model: ir.Model, context: Context) -> int:
        """Put the tables of embeddings alone into 8 bits, at any opset; the number of them."""
        return quantize_embeddings(model.graph, self._tables(model, context))

    @property
    def _opset(self) -> int:
        return _BLOCKED_OPSET if self.bits == 4 or self.block else _CHANNEL_OPSET

    def _large(self, value: ir.Value | None) -> bool:
        shape = ir.constant_shape(value)
        return shape is not None and int(np.prod(shape)) >= self.minimum

    def _products(self, model: ir.Model, context: Context) -> int:
        sites = self._sites(model, Context())  # anew: the model may have been converted
        if not sites:
            return 0
        fitting = Context(statistics=self._statistics(model, context, sites), log=Log(warnings=context.warnings))
        writer, done, families = Writer(model.graph), 0, _families(sites)
        for family in families:
            stored = self._encoded(family, fitting)
            for site in family:
                _install(site, stored, writer)
            done += 1
            context.progress(self.name, done, len(families))
        self._read_back(model, sites, context)
        return done

    def _sites(self, model: ir.Model, context: Context) -> list[Site]:
        """The layers to quantize; the others are told to the context."""
        found = []
        for site in find_sites(model, refused=lambda place, why: context.skip(self.name, place, why)):
            if site.kind not in ("gemm", "matmul") or site.node.op_type not in self.op_types_to_quantize:
                continue
            reason = self._objection(site)
            if reason:
                context.skip(self.name, site.name, reason)
            else:
                found.append(site)
        return found

    def _objection(self, site: Site) -> str:
        weight = site.node.inputs[1]
        assert weight is not None
        elements = int(np.prod(site.shape))
        if site.node.name in self.nodes_to_exclude:
            return "excluded by nodes_to_exclude"
        if site.graph is not ir.root(site.graph):
            return "the layer is in a subgraph or a function"
        if site.dtype != np.float32:
            return f"its weight is {site.dtype}; only float32 is quantized"
        if elements < self.minimum:
            return f"its weight has {elements:,} elements; smaller than minimum={self.minimum:,}"
        if stored_bytes((site.shape[1], site.shape[0]), self.bits, self.block) >= 4 * elements:
            return "its scales would take up what its integers save"
        readers = {use.node for use in weight.uses()}
        others = [n for n in readers if ir.operator(n) not in ir.PRODUCTS or n.inputs[1] is not weight]
        if others or weight.is_graph_output():
            return f"its weight is also read by '{others[0].name if others else 'the graph outputs'}', which keeps it"
        return ""

    def _tables(self, model: ir.Model, context: Context) -> list[ir.Node]:
        """The Gather nodes whose tables to quantize."""
        found = []
        for node in model.graph:
            if (
                ir.operator(node) != "Gather"
                or "Gather" not in self.op_types_to_quantize
                or not self._large(node.inputs[0])
            ):
                continue
            table, shape = node.inputs[0], ir.constant_shape(node.inputs[0])
            assert table is not None and shape is not None
            others = [use.node for use in table.uses() if use.node is not node]
            reason = ""
            if node.name in self.nodes_to_exclude:
                reason = "excluded by nodes_to_exclude"
            elif ir.constant_dtype(table) != ir.DataType.FLOAT or len(shape) != 2 or ir.attribute(node, "axis", 0):
                reason = "only a float32 table whose rows are gathered is quantized"
            elif not ir.is_finite(table):
                reason = "its table holds infinity or NaN"
            elif others or table.is_graph_output():
                reason = "its table is also read elsewhere, which keeps it"
            if not reason:
                found.append(node)
            else:
                context.skip(self.name, node.name or "", reason)
        return found

    def _statistics(self, model: ir.Model, context: Context, sites: Sequence[Site]) -> Statistics | None:
        """Moments of this model's own layer inputs: the context's may be of a model before other passes."""
        wanted = self.bits == 4 if self.second_order is None else self.second_order
        if not context.data or not wanted:
            return None
        statistics = context.statistics_of(model)
        statistics.prefetch([site for site in sites if _second_order(site, statistics)])
        return statistics

    def _encoded(self, family: Sequence[Site], context: Context) -> Stored:
        site = family[0]
        moments = None
        if context.statistics is not None and _second_order(site, context.statistics):
            if why := unfit(family, context):
                context.warn(f"{self.name} rounds '{site.name}' to nearest: {why}")
                return encode(site.weight, self.bits, self.block, None)
            moments = moments_of(family, context).blocks[0].moments
        return encode(site.weight, self.bits, self.block, moments)

    def _read_back(self, model: ir.Model, sites: Sequence[Site], context: Context) -> None:
        """Let the runtime multiply with the integers; warn of layers whose weights it unpacks at every run.

        ONNX Runtime fuses a product, its bias and an activation into one float kernel before it looks for integers, and
        then unpacks the weights. It does not look through a Sub: where it did that, the negated bias is subtracted.
        """
        if context.executor is None or not (lost := unpacked(context.executor, model)):
            return
        stored = {site.name: _integers(site) for site in sites}
        for site in [site for site in sites if stored[site.name] in lost]:
            _subtract_bias(site)
        lost = unpacked(context.executor, model) or set()
        for site in sites:
            if stored[site.name] in lost:
                context.warn(f"'{site.name}' gets smaller, not faster: each run unpacks its {self.bits}-bit weights")


def _families(sites: Sequence[Site]) -> list[list[Site]]:
    """Sites by weight: those of one initializer, read the same way round, go on sharing it."""
    found: dict[tuple[int, bool, float], list[Site]] = {}
    for site in sites:
        turned = bool(site.kind == "gemm" and ir.attribute(site.node, "transB", 0))
        alpha = ir.attribute(site.node, "alpha", 1.0) if site.kind == "gemm" else 1.0
        found.setdefault((id(site.node.inputs[1]), turned, alpha), []).append(site)
    return list(found.values())


def _install(site: Site, stored: Stored, writer: Writer) -> None:
    """Let the layer read the stored weight: (D, o), so a Gemm reads it as it is and its alpha is in it."""
    node, weight = site.node, site.node.inputs[1]
    assert weight is not None
    node.replace_input_with(1, writer.dequantized(stored, weight.name or "weight", node))
    for name in ("transB", "alpha"):
        node.attributes.pop(name, None)
    ir.sweep_values([weight])


def _second_order(site: Site, statistics: Statistics) -> bool:
    """Whether a layer's exact moments are to be had, and a pass of second-order rounding, o D^2 + D^3, costs little."""
    outputs, inputs = site.shape
    return float(inputs) ** 2 * (outputs + inputs) <= _LARGEST and statistics.exact(site)


def _integers(site: Site) -> str:
    """The name of the stored integers that a layer reads."""
    weight = site.node.inputs[1]
    maker = weight.producer() if weight is not None else None
    source = maker.inputs[0] if maker is not None else None
    return (source.name if source is not None else "") or ""


def _subtract_bias(site: Site) -> None:
    """A Gemm or a MatMul with an Add becomes MatMul and Sub of the negated bias, if it has one: the same numbers."""
    node, graph, output = site.node, ir.graph_of(site.graph), site.output
    if site.bias is None and node.op_type == "MatMul":
        return
    old, name, own = list(site.nodes), output.name, node.name
    product = ir.make_node("MatMul", [node.inputs[0], node.inputs[1]])
    product.name, made, result = ir.fresh_name(graph, f"{own}_product"), [product], product.outputs[0]
    if site.bias is not None:
        negated = ir.add_initializer(graph, (-site.bias).astype(np.float32), f"{own}_bias_negated")
        result.name, result.type, result.shape = ir.fresh_name(graph, f"{name}_product"), output.type, output.shape
        sub = ir.make_node("Sub", [result, negated])
        sub.name, result = ir.fresh_name(graph, f"{own}_sub"), sub.outputs[0]
        made.append(sub)
    result.type, result.shape = output.type, output.shape
    graph.insert_after(old[-1], made)
    ir.replace_uses(output, result)
    ir.sweep(old)
    result.name, product.name = name, own


__all__ = ["QuantizeWeights"]
