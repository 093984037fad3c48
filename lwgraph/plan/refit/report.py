"""The report of a sequential refit."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LayerRefit:
    """The outcome at one layer.

    Attributes:
        name: of the layer.
        how: "form" (all factors of a form), "last" (the last factors of a form), "weight" (a plain layer), "affine"
            (scale and shift of a plain layer), or "" when it stays as it was.
        before, after: held-out ||Y - Yhat||^2 / ||Y - mean Y||^2 against the original's output.
        reason: why it stays; "" otherwise.
    """

    name: str
    how: str
    before: float
    after: float
    reason: str = ""


@dataclass
class RefitReport:
    """The outcome of a refit.

    Attributes:
        before, after: held-out error of the model's outputs, ||Y - Yhat||^2 / ||Y - mean Y||^2, the mean over the
            outputs; nan where no output can be compared.
        layers: one record per layer that was looked at, in order.
        kept: how many of the refitted layers, from the first on, stand; the others were undone, because with them the
            outputs come less near to the original's.
    """

    before: float
    after: float
    layers: list[LayerRefit] = field(default_factory=list)
    kept: int = 0

    @property
    def refitted(self) -> int:
        """The number of layers refitted, those undone at the end included."""
        return sum(bool(layer.how) for layer in self.layers)


__all__ = ["LayerRefit", "RefitReport"]
