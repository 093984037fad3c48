"""fuse-pad: folds a Pad with zeros into the Conv or AveragePool after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.passes.fuse.linear import rank_of
from lwgraph.rewrite import Const, Contract, RewritePass, Skip


@dataclass(frozen=True)
class FusePad(RewritePass):
    """Fold a Pad of the image axes with zeros into the Conv after it, or an AveragePool that counts its padding."""

    name = "fuse-pad"
    contract = Contract.ROUNDING

    def pattern(self, op: Any, x: Any, pads: Any = None, value: Any = None, axes: Any = None, *rest: Any) -> Any:
        """A Pad, then a Conv or AveragePool."""
        y = op.Pad(x, pads, value, axes, _name="pad")
        return op.any_of("Conv", "AveragePool")(y, *rest, _name="layer")

    def replace(
        self,
        op: Any,
        x: Any,
        pads: Const | None,
        value: Const | None,
        axes: Const | None,
        rest: Any,
        pad: Any,
        layer: Any,
    ) -> Any:
        """The layer with the pads of both."""
        if ir.attribute(pad, "mode", "constant") != "constant":
            raise Skip(f"mode={ir.attribute(pad, 'mode')}: only padding with a constant can be fused")
        filled = ir.attribute(pad, "value", 0.0) if value is None else value.numpy()
        if np.any(filled):
            raise Skip("the padding is not zero")
        if ir.attribute(layer, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            raise Skip("auto_pad decides the layer's padding from the padded size")
        if layer.op_type == "AveragePool" and not _counts_padding(layer):
            raise Skip("the AveragePool does not count its padding")
        if layer.op_type == "AveragePool":
            rank: int | None = 2 + len(ir.attribute(layer, "kernel_shape"))
        else:
            weight = ir.constant_shape(layer.inputs[1])
            rank = rank_of(x) if weight is None else len(weight)
        added = _spatial(pad, pads, axes, rank)
        own = ir.attribute(layer, "pads", (0,) * len(added))
        total = [int(a + b) for a, b in zip(added, own, strict=True)]
        return op.copy(layer, x, *rest, pads=total, auto_pad=None)


def _counts_padding(pool: ir.Node) -> bool:
    """Whether the pool's own padding, now including ours, is averaged in; ceil_mode would change the last window."""
    own = any(ir.attribute(pool, "pads", ()))
    included = bool(ir.attribute(pool, "count_include_pad", 0))
    return included and not own and not ir.attribute(pool, "ceil_mode", 0)


def _spatial(pad: ir.Node, pads: Const | None, axes: Const | None, rank: int | None) -> list[int]:
    """(begin..., end...) over the image axes; Skip when other axes are padded or anything is cropped."""
    if rank is None:
        raise Skip("the number of axes is not known")
    amounts = [int(p) for p in (ir.attribute(pad, "pads", ()) if pads is None else pads.numpy())]
    half = len(amounts) // 2
    places = list(range(rank)) if axes is None else [int(a) % rank for a in axes.numpy()]
    if half != len(places):
        raise Skip(f"{len(amounts)} pads do not fit {len(places)} axes")
    begin, end = [0] * rank, [0] * rank
    for index, axis in enumerate(places):
        begin[axis], end[axis] = amounts[index], amounts[half + index]
    if min(begin + end) < 0:
        raise Skip("a negative pad crops")
    if any(begin[:2] + end[:2]):
        raise Skip("the batch or channel axis is padded")
    return begin[2:] + end[2:]
