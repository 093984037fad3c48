"""RNN, GRU and LSTM: the input's part of all gates is one matrix product over the whole sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime import kernels
from lwgraph.runtime.ops.base import Function, Spec, Unsupported, floating, operator, wider

Activation = Callable[[Array], Array]
Cell = Callable[[Array, Array, Array], tuple[Array, Array]]

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}


def _sigmoid(x: Array) -> Array:
    y: Array = 1 / (1 + np.exp(-x))
    return y


# By name in lower case: the function of x, alpha and beta, and the defaults of those two that it has.
ACTIVATIONS: dict[str, tuple[Callable[..., Array], tuple[float, ...]]] = {
    "affine": (lambda x, a, b: a * x + b, (1.0, 0.0)),
    "elu": (lambda x, a: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x), (1.0,)),
    "hardsigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), (0.2, 0.5)),
    "leakyrelu": (lambda x, a: np.where(x < 0, a * x, x), (0.01,)),
    "relu": (lambda x: np.maximum(x, 0), ()),
    "scaledtanh": (lambda x, a, b: a * np.tanh(b * x), (1.0, 1.0)),
    "sigmoid": (_sigmoid, ()),
    "softplus": (lambda x: np.logaddexp(x, x.dtype.type(0)), ()),
    "softsign": (lambda x: x / (1 + np.abs(x)), ()),
    "tanh": (np.tanh, ()),
    "thresholdedrelu": (lambda x, a: np.where(x > a, x, 0), (1.0,)),
}


def _activations(spec: Spec, directions: int) -> list[list[Activation]]:
    """The functions f, g, h of each direction; they take alphas and betas one after the other, where they have such."""
    names = spec.get("activations") or _DEFAULTS[spec.op_type] * directions
    if len(names) != directions * len(_DEFAULTS[spec.op_type]) or not all(n.lower() in ACTIVATIONS for n in names):
        raise Unsupported
    alphas, betas = iter(spec.get("activation_alpha") or ()), iter(spec.get("activation_beta") or ())
    made: list[Activation] = []
    for name in names:
        function, defaults = ACTIVATIONS[name.lower()]
        stated = [next(given, default) for given, default in zip((alphas, betas), defaults, strict=False)]
        made.append(_bound(function, stated))
    each = len(made) // directions
    return [made[k : k + each] for k in range(0, len(made), each)]


def _bound(function: Callable[..., Array], stated: list[float]) -> Activation:
    return (lambda x: np.asarray(function(x, *stated), x.dtype)) if stated else function


def _cell(
    spec: Spec,
    functions: list[Activation],
    product: Callable[[Array, Array], Array],
    r: Array,
    bias: Array | None,
    peep: Array | None,
) -> Cell:
    """One step of one direction: (gates from the input, h, c) to the new h and c.

    Args:
        spec: the node.
        functions: f, g, h.
        product: of matrices.
        r: the recurrence weights (hidden, gates * hidden).
        bias: of GRU's candidate, where it is inside of the reset gate's product; all others are in the gates.
        peep: the peepholes (3, hidden) of LSTM, or None.
    """
    clip, coupled = spec.get("clip"), spec.get("input_forget", 0)
    hidden = r.shape[0]

    def act(function: Activation, x: Array) -> Array:
        return function(np.clip(x, -clip, clip) if clip else x)

    def rnn(gates: Array, h: Array, c: Array) -> tuple[Array, Array]:
        return act(functions[0], gates + product(h, r)), c

    def gru(gates: Array, h: Array, c: Array) -> tuple[Array, Array]:
        z, reset = np.split(act(functions[0], gates[:, : 2 * hidden] + product(h, first)), 2, axis=-1)
        inner = product(reset * h, rest) if bias is None else reset * (product(h, rest) + bias)
        candidate = act(functions[1], gates[:, 2 * hidden :] + inner)
        return (1 - z) * candidate + z * h, c

    def lstm(gates: Array, h: Array, c: Array) -> tuple[Array, Array]:
        f_, g_, h_ = functions
        i, o, f, g = np.split(gates + product(h, r), 4, axis=-1)
        if peep is not None:
            i, f = i + peep[0] * c, f + peep[2] * c
        i = act(f_, i)
        f = 1 - i if coupled else act(f_, f)
        c = f * c + i * act(g_, g)
        if peep is not None:
            o = o + peep[1] * c
        return act(f_, o) * h_(c), c

    if spec.op_type == "GRU":
        first, rest = (np.ascontiguousarray(part) for part in (r[:, : 2 * hidden], r[:, 2 * hidden :]))
    return {"RNN": rnn, "GRU": gru, "LSTM": lstm}[spec.op_type]


# Of one direction: the input's part of all gates, with a bias; the recurrence weights (hidden, gates * hidden); and the
# product of states and these, or a part of their columns.
Products = tuple[Callable[[Array, Array], Array], Array, Callable[[Array, Array], Array]]


@operator("RNN", "GRU", "LSTM")
def recurrent(spec: Spec) -> Function:
    """RNN, GRU and LSTM from version 7 on."""
    if spec.version < 7:
        raise Unsupported
    threads = spec.options.threads
    by_rows: dict[int, Array] = {}  # constant recurrence weights, transposed once
    walk = unrolled(spec)

    def transposed(r: Array, d: int, kind: np.dtype[Any]) -> Array:
        if spec.constant(2) is not r:
            return np.ascontiguousarray(r[d].T, kind)
        if d not in by_rows:
            by_rows[d] = np.ascontiguousarray(r[d].T, kind)
        return by_rows[d]

    def run(x: Array, w: Array, r: Array, *others: Array | None) -> tuple[Array, ...]:
        def products(d: int, kind: np.dtype[Any]) -> Products:
            def given(steps: Array, bias: Array) -> Array:
                return kernels.matmul(steps, w[d].astype(kind, copy=False).T, bias, threads=threads)

            return given, transposed(r, d, kind), lambda a, b: kernels.matmul(a, b, threads=threads)

        return walk(x, products, *others)

    return run


def unrolled(spec: Spec) -> Callable[..., tuple[Array, ...]]:
    """A function of x, of `products(direction, type)`, which gives `Products`, and of the inputs behind the weights."""
    direction, batch_first = spec.get("direction", "forward"), spec.get("layout", 0)
    directions, count = 2 if direction == "bidirectional" else 1, GATES[spec.op_type]
    functions = _activations(spec, directions)
    precise = spec.options.precise
    inside = spec.op_type == "GRU" and spec.get("linear_before_reset", 0)

    def biases(b: Array | None, d: int, hidden: int, kind: np.dtype[Any]) -> tuple[Array, Array | None]:
        """What is added to the gates, and inside of the reset gate's product."""
        if b is None:
            return np.zeros(count * hidden, kind), np.zeros(hidden, kind) if inside else None
        given, recurrence = np.split(b[d], 2)
        if not inside:
            return (given + recurrence).astype(kind), None
        outer = given.copy()
        outer[: 2 * hidden] += recurrence[: 2 * hidden]
        return outer.astype(kind), recurrence[2 * hidden :].astype(kind)

    def run(
        x: Array,
        products: Callable[[int, np.dtype[Any]], Products],
        b: Array | None = None,
        lengths: Array | None = None,
        h0: Array | None = None,
        c0: Array | None = None,
        p: Array | None = None,
    ) -> tuple[Array, ...]:
        floating(x)
        kind = wider(x[:0], precise).dtype
        steps = (x.swapaxes(0, 1) if batch_first else x).astype(kind, copy=False)
        length, batch, _ = steps.shape
        each = [products(d, kind) for d in range(directions)]
        hidden = each[0][1].shape[0]
        y = np.empty((length, directions, batch, hidden), kind)
        last = np.zeros((2, directions, batch, hidden), kind)
        for state, start in zip(last, (h0, c0), strict=True):
            if start is not None:
                state[...] = start.swapaxes(0, 1) if batch_first else start
        for d, (given, weights, product) in enumerate(each):
            outer, bias = biases(b, d, hidden, kind)
            gates = given(np.ascontiguousarray(steps), outer)
            peep = None if p is None else p[d].astype(kind).reshape(3, hidden)
            cell = _cell(spec, functions[d], product, weights, bias, peep)
            h, c = last[0, d], last[1, d]
            backward = direction == "reverse" or d == 1
            if lengths is None:
                for t in range(length - 1, -1, -1) if backward else range(length):
                    h, c = cell(gates[t], h, c)
                    y[t, d] = h
            else:  # each sample begins with the first step; one that is shorter keeps its state then, and gives zeros
                ends, rows = np.asarray(lengths), np.arange(batch)
                y[:, d] = 0
                for step in range(length):
                    live = step < ends
                    at = np.where(live, ends - 1 - step, step) if backward else np.full(batch, step)
                    # Behind its end a sample has zeros, which products that put all samples on one grid see.
                    new_h, new_c = cell(gates[at, rows], h * (step <= ends)[:, None], c)
                    h, c = np.where(live[:, None], new_h, h), np.where(live[:, None], new_c, c)
                    y[at[live], d, rows[live]] = new_h[live]
            last[0, d], last[1, d] = h, c
        states = last if spec.op_type == "LSTM" else last[:1]
        results = (y.transpose(2, 0, 1, 3), *states.swapaxes(1, 2)) if batch_first else (y, *states)
        return tuple(v.astype(x.dtype, copy=False) for v in results)

    return run
