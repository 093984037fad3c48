"""How much memory a run may take for statistics, fits and trials."""

from __future__ import annotations

from dataclasses import dataclass, field

import psutil

from lwgraph import heap, ir
from lwgraph.ir.tensors import MappedTensor

SHARE = 0.5  # of what is free, where nothing is stated
LEAST = 256 << 20  # bytes with which any run can work
MODEL = 1.5  # times the model's bytes that a run may take beside the allowance
MODELS = 1 / 8  # of the allowance that one model, or those that nobody works on, may take in memory
SESSIONS = 0.25  # of the allowance that sessions may take beside that


def allowance(stated: float | None) -> int:
    """Bytes that a run may take together: what was stated, else half of what is free."""
    found = SHARE * psutil.virtual_memory().available if stated is None else stated
    return max(LEAST, int(found))


def room_of_sessions(memory: int, model: int) -> float:
    """Bytes of weights that sessions may hold together.

    Args:
        memory: the allowance.
        model: bytes of the input's weights.
    """
    return MODEL * model + SESSIONS * memory


def keep_on_disk(model: ir.Model, memory: int | None) -> ir.Model:
    """The model, whose large weights lie in a temporary file now where they took more than MODELS of the allowance."""
    if memory is not None and weights(model, in_memory=True) > MODELS * memory:
        ir.spill(model)
    return model


@dataclass
class Garbage:
    """Frees models that were let go, once they may hold more than an allowance has room for.

    Graphs are cycles, which the collector finds by the number of objects, whatever the arrays in them take: of models
    with 400 MB of weights it leaves several.

    Attributes:
        most: bytes by which this process may grow before the collector is called.
    """

    most: int
    _least: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._least = heap.resident()

    def check(self) -> None:
        """Call the collector where the process grew by that much since its least size, or since the last call."""
        now = heap.resident()
        if now > self._least + self.most:
            heap.collect()
            self._least = heap.resident()
        self._least = min(self._least, now)


def weights(model: ir.Model, *, in_memory: bool = False) -> int:
    """Bytes of the main graph's initializers; without those in files where only what is in memory counts."""
    held = [value.const_value for value in model.graph.initializers.values()]
    return sum(t.nbytes for t in held if t is not None and not (in_memory and isinstance(t, MappedTensor)))


__all__ = [
    "LEAST",
    "MODELS",
    "SHARE",
    "Garbage",
    "allowance",
    "keep_on_disk",
    "room_of_sessions",
    "weights",
]
