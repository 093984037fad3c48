"""LSTM, GRU and RNN, step by step, so that every option of ONNX is the same code and gradients are autograd's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from lwgraph.runtime.torch_ops.table import Compute, Op, Tensor, operator

ActivationFunction = Callable[[Tensor], Tensor]

_ACTIVATIONS: dict[str, Callable[[Any, Any], ActivationFunction]] = {
    "relu": lambda a, b: torch.relu,
    "tanh": lambda a, b: torch.tanh,
    "sigmoid": lambda a, b: torch.sigmoid,
    "affine": lambda a, b: lambda x: (1.0 if a is None else a) * x + (0.0 if b is None else b),
    "leakyrelu": lambda a, b: lambda x: F.leaky_relu(x, 0.01 if a is None else a),
    "thresholdedrelu": lambda a, b: lambda x: torch.where(x > (1.0 if a is None else a), x, torch.zeros_like(x)),
    "scaledtanh": lambda a, b: lambda x: (1.0 if a is None else a) * torch.tanh((1.0 if b is None else b) * x),
    "hardsigmoid": lambda a, b: lambda x: torch.clamp((0.2 if a is None else a) * x + (0.5 if b is None else b), 0, 1),
    "elu": lambda a, b: lambda x: F.elu(x, 1.0 if a is None else a),
    "softsign": lambda a, b: F.softsign,
    "softplus": lambda a, b: F.softplus,
}
_TAKES_ALPHA = {"affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"}
_TAKES_BETA = {"affine", "scaledtanh", "hardsigmoid"}
_DEFAULTS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _activations(op: Op, directions: int) -> list[list[ActivationFunction]]:
    """The activation functions of each direction; alpha and beta are handed out in order to those that take them."""
    kind = op.node.op_type
    given = [str(n).lower() for n in op.attr("activations") or ()] or _DEFAULTS[kind] * directions
    alphas, betas = list(op.attr("activation_alpha") or ()), list(op.attr("activation_beta") or ())
    built = []
    for name in given:
        if name not in _ACTIVATIONS:
            raise op.refuse(f"activation '{name}' is unknown; one of {', '.join(_ACTIVATIONS)}")
        alpha = alphas.pop(0) if alphas and name in _TAKES_ALPHA else None
        beta = betas.pop(0) if betas and name in _TAKES_BETA else None
        built.append(_ACTIVATIONS[name](alpha, beta))
    size = len(_DEFAULTS[kind])
    return [built[d * size : (d + 1) * size] for d in range(directions)]


@operator("LSTM", "GRU", "RNN")
def _recurrent(op: Op) -> Compute:
    kind, direction = op.node.op_type, op.attr("direction", "forward")
    reverse = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    functions, batch_first = _activations(op, len(reverse)), op.attr("layout", 0)
    step_of = {"LSTM": _lstm_step, "GRU": _gru_step, "RNN": _rnn_step}[kind]

    def compute(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        h0: Tensor | None = None,
        c0: Tensor | None = None,
        p: Tensor | None = None,
    ) -> Any:
        x, h0, c0 = (t if t is None or not batch_first else t.transpose(0, 1) for t in (x, h0, c0))
        hidden, gates = r.shape[-1], _GATES[kind]
        ys, hs, cs = [], [], []
        for d, backwards in enumerate(reverse):
            zero = x.new_zeros((x.shape[1], hidden))
            state = (zero if h0 is None else h0[d], zero if c0 is None else c0[d])
            bias = x.new_zeros(2 * gates * hidden) if b is None else b[d]
            step = step_of(op, functions[d], r[d], bias, None if p is None else p[d])
            sequence = _reversed(x, lengths) if backwards else x
            y, state = _scan(F.linear(sequence, w[d], bias[: gates * hidden]), state, step, lengths)
            ys.append(_reversed(y, lengths) if backwards else y)
            hs.append(state[0])
            cs.append(state[1])
        y, h, c = torch.stack(ys, 1), torch.stack(hs), torch.stack(cs)
        if batch_first:
            y, h, c = y.permute(2, 0, 1, 3), h.transpose(0, 1), c.transpose(0, 1)
        return (y, h, c) if kind == "LSTM" else (y, h)

    return compute


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each sequence (time first) backwards within its own length."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0])[:, None]
    back = lengths.to(torch.int64)[None] - 1 - steps
    index = torch.where(back >= 0, back, steps.expand_as(back))
    return x.gather(0, index[..., None].expand(-1, -1, x.shape[2]))


def _scan(
    inputs: Tensor, state: tuple[Tensor, Tensor], step: Compute, lengths: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run the steps; past a sequence's length its output is zero and its state stays."""
    outputs = []
    for t in range(inputs.shape[0]):
        new = step(inputs[t], *state)
        if lengths is None:
            state = new
            outputs.append(new[0])
        else:
            live = (t < lengths)[:, None]
            state = (torch.where(live, new[0], state[0]), torch.where(live, new[1], state[1]))
            outputs.append(torch.where(live, new[0], torch.zeros_like(new[0])))
    return torch.stack(outputs), state


def _clip(op: Op) -> ActivationFunction:
    limit = op.attr("clip")
    return (lambda x: x) if not limit else lambda x: torch.clamp(x, -limit, limit)


def _lstm_step(op: Op, functions: list[ActivationFunction], r: Tensor, bias: Tensor, p: Tensor | None) -> Compute:
    f, g, h = functions
    clip, coupled = _clip(op), op.attr("input_forget", 0)
    hidden = r.shape[-1]
    pi, po, pf = (0.0, 0.0, 0.0) if p is None else p.split(hidden)

    def step(x: Tensor, state: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        i, o, forget, c = F.linear(state, r, bias[4 * hidden :]).add(x).chunk(4, -1)
        i = f(clip(i + pi * cell))
        forget = 1 - i if coupled else f(clip(forget + pf * cell))
        cell = forget * cell + i * g(clip(c))
        return f(clip(o + po * cell)) * h(cell), cell

    return step


def _gru_step(op: Op, functions: list[ActivationFunction], r: Tensor, bias: Tensor, p: Tensor | None) -> Compute:
    f, g = functions
    clip, before = _clip(op), op.attr("linear_before_reset", 0)
    hidden = r.shape[-1]
    rz, rh = r[: 2 * hidden], r[2 * hidden :]
    bz, bh = bias[3 * hidden : 5 * hidden], bias[5 * hidden :]

    def step(x: Tensor, state: Tensor, unused: Tensor) -> tuple[Tensor, Tensor]:
        z, reset = f(clip(x[:, : 2 * hidden] + F.linear(state, rz, bz))).chunk(2, -1)
        if before:
            candidate = g(clip(x[:, 2 * hidden :] + reset * F.linear(state, rh, bh)))
        else:
            candidate = g(clip(x[:, 2 * hidden :] + F.linear(reset * state, rh, bh)))
        return (1 - z) * candidate + z * state, unused

    return step


def _rnn_step(op: Op, functions: list[ActivationFunction], r: Tensor, bias: Tensor, p: Tensor | None) -> Compute:
    clip, hidden = _clip(op), r.shape[-1]

    def step(x: Tensor, state: Tensor, unused: Tensor) -> tuple[Tensor, Tensor]:
        return functions[0](clip(x + F.linear(state, r, bias[hidden:]))), unused

    return step
