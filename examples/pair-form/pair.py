"""A form in a file: `lwgraph optimize model.onnx --data calib.npz -p 'pair.py:Pair{rank=16}'`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from lwgraph.layers import Form, ceil16


@dataclass(frozen=True)
class Pair(Form):
    """Two layers for one, the second of them 1 x 1: y = A (B x), with A B of rank `rank`."""

    name: ClassVar[str] = "pair"
    rank: Annotated[int, "channels between the two"] = 16

    @classmethod
    def refusal(cls, site):
        return "it has groups" if site.group > 1 else ""

    @classmethod
    def menu(cls, site):
        sizes = dict.fromkeys(ceil16(share * site.outputs, site.outputs) for share in (1 / 8, 1 / 4, 1 / 2))
        return [cls(rank) for rank in sizes if cls(rank).macs(site) < 0.9 * site.macs()]

    @classmethod
    def full(cls, site):
        return cls(min(site.outputs, site.fan_in))

    def fit(self, site, moments):
        """Project onto the strongest outputs (reduced-rank regression): A A^T W, A the top eigenvectors of W C W^T."""
        (block,) = moments.blocks
        _, vectors = np.linalg.eigh(block.cross @ block.matrix.T)  # from the weakest on
        a = vectors[:, ::-1][:, : self.rank]
        b = a.T @ block.matrix
        arrays = {"a": a.reshape(*a.shape, *(1 for _ in site.kernel)), "b": b.reshape(-1, *site.shape[1:])}
        return self.fitted(site, moments, arrays, (a @ b).reshape(site.shape))

    def emit(self, op, x, fitted):
        y = op.stage(x, fitted.arrays["b"], "b")
        return op.stage(y, fitted.arrays["a"], "a", bias=fitted.bias, axes=())

    def macs(self, site):
        return min(self.rank, site.outputs) * (site.fan_in + site.outputs) * site.positions()
