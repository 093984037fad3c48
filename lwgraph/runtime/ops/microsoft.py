"""Operators of com.microsoft that tools of ONNX Runtime write into files: fused layers of floats.

Their meaning is that of ONNX Runtime's ContribOperators.md and its CPU kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import erf

from lwgraph.arrays import Array
from lwgraph.runtime import kernels
from lwgraph.runtime.ops.base import BUILDERS, Function, Spec, Unsupported, floating, operator, wider
from lwgraph.runtime.ops.recurrent import ACTIVATIONS

DOMAIN = "com.microsoft"


def standard(spec: Spec, op_type: str, version: int, **attributes: Any) -> Function:
    """ONNX's own operator, of a version, with the node's attributes and these."""
    return BUILDERS[op_type](
        replace(spec, op_type=op_type, version=version, attributes={**spec.attributes, **attributes})
    )


def gelu(x: Array) -> Array:
    """x times the normal distribution's function of x."""
    y: Array = x * (0.5 * (1 + erf(x * np.sqrt(0.5)))).astype(x.dtype, copy=False)
    return y


def _fast(x: Array) -> Array:
    y: Array = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi).astype(x.dtype) * (x + x.dtype.type(0.044715) * x**3)))
    return y.astype(x.dtype, copy=False)


@operator(*(f"{DOMAIN}::{name}" for name in ("Gelu", "BiasGelu", "FastGelu", "QuickGelu")))
def gelus(spec: Spec) -> Function:
    """Gelu and BiasGelu by the error function, FastGelu by tanh, QuickGelu: x sigmoid(alpha x)."""
    alpha, precise = spec.get("alpha", 1.702), spec.options.precise
    functions: dict[str, Callable[[Array], Array]] = {
        "FastGelu": _fast,
        "QuickGelu": lambda x: x / (1 + np.exp(x * x.dtype.type(-alpha))),
    }
    function = functions.get(spec.op_type, gelu)

    def run(x: Array, bias: Array | None = None) -> Array:
        floating(x)
        given = wider(x if bias is None else x + bias, precise)
        return function(given).astype(x.dtype, copy=False)

    return run


@operator(f"{DOMAIN}::FusedMatMul", f"{DOMAIN}::TransposeMatMul")
def fused_matmul(spec: Spec) -> Function:
    """alpha times a product of matrices, which may be transposed, and have the axis of rows before those of batches."""
    alpha, precise, threads = spec.get("alpha", 1.0), spec.options.precise, spec.options.threads

    def side(x: Array, which: str) -> Array:
        if x.ndim > 2 and spec.get(f"transBatch{which}", 0):
            x = np.moveaxis(x, 0, -2)
        return x.swapaxes(-1, -2) if x.ndim > 1 and spec.get(f"trans{which}", 0) else x

    def run(a: Array, b: Array) -> Array:
        floating(a, b)
        a, b = side(a, "A"), side(b, "B")
        if a.ndim == 1 or b.ndim == 1:
            return np.asarray(np.matmul(a, b) * a.dtype.type(alpha))
        y = kernels.matmul(np.ascontiguousarray(a), np.ascontiguousarray(b), precise=precise, threads=threads)
        return y if alpha == 1 else y * y.dtype.type(alpha)

    return run


def _activation(spec: Spec, stated: list[float]) -> Callable[[Array], Array]:
    """The function by the attribute `activation`; Identity where there is none."""
    name = (spec.get("activation") or "identity").lower()
    if name == "identity":
        return lambda x: x
    if name == "clip":
        low, high = stated
        return lambda x: np.clip(x, x.dtype.type(low), x.dtype.type(high))
    if name not in ACTIVATIONS:
        raise Unsupported
    function, defaults = ACTIVATIONS[name]
    values = [*stated, *defaults[len(stated) :]][: len(defaults)]
    return lambda x: np.asarray(function(x, *values), x.dtype)


@operator(f"{DOMAIN}::FusedGemm")
def fused_gemm(spec: Spec) -> Function:
    """Gemm and an activation behind it."""
    product = standard(spec, "Gemm", 13)
    stated = [spec.get(f"activation_{name}") for name in ("alpha", "beta", "gamma")]
    after = _activation(spec, [value for value in stated if value is not None])
    return lambda *inputs: after(product(*inputs))


