"""The optimizers of distillation, the rates to try for each, and the precisions that are fast on the processor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from lwgraph.passes.recover.soap import WIDEST, Soap

# Highest first. One that a fitted model can stand is often a hundredth of what a badly damaged one learns fastest with.
RATES = {
    "adam": (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6),
    "soap": (3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5),
    "sgd": (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5),
}


def make(name: str, parameters: Iterable[Any], rate: float, decay: float) -> Any:
    """The optimizer of that name; `decay` of the weights is decoupled but for sgd, which has a momentum of 0.9."""
    if name == "soap":
        return Soap(parameters, rate, weight_decay=decay)
    if name == "adam":
        return torch.optim.AdamW(parameters, rate, weight_decay=decay)
    return torch.optim.SGD(parameters, rate, momentum=0.9, nesterov=True, weight_decay=decay)


def state_bytes(name: str, parameters: Iterable[Any]) -> int:
    """Bytes of the state that an optimizer keeps of the parameters."""
    total = 0
    for parameter in parameters:
        size = parameter.element_size()
        total += (1 if name == "sgd" else 2) * size * parameter.numel()
        if name == "soap" and parameter.ndim > 1:
            sides = parameter.shape[0], parameter.numel() // max(1, parameter.shape[0])
            total += sum(2 * size * side * side for side in sides if 1 < side <= WIDEST)
    return total


def processor_has_bfloat16() -> bool:
    """Whether bfloat16 matrix products run in hardware, so that computing in it pays."""
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check is not None and check())


__all__ = ["RATES", "make", "processor_has_bfloat16", "state_bytes"]
