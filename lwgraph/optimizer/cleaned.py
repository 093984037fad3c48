"""What the passes made of the input."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lwgraph import ir
from lwgraph.rewrite import Step


@dataclass(frozen=True, eq=False)
class Cleaned:
    """What the passes made of the input.

    Attributes:
        model: the model.
        recipe: the passes, as text.
        steps: what each did.
        exact: whether all of them keep the outputs, to rounding.
    """

    model: ir.Model
    recipe: str
    steps: tuple[Step, ...]
    exact: bool

    def copy(self) -> Cleaned:
        """One with a copy of the model."""
        return replace(self, model=ir.clone(self.model))


__all__ = ["Cleaned"]