@operator(f"{DOMAIN}::FusedConv")
def fused_conv(spec: Spec) -> Function:
    """Conv, a sum, and an activation behind both."""
    layer, after = standard(spec, "Conv", 11), _activation(spec, list(spec.get("activation_params") or ()))

    def run(x: Array, w: Array, bias: Array | None = None, added: Array | None = None) -> Array:
        y = layer(x, w, bias)
        return after(y if added is None else y + added)

    return run


def _normalized(x: Array, scale: Array, bias: Array | None, epsilon: float, mean: bool, precise: bool) -> Array:
    """LayerNormalization over the last axis; without `mean` by the root of the mean square alone."""
    source = wider(x, precise)
    centred = source - source.mean(-1, keepdims=True) if mean else source
    size = np.sqrt(np.square(centred).mean(-1, keepdims=True) + source.dtype.type(epsilon))
    y: Array = centred / size * scale
    return (y if bias is None else y + bias).astype(x.dtype, copy=False)


@operator("SimplifiedLayerNormalization", f"{DOMAIN}::SimplifiedLayerNormalization")
def simplified_layer_normalization(spec: Spec) -> Function:
    """ONNX Runtime's name, in ONNX's domain, for RMSNormalization over the last axis."""
    if spec.outputs > 1 or spec.get("axis", -1) != -1:
        raise Unsupported
    epsilon, precise = spec.get("epsilon", 1e-5), spec.options.precise

    def run(x: Array, scale: Array) -> Array:
        floating(x)
        return _normalized(x, scale, None, epsilon, mean=False, precise=precise)

    return run


@operator(f"{DOMAIN}::SkipLayerNormalization", f"{DOMAIN}::SkipSimplifiedLayerNormalization")
def skip_layer_normalization(spec: Spec) -> Function:
    """The normalized sum of two tensors and a bias; the fourth output is the sum. Means and deviations are left out."""
    epsilon, precise, mean = spec.get("epsilon", 1e-12), spec.options.precise, "Simplified" not in spec.op_type

    def run(x: Array, skip: Array, scale: Array, *others: Array | None) -> tuple[Array | None, ...]:
        floating(x)
        beta, bias = (*others, None, None)[:2] if mean else (None, (*others, None)[0])
        total = wider(x, precise) + skip
        if bias is not None:
            total = total + bias
        y = _normalized(total, scale, beta, epsilon, mean, precise)
        return y.astype(x.dtype, copy=False), None, None, total.astype(x.dtype, copy=False)

    return run


@operator(f"{DOMAIN}::EmbedLayerNormalization")
def embed_layer_normalization(spec: Spec) -> Function:
    """The normalized sum of embeddings of words, positions and segments; how many tokens each row has; the sum."""
    epsilon, precise = spec.get("epsilon", 1e-12), spec.options.precise

    def run(
        ids: Array,
        segments: Array | None,
        words: Array,
        positions: Array,
        kinds: Array | None,
        scale: Array,
        bias: Array,
        mask: Array | None = None,
        places: Array | None = None,
    ) -> tuple[Array, ...]:
        floating(words)
        total = wider(words, precise)[ids] + positions[np.arange(ids.shape[1])[None] if places is None else places]
        if segments is not None and kinds is not None:
            total = total + kinds[segments]
        counts = np.zeros(len(ids), np.int32) if mask is None else (mask == 1).sum(1, dtype=np.int32)
        y = _normalized(total, scale, bias, epsilon, mean=True, precise=precise)
        return y.astype(words.dtype, copy=False), counts, total.astype(words.dtype, copy=False)

    return run


