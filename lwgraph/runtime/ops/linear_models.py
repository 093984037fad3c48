"""Linear models of tables (domain ai.onnx.ml), with all of their post-transforms as ONNX Runtime has them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import erfinv

from lwgraph.arrays import Array
from lwgraph.runtime.ops.base import Function, Spec, Unsupported, operator

_ZERO = 1e-7  # a score below counts as none in SOFTMAX_ZERO


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _softmax_zero(scores: Array) -> Array:
    """Softmax over the scores that are not zero; zeros stay."""
    most, some = scores.max(axis=1, keepdims=True), np.abs(scores) > _ZERO
    powers = np.where(some, np.exp(scores - most), scores * np.exp(-most))
    total = np.where(some, powers, 0).sum(axis=1, keepdims=True)
    shares: Array = powers / np.where(total == 0, 1, total)
    return shares


TRANSFORMS: dict[str, Callable[[Array], Array]] = {
    "NONE": lambda scores: scores,
    "LOGISTIC": lambda scores: 1 / (1 + np.exp(-scores)),
    "SOFTMAX": _softmax,
    "SOFTMAX_ZERO": _softmax_zero,
    "PROBIT": lambda scores: np.sqrt(2) * erfinv(2 * scores - 1),
}


def _scores(spec: Spec, rows: int) -> Callable[[Array], Array]:
    """(n, features) to (n, rows), in float64."""
    matrix = np.array(spec.get("coefficients"), np.float64).reshape(rows, -1).T
    offset = np.array(spec.get("intercepts") or [0.0] * rows, np.float64)

    def scores(x: Array) -> Array:
        if x.ndim > 2 or x.dtype.kind not in "fiu":
            raise Unsupported
        found: Array = x.reshape(-1, len(matrix)).astype(np.float64) @ matrix + offset
        return found

    return scores


@operator("ai.onnx.ml::LinearRegressor")
def regressor(spec: Spec) -> Function:
    """LinearRegressor-1."""
    scores, transform = _scores(spec, spec.get("targets", 1)), TRANSFORMS[spec.get("post_transform", "NONE")]
    return lambda x: transform(scores(x)).astype(np.float32)


@operator("ai.onnx.ml::LinearClassifier")
def classifier(spec: Spec) -> Function:
    """LinearClassifier-1; one score tells two classes apart, by its sign."""
    numbers = spec.get("classlabels_ints")
    labels = np.array(numbers or spec.get("classlabels_strings") or (), None if numbers else object)
    how, offsets = spec.get("post_transform", "NONE"), spec.get("intercepts")
    rows = len(offsets) if offsets else len(labels)
    if len(labels) < 2 or rows not in (1, len(labels)) or (rows == 1 and (len(labels) > 2 or how == "PROBIT")):
        raise Unsupported
    scores, transform = _scores(spec, rows), TRANSFORMS[how]

    def run(x: Array) -> tuple[Array, Array]:
        found = scores(x)
        if rows > 1:
            return labels[found.argmax(axis=1)], transform(found).astype(np.float32)
        second = TRANSFORMS["LOGISTIC"](found) if how == "LOGISTIC" else found
        return labels[(found[:, 0] > 0).astype(int)], np.hstack([1 - second, second]).astype(np.float32)

    return run
