"""The algebra of a layer split by its kernel's axes into two stages; low-rank and tucker share it.

D factors as T * I: I = inputs * taps on the axes of the first stage, T = taps on the others. The first stage is V
(r, I), the second H (o, T, r), and the kernel is Khat[o, t, i] = sum_r H[o, t, r] V[r, i].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lwgraph.arrays import Floats, Weights
from lwgraph.layers.linalg import balance, conjugate_gradients, nested, solve, top_basis
from lwgraph.layers.moments import Block

SWEEPS, STEPS = 3, 3  # alternations at most, and conjugate-gradient steps in each


def factor(block: Block, axes: Sequence[int], rank: int) -> tuple[Floats, Floats]:
    """The two stages (r, c, *k with 1 off `axes`) and (o, r, *k with 1 on `axes`) of least error on the moments.

    With T taps off `axes`, I = c * taps on `axes`, D = T I: O(rank D^2 STEPS + (rank T)^3) per sweep after
    one eigenproblem of min(I, o T), which all ranks share.
    """
    weight, moments = arranged(block, axes)  # (o, T, I), (T, I, T, I)
    outputs, taps, inner = weight.shape
    cross = np.asarray(block.cache[("cross", tuple(axes))])
    loss, first, second = start(block, axes, rank)
    if taps > 1 and rank < min(inner, outputs * taps):
        for _ in range(block.sweeps(SWEEPS)):
            better = first_stage(moments, cross, first, second, inverse_average(block, axes))
            found, refitted = second_stage(moments, cross, better)
            if found >= loss:
                break
            done = block.settled(loss, found)
            loss, first, second = found, better, refitted
            if done:
                break
    on = [k if a in axes else 1 for a, k in enumerate(block.weight.shape[2:])]
    off = [1 if a in axes else k for a, k in enumerate(block.weight.shape[2:])]
    rows = first.reshape(rank, block.weight.shape[1], *on)
    columns = second.transpose(0, 2, 1).reshape(outputs, rank, *off)
    return balance(rows, columns)


def start(block: Block, axes: Sequence[int], rank: int) -> tuple[float, Floats, Floats]:
    """Loss (up to a constant), first and second stage of the better of two starts: whitened and plain SVD, refitted."""
    key = ("start", tuple(axes), rank)
    if key not in block.cache:
        best: tuple[float, Floats, Floats] | None = None
        for basis, _, right, second in solved(block, axes, rank):
            loss = -float(np.vdot(second, right))
            if best is None or loss < best[0]:
                best = loss, basis, second.reshape(len(right), -1, rank)
        block.cache[key] = best
    found: tuple[float, Floats, Floats] = block.cache[key]
    return found


def starts(block: Block, axes: Sequence[int], rank: int) -> list[tuple[Floats, Floats, Floats]]:
    """The first `rank` directions of each of `bases`, and the second stage's normal equations for them.

    The equations of a smaller rank are a part of those of a larger one, so they are set up once for all ranks up to
    min(inputs, outputs), which is as far as menus go; every form with this first stage shares them.
    """
    weight, moments = arranged(block, axes)
    cross, taps = np.asarray(block.cache[("cross", tuple(axes))]), len(moments)
    found = []
    for index, basis in enumerate(bases(block, axes, weight, moments)):
        limit = min(len(basis), max(rank, min(block.weight.shape[:2])))
        key = ("normal", tuple(axes), index)
        if key not in block.cache or block.cache[key][1].size < len(cross) * taps * rank:
            block.cache[key] = normal_equations(moments, cross, basis[:limit])
        normal, right = block.cache[key]
        whole = len(normal) // taps
        normal = normal.reshape(taps, whole, taps, whole)[:, :rank, :, :rank].reshape(taps * rank, taps * rank)
        found.append((basis[:rank], normal, right.reshape(-1, taps, whole)[:, :, :rank].reshape(len(cross), -1)))
    return found


def solved(block: Block, axes: Sequence[int], rank: int) -> list[tuple[Floats, Floats, Floats, Floats]]:
    """`starts` with the second stage (o, T r) of each, solved once for all forms that begin alike."""
    key = ("solved", tuple(axes), rank)
    found = starts(block, axes, rank)
    if key not in block.cache:
        block.cache[key] = [solve(normal, right) for _, normal, right in found]
    return [(*each, second) for each, second in zip(found, block.cache[key], strict=True)]


def explained(block: Block, axes: Sequence[int], rank: int) -> Floats:
    """Y (r, T, o): what the whitened basis' directions explain, in order; see `lwgraph.layers.moments.nested`.

    Computed once for all ranks up to min(inputs, outputs), which is as far as menus go.
    """
    limit = max(rank, min(block.weight.shape[:2]))
    key = ("explained", tuple(axes))
    found: Floats | None = block.cache.get(key)
    if found is None or len(found) < rank:
        taps = len(arranged(block, axes)[1])
        basis, normal, right = starts(block, axes, limit)[0]
        count = len(basis)
        order = np.arange(taps * count).reshape(taps, count).T.reshape(-1)  # (T, r) to (r, T)
        found = nested(normal[np.ix_(order, order)], right[:, order]).reshape(count, taps, -1)
        block.cache[key] = found
    return found[:rank]


def join(first: Floats, second: Floats) -> Floats:
    """The dense kernel (o, c, *k) of the stages (r, c, *on) and (o, r, *off); either is 1 on each axis."""
    rank = first.ndim - 2
    a = first.reshape(first.shape[0], -1)
    b = second.reshape(second.shape[0], second.shape[1], -1)
    kernel = np.einsum("ort,ri->oit", b, a, optimize=True)
    kernel = kernel.reshape(second.shape[0], first.shape[1], *first.shape[2:], *second.shape[2:])
    # Axes are now (o, c, on..., off...); on axis a one of the pair is 1.
    order = [0, 1] + [axis for a in range(rank) for axis in (2 + a, 2 + rank + a)]
    shape = [max(first.shape[2 + a], second.shape[2 + a]) for a in range(rank)]
    return np.ascontiguousarray(kernel.transpose(order).reshape(second.shape[0], first.shape[1], *shape))


def arranged(block: Block, axes: Sequence[int]) -> tuple[Floats, Weights]:
    """The weight (o, T, I) in float64, and the moments (T, I, T, I) in the precision of `Block.working`."""
    key = ("arranged", tuple(axes))
    if key not in block.cache:
        shape = block.weight.shape[1:]
        rest = [1 + a for a in range(len(shape) - 1) if a not in axes]
        order = [*rest, 0, *[1 + a for a in axes]]
        taps = math.prod(shape[a] for a in rest)
        inner = math.prod(shape) // taps
        n = len(shape)
        weight = block.weight.transpose(0, *[1 + a for a in order]).reshape(-1, taps, inner)
        moments = block.working.reshape(*shape, *shape).transpose(*order, *[n + a for a in order])
        moments = np.ascontiguousarray(moments).reshape(taps, inner, taps, inner)
        cross = block.cross.reshape(-1, *shape).transpose(0, *[1 + a for a in order]).reshape(-1, taps, inner)
        block.cache[key] = weight, moments
        block.cache[("cross", tuple(axes))] = np.ascontiguousarray(cross)
    found: tuple[Floats, Weights] = block.cache[key]
    return found


def bases(block: Block, axes: Sequence[int], weight: Floats, moments: Weights) -> tuple[Floats, ...]:
    """The whitened and the plain basis (I, I) of the first stage, best directions first."""
    key = ("bases", tuple(axes))
    if key not in block.cache:
        right = weight.transpose(2, 0, 1).reshape(weight.shape[2], -1)
        white = top_basis(average(moments), right)
        block.cache[key] = (white,) if block.white else (white, top_basis(None, right))
    found: tuple[Floats, ...] = block.cache[key]
    return found


def second_stage(moments: Weights, cross: Floats, first: Floats) -> tuple[float, Floats]:
    """The best second stage (o, T, r) for a first stage (r, I), and the loss up to a constant."""
    normal, right = normal_equations(moments, cross, first)
    second = solve(normal, right)
    return -float(np.vdot(second, right)), second.reshape(len(cross), len(moments), len(first))


def normal_equations(moments: Weights, cross: Floats, first: Floats) -> tuple[Floats, Floats]:
    """The normal matrix (T r, T r) and right-hand side (o, T r) of the second stage."""
    taps, inner = moments.shape[:2]
    rank = len(first)
    rows = first.astype(moments.dtype, copy=False)
    product = rows @ moments.reshape(taps, inner, taps * inner)  # (T, r, T I)
    normal = (product.reshape(taps * rank * taps, inner) @ rows.T).reshape(taps * rank, taps * rank)
    normal = normal.astype(np.float64, copy=False)
    return (normal + normal.T) / 2, (cross @ first.T).reshape(len(cross), -1)


def average(moments: Weights) -> Floats:
    """The (I, I) moments of the first stage's patches, over the T places at which it stands: (T, I, T, I) -> (I, I)."""
    return np.asarray(sum(moments[t, :, t].astype(np.float64) for t in range(len(moments)))) / len(moments)