def attend(
    spec: Spec,
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    added: Array | None = None,
) -> Array:
    """Attention of heads: softmax(scale q kᵀ + masks) v, of shape (batch, queries, heads * size).

    Args:
        spec: the node: `scale`, `unidirectional`, `mask_filter_value`.
        q, k, v: (batch, heads, queries or keys, size).
        mask: (batch,) lengths; (2 * batch,) ends, then starts; (batch, keys) or (batch, queries, keys) of 0 and 1;
            None: all are seen.
        added: to the scores, (batch or 1, heads or 1, queries, keys).
    """
    floating(q)
    batch, _, queries, size = q.shape
    keys = k.shape[2]
    kind, masked = wider(q[:0], spec.options.precise).dtype, spec.get("mask_filter_value", -10000.0)
    hidden = np.zeros((batch, 1, keys), bool) if mask is None else _hidden(mask, batch, keys)
    offset = (hidden * kind.type(masked))[:, None]
    if spec.get("unidirectional", 0):
        later = np.arange(keys) > np.arange(queries)[:, None] + (keys - queries)
        offset = offset + later * kind.type(masked)
    scores = np.matmul(q.astype(kind), k.astype(kind).swapaxes(-1, -2))
    scores *= kind.type(spec.get("scale") or 1 / np.sqrt(size))
    scores += offset
    if added is not None:
        scores += added
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    y = np.matmul(weights, v.astype(kind)).transpose(0, 2, 1, 3)
    joined: Array = y.reshape(batch, queries, -1).astype(q.dtype, copy=False)
    return joined


def _hidden(mask: Array, batch: int, keys: int) -> Array:
    """Which keys are not to be seen, (batch, queries or 1, keys)."""
    if mask.ndim == 1 and mask.size in (batch, 2 * batch):
        places, ends = np.arange(keys)[None], mask[:batch, None]
        after: Array = places >= ends
        return (after if mask.size == batch else after | (places < mask[batch:, None]))[:, None]
    if mask.ndim == 2 and mask.shape == (batch, keys):
        return np.asarray(mask <= 0)[:, None]
    if mask.ndim == 3:
        return np.asarray(mask <= 0)
    raise Unsupported


def heads_of(x: Array, heads: int) -> Array:
    """(batch, length, heads * size) as (batch, heads, length, size)."""
    y: Array = x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)
    return y


def projected(spec: Spec, qkv: Array, mask: Array | None, past: Array | None, added: Array | None) -> Any:
    """The outputs of Attention, from queries, keys and values side by side: (batch, length, sizes of all three)."""
    heads, sizes = spec.get("num_heads"), spec.get("qkv_hidden_sizes")
    bounds = np.cumsum(sizes)[:2] if sizes else 3
    q, k, v = (heads_of(part, heads) for part in np.split(qkv, bounds, axis=-1))
    if past is not None:
        k, v = (np.concatenate(pair, 2) for pair in zip(past, (k, v), strict=True))
    y = attend(spec, q, k, v, mask, added)
    return (y, np.stack([k, v])) if spec.outputs > 1 else y


@operator(f"{DOMAIN}::Attention")
def attention(spec: Spec) -> Function:
    """Self-attention with its projections; without rotary embeddings and shared buffers."""
    if spec.get("do_rotary", 0) or spec.get("past_present_share_buffer", 0):
        raise Unsupported
    threads, precise = spec.options.threads, spec.options.precise

    def run(
        x: Array,
        w: Array,
        bias: Array | None = None,
        mask: Array | None = None,
        past: Array | None = None,
        added: Array | None = None,
    ) -> Any:
        floating(x)
        return projected(spec, kernels.matmul(x, w, bias, precise=precise, threads=threads), mask, past, added)

    return run


@operator(f"{DOMAIN}::MultiHeadAttention")
def multi_head_attention(spec: Spec) -> Function:
    """Attention of queries, keys and values that were projected before; not those that are packed into one tensor."""
    heads = spec.get("num_heads")

    def run(
        q: Array,
        k: Array | None = None,
        v: Array | None = None,
        bias: Array | None = None,
        mask: Array | None = None,
        added: Array | None = None,
        past_k: Array | None = None,
        past_v: Array | None = None,
        *others: Array | None,
    ) -> Any:
        if q.ndim != 3 or k is None or v is None or any(other is not None for other in others) or spec.outputs > 3:
            raise Unsupported
        parts = [q, k, v]
        if bias is not None:
            if k.ndim != 3:
                raise Unsupported
            cut = np.split(bias, np.cumsum([q.shape[2], k.shape[2]]))
            parts = [part + each for part, each in zip(parts, cut, strict=True)]
        q, k, v = (part if part.ndim == 4 else heads_of(part, heads) for part in parts)
        if past_k is not None and past_v is not None:
            k, v = np.concatenate([past_k, k], 2), np.concatenate([past_v, v], 2)
        y = attend(spec, q, k, v, mask, added)
        return (y, k, v)[: spec.outputs] if spec.outputs > 1 else y

    return run
