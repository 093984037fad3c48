"""smooth-quant: moves outlier channels of a product's input into its weight, and the inverse into the node before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from lwgraph import ir, registry
from lwgraph.arrays import Array, Floats
from lwgraph.calibrate.capture import capture
from lwgraph.passes.quantize.graph.shapes import infer
from lwgraph.passes.quantize.graph.smooth_chains import Chain, find_chains
from lwgraph.passes.quantize.placing.already_quantized import quantized_already
from lwgraph.rewrite import Context, Contract, Pass

ALPHAS = (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # tried when alpha is to be found
ROWS = 256  # rows of each chain's input kept for judging
BLOCK = 1 << 20  # elements of a weight, or of what it gives, that are looked at together, in float64
_BETTER = 0.98  # share of the error without smoothing that is worth a change


@dataclass(frozen=True)
class SmoothQuant(Pass):
    """Even out the input channels of MatMul and Gemm behind normalizations, so that both factors quantize well.

    x diag(1/s) and diag(s) W with s_j = max|x_j|^alpha / max|W_j|^(1 - alpha) (Xiao, Lin, Seznec, Wu, Demouth, Han
    2023, SmoothQuant, equation 4); 1/s goes into the scale and bias of what comes before.
    """

    name: ClassVar[str] = "smooth-quant"
    contract: ClassVar[Contract] = Contract.ROUNDING
    asks: ClassVar[bool] = True

    alpha: Annotated[
        float | None,
        "how much of the difficulty moves to the weights, 0 to 1; none: for each chain what "
        "loses least on samples kept apart, or nothing",
    ] = None
    weight_bits: Annotated[int, "the weights' width that alpha is found for"] = 8
    per_channel: Annotated[bool, "whether weights will have one scale per output"] = True

    def __post_init__(self) -> None:
        self.check_option("alpha", self.alpha is None or 0 <= self.alpha <= 1, self.alpha, "0 to 1, or none")
        self.check_option("weight_bits", 2 <= self.weight_bits <= 8, self.weight_bits, "2 to 8")

    def run(self, model: ir.Model, context: Context) -> int:
        """The number of chains smoothed. Without data, nothing."""
        place = model.graph.name or "the model"
        known = quantized_already(model)
        if known is not None:
            context.skip(self.name, place, f"already quantized: {known}")
            return 0
        if not context.data:
            context.skip(self.name, place, "it needs data to see which channels are outliers")
            return 0
        working = ir.clone(model)
        infer(working)
        chains = find_chains(working, lambda where, why: context.skip(self.name, where, why))
        if not chains:
            return 0
        executor = context.executor or registry.executor("ort", threads=context.threads)
        seen = _observe(working, chains, context, executor)
        done = 0
        for chain in chains:
            reach, rows = seen[chain.name]
            scale, reason = self._scale(chain, reach, rows)
            if scale is None:
                context.skip(self.name, chain.name, reason)
            elif context.allow(self.name, chain.name):
                chain.apply(scale)
                done += 1
        if done:
            ir.replace_contents(model, working)
        return done

    def _scale(self, chain: Chain, reach: Floats, rows: Floats) -> tuple[Floats | None, str]:
        """(channels,) s, or None and why the chain stays."""
        weights = chain.weights
        if not reach.any() or not rows.size:
            return None, "its input was always zero or empty"
        if not (np.isfinite(reach).all() and np.isfinite(rows).all()):
            return None, "its input holds infinity or NaN on the data"
        if self.alpha is not None:
            return smoothing(reach, weights, self.alpha), ""
        before = self._error(rows, weights, np.ones(len(reach)))
        scales = [smoothing(reach, weights, alpha) for alpha in ALPHAS]
        errors = [self._error(rows, weights, scale) for scale in scales]
        best = int(np.argmin(errors))
        if errors[best] > _BETTER * before:
            return None, f"no alpha loses less on samples kept apart: {min(errors):.3g} against {before:.3g} without"
        return scales[best], ""

    def _error(self, rows: Floats, weights: Sequence[Array], scale: Floats) -> float:
        """Relative squared error of the products when both factors are rounded, on rows that s was not made from."""
        x = rows / scale
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        step = (high - low) / 255 or 1.0
        quantized = np.rint(x / step) * step
        lost = total = 0.0
        for weight in weights:
            most, size = float((_loudest(weight) * scale).max()), max(1, BLOCK // max(rows.shape))
            for start in range(0, weight.shape[1], size):
                some = weight[:, start : start + size].astype(np.float64)
                scaled = some * scale[:, None]
                reach = np.abs(scaled).max(axis=0) if self.per_channel else np.full(some.shape[1], most)
                unit = np.where(reach > 0, reach, 1.0) / (2 ** (self.weight_bits - 1) - 1)
                truth = rows @ some
                lost += float(np.square(quantized @ (np.rint(scaled / unit) * unit) - truth).sum())
                total += float(np.square(truth - truth.mean(axis=0)).sum())
        return lost / max(total, 1e-30)


def _loudest(weight: Array) -> Floats:
    """(channels,) max|W_j|."""
    found: Floats = np.maximum(weight.max(axis=1), -weight.min(axis=1)).astype(np.float64)
    return found


def smoothing(reach: Floats, weights: Sequence[Array], alpha: float) -> Floats:
    """(channels,) s_j = max|x_j|^alpha / max|W_j|^(1 - alpha), 1 where either is zero; geometric mean 1.

    Args:
        reach: (channels,) max|x_j| on the data.
        weights: the matrices (channels, outputs) that read x.
    """
    loudest = np.max([_loudest(w) for w in weights], axis=0)
    good = (reach > 0) & (loudest > 0)
    scale = np.ones(len(reach))
    scale[good] = reach[good] ** alpha / loudest[good] ** (1 - alpha)
    if good.any():
        scale[good] /= np.exp(np.log(scale[good]).mean())
    return np.clip(scale, 1e-4, 1e4)


def _observe(model: ir.Model, chains: list[Chain], context: Context, executor: Any) -> dict[str, tuple[Floats, Floats]]:
    """Chain -> (max|x_j| on every second feed, rows of x on the others). With one feed, every second row."""
    assert context.data is not None
    by_value: dict[str, list[Chain]] = {}
    for chain in chains:
        by_value.setdefault(chain.value.name or "", []).append(chain)
    reach: dict[str, Floats] = {}
    rows: dict[str, list[Floats]] = {name: [] for name in by_value}
    single, share = len(context.data) == 1, max(1, ROWS // max(len(context.data) // 2, 1))
    random = np.random.default_rng(context.seed)
    for index, arrays in capture(model, list(by_value), context.data, executor):
        for name, array in arrays.items():
            flat = np.asarray(array, np.float64).reshape(-1, array.shape[-1])
            fit, apart = (flat[::2], flat[1::2]) if single else (flat, flat[:0]) if index % 2 == 0 else (flat[:0], flat)
            if len(fit):
                found = np.abs(fit).max(axis=0)
                reach[name] = np.maximum(reach[name], found) if name in reach else found
            if len(apart):
                rows[name].append(apart[random.permutation(len(apart))[:share]])
    return {
        chain.name: (
            reach.get(name, np.zeros(chain.channels)),
            np.concatenate(rows[name]) if rows[name] else np.zeros((0, chain.channels)),
        )
        for name, members in by_value.items()
        for chain in members
    }


__all__ = ["ALPHAS", "SmoothQuant", "smoothing"]
