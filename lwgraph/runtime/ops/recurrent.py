"""LSTM: the input's part of all gates is one matrix product over the whole sequence."""

from __future__ import annotations

from typing import Any

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime import kernels
from lwgraph.runtime.ops.base import Function, Spec, Unsupported, floating, operator, wider


def _sigmoid(x: Array) -> Array:
    y: Array = 1 / (1 + np.exp(-x))
    return y


@operator("LSTM")
def lstm(spec: Spec) -> Function:
    """LSTM-7, 14, 22 with the default activations, without clipping, sequence lengths or coupled gates."""
    activations = [a.lower() for a in spec.get("activations") or ()]
    if activations != ["sigmoid", "tanh", "tanh"] * (len(activations) // 3) or spec.version < 7:
        raise Unsupported
    if spec.get("clip") or spec.get("input_forget", 0) or (len(spec.present) > 4 and spec.present[4]):
        raise Unsupported
    direction, batch_first = spec.get("direction", "forward"), spec.get("layout", 0)
    precise, threads = spec.options.precise, spec.options.threads
    by_rows: dict[int, Array] = {}  # constant recurrence weights, transposed once

    def transposed(r: Array, d: int, kind: np.dtype[Any]) -> Array:
        if spec.constant(2) is not r:
            return np.ascontiguousarray(r[d].T, kind)
        if d not in by_rows:
            by_rows[d] = np.ascontiguousarray(r[d].T, kind)
        return by_rows[d]

    def run(
        x: Array,
        w: Array,
        r: Array,
        b: Array | None = None,
        lengths: Array | None = None,
        h0: Array | None = None,
        c0: Array | None = None,
        p: Array | None = None,
    ) -> tuple[Array, Array, Array]:
        floating(x)
        kind = wider(x[:0], precise).dtype
        steps = (x.swapaxes(0, 1) if batch_first else x).astype(kind, copy=False)
        length, batch, _ = steps.shape
        hidden, directions = r.shape[2], w.shape[0]
        y = np.empty((length, directions, batch, hidden), kind)
        last = np.zeros((2, directions, batch, hidden), kind)
        for state, start in zip(last, (h0, c0), strict=True):
            if start is not None:
                state[...] = start.swapaxes(0, 1) if batch_first else start
        for d in range(directions):
            backward = direction == "reverse" or d == 1
            bias = np.zeros(4 * hidden, kind) if b is None else (b[d, : 4 * hidden] + b[d, 4 * hidden :]).astype(kind)
            gates = kernels.matmul(np.ascontiguousarray(steps), w[d].astype(kind, copy=False).T, bias, threads=threads)
            peep = None if p is None else p[d].astype(kind).reshape(3, hidden)
            recurrent = transposed(r, d, kind)
            h, c = last[0, d], last[1, d]
            for t in range(length - 1, -1, -1) if backward else range(length):
                i, o, f, g = np.split(gates[t] + kernels.matmul(h, recurrent, threads=threads), 4, axis=-1)
                if peep is not None:
                    i, f = i + peep[0] * c, f + peep[2] * c
                c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
                if peep is not None:
                    o = o + peep[1] * c
                h = _sigmoid(o) * np.tanh(c)
                y[t, d] = h
            last[0, d], last[1, d] = h, c
        results = (y.transpose(2, 0, 1, 3), *last.swapaxes(1, 2)) if batch_first else (y, *last)
        return tuple(v.astype(x.dtype, copy=False) for v in results)

    return run
