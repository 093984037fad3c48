"""quantize{activations=dynamic}: integers whose grids are taken as the model runs, without calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lwgraph import ir, registry
from lwgraph.calibrate.generate import generate
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.errors import DataError
from lwgraph.executor import Feeds
from lwgraph.layers.site import Site
from lwgraph.passes.quantize.graph.dynamic_products import MINIMUM_OPSET, dynamic_sites, quantize_products
from lwgraph.passes.quantize.graph.quantizer import name_nodes
from lwgraph.passes.quantize.graph.raise_opset import OpsetError, raise_opset
from lwgraph.passes.quantize.graph.shapes import infer
from lwgraph.passes.quantize.placing.dynamic_times import slower
from lwgraph.passes.quantize.quantize_weights import QuantizeWeights
from lwgraph.passes.quantize.recurrent import QuantizeRecurrent
from lwgraph.rewrite import Context

_OPSET = 13  # what a model without dynamic grids is brought to


@dataclass(frozen=True)
class Dynamic:
    """Puts MatMul, Gemm, LSTM, GRU and the tables of embeddings into 8 bits; no data are looked at.

    Attributes:
        reduced: weights keep to 7 bits, for processors whose sums of products saturate.
        per_channel: one scale per output channel of a weight; else one per weight.
        timed: leave products in float that are no faster, at the sizes of the context's data or of a generated input.
        name: of the pass, for what is skipped.
    """

    reduced: bool
    per_channel: bool
    timed: bool
    name: str

    def run(
        self,
        model: ir.Model,
        context: Context,
        refuse: Callable[[ir.Graph], Mapping[str, str]],
        *,
        products: bool = True,
    ) -> int:
        """Rewrite in place; the number of layers and tables.

        Args:
            model: to be rewritten.
            context: gets what is skipped.
            refuse: from a graph whose nodes are named, the names of those that stay in float -> why.
            products: False leaves the products as they are, to find out which of them would be rewritten.
        """
        working, opset = ir.clone(model), model.graph.opset_imports.get("", 1)
        if opset < MINIMUM_OPSET:
            try:
                raise_opset(working, _OPSET)
            except OpsetError as error:
                context.skip(self.name, model.graph.name or "the model", str(error))
                return 0
            opset = working.graph.opset_imports[""]
        infer(working)
        name_nodes(working.graph)
        refused = dict(refuse(working.graph))
        sites, reasons = dynamic_sites(working, refused)
        if self.timed and sites:
            late = self._slower(working, sites, opset, context)
            sites = [site for site in sites if site.node.name not in late]
            reasons |= late
        for place, why in reasons.items():
            context.skip(self.name, place, why)
        if products:
            quantize_products(working.graph, sites, opset, reduced=self.reduced, per_channel=self.per_channel)
        done = len(sites) + self._recurrent_and_tables(working, refused, context)
        if done:
            if opset != model.graph.opset_imports.get("", 1):
                context.warn(f"{self.name} converted the model to opset {opset}: older ones have no dynamic grids")
            ir.replace_contents(model, working)
        return done

    def _slower(self, model: ir.Model, sites: list[Site], opset: int, context: Context) -> dict[str, str]:
        executor = context.executor or registry.executor("ort", threads=context.threads)
        feed = self._example(model, context)
        if feed is None:
            return {}
        shapes = layer_shapes(model, feed, executor)
        return slower(sites, shapes, executor, opset, reduced=self.reduced, per_channel=self.per_channel)

    def _example(self, model: ir.Model, context: Context) -> Feeds | None:
        """One input to take sizes from; None where none is given and the model accepts no generated one."""
        if context.data:
            return context.data[0]
        try:
            return generate(model, 1, context.seed, executor=context.executor)[0]
        except DataError as error:
            context.warn(f"{self.name} timed no layer: {error}")
            return None

    def _recurrent_and_tables(self, model: ir.Model, refused: Mapping[str, str], context: Context) -> int:
        """LSTM and GRU as loops over integers, and the tables of embeddings."""
        done = QuantizeRecurrent(self.reduced, tuple(refused)).run(model, context)
        return done + quantize_tables(model, refused, context)


def quantize_tables(model: ir.Model, refused: Mapping[str, str], context: Context) -> int:
    """Store the tables of embeddings in 8 bits, but those that nodes named in `refused` read; how many."""
    kept = tuple(n.name or "" for n in model.graph if ir.operator(n) == "Gather" and (n.name or "") in refused)
    return QuantizeWeights(op_types_to_quantize=("Gather",), nodes_to_exclude=kept).run_tables(model, context)


__all__ = ["Dynamic", "quantize_tables"]