def inverse_average(block: Block, axes: Sequence[int]) -> Floats:
    """The inverse of `average`, (I, I), remembered."""
    key = ("inverse", tuple(axes))
    if key not in block.cache:
        block.cache[key] = np.linalg.inv(average(arranged(block, axes)[1]))
    found: Floats = block.cache[key]
    return found


def first_stage(moments: Weights, cross: Weights, first: Weights, second: Weights, average_inverse: Weights) -> Floats:
    """A better first stage (r, I) for a second stage (o, T, r): preconditioned conjugate gradients from `first`.

    The normal operator is V -> sum_ts (H_t^T H_s) V R_st, never formed as a matrix of (r I)^2. In float32: the second
    stage that follows decides whether it is better.
    """
    taps, inner = moments.shape[:2]
    moments, cross, first, second, average_inverse = (
        np.asarray(v, np.float32) for v in (moments, cross, first, second, average_inverse)
    )
    rank = len(first)
    flat = moments.reshape(taps, inner, taps * inner)  # symmetric, so that rows stand for columns
    inner_products = np.einsum("otr,osq->trsq", second, second, optimize=True)  # H_t^T H_s

    def operate(v: Floats) -> Floats:
        spread = np.tensordot(inner_products, v, axes=(3, 0))  # (T, r, S, I)
        # (I, D) @ (D, r): several times as fast in BLAS as its transpose.
        parts = [flat[t] @ spread[t].reshape(rank, -1).T for t in range(taps)]
        return np.asarray(np.sum(parts, axis=0).T)

    target = np.einsum("otr,oti->ri", second, cross, optimize=True)
    rows = np.einsum("trtq->rq", inner_products)
    rows_inverse = np.linalg.inv(rows + np.eye(rank, dtype=np.float32) * max(1e-6 * np.trace(rows) / rank, 1e-30))

    def precondition(v: Floats) -> Floats:
        return np.asarray(rows_inverse @ v @ average_inverse)

    better = conjugate_gradients(operate, target, first, STEPS, precondition).astype(np.float64)
    return np.asarray(better / np.maximum(np.linalg.norm(better, axis=1, keepdims=True), 1e-300))
