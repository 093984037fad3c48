"""Which plan of a ladder to look at next, so that few looks find the first good one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

POWER, LEAST_POWER, MOST_POWER = 0.75, 0.3, 1.5  # of the loss on the search's samples that a metric loses, about
TOLD = 0.1  # share of what may be lost below which a metric says little of how much more could be
TELLING = 2  # looks that told how much was lost, after which they are believed
ALIKE = 3  # looks in a row that came out alike, after which the middle is taken


@dataclass
class Bracket:
    """The part of a ladder in which the first good plan lies; it is empty once that is known, or sure enough.

    What the metric loses grows about as a power of the loss on the samples of the search: the next look goes to where
    the looks so far put what may be lost (regula falsi), to the middle where these tell nothing, or on one side only.
    On few samples looks tell little: where a plan of more loss is seen to lose less, both count as one, which tells
    nothing unless it exceeds half of what they differ by.

    Attributes:
        losses: of the plans, falling: those that come later are more likely to be good.
        allowed: what the metric may lose.
        low, high: the first good one is among ladder[low:high], or is ladder[high].
    """

    losses: Sequence[float]
    allowed: float
    low: int = 0
    high: int = field(init=False)
    _seen: list[tuple[float, float]] = field(init=False, default_factory=list)
    _sides: list[bool] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.high = len(self.losses)

    def __bool__(self) -> bool:
        if self.low >= self.high or self.high == len(self.losses) or len(self._told()) < TELLING:
            return self.low < self.high
        target = self._target()
        return target is None or bool(self.losses[self.high - 1] <= target)

    def pick(self) -> int:
        """The number of the plan to look at."""
        target, last = self._target(), self._sides[-ALIKE:]
        if target is None or (len(last) == ALIKE and len(set(last)) == 1):
            return (self.low + self.high) // 2
        return next((i for i in range(self.low, self.high) if self.losses[i] <= target), self.high - 1)

    def learn(self, number: int, good: bool, lost: float | None) -> None:
        """Take in a look.

        Args:
            number: of the plan.
            good: whether it keeps the promise.
            lost: of the metric; None where that is not known.
        """
        self.low, self.high = (self.low, number) if good else (number + 1, self.high)
        self._sides.append(good)
        self.hear(self.losses[number], lost)

    def hear(self, loss: float, lost: float | None) -> None:
        """Take in what the metric lost with a plan of this loss, of the ladder or not; None: not known."""
        if lost is not None and math.isfinite(lost) and 0 < loss < math.inf:
            self._seen.append((math.log(loss), lost))

    def _told(self) -> list[tuple[float, float]]:
        """Logarithms of the loss and of what the metric lost, where looks tell that; both grow."""
        blocks: list[list[tuple[float, float]]] = []
        for look in sorted(self._seen):
            blocks.append([look])
            while len(blocks) > 1 and _middle(blocks[-1])[1] <= _middle(blocks[-2])[1]:
                blocks[-2:] = [blocks[-2] + blocks[-1]]  # as in an isotonic regression
        told = []
        for block in blocks:
            (at, lost), values = _middle(block), [each[1] for each in block]
            if lost > max(TOLD * self.allowed, (max(values) - min(values)) / 2):
                told.append((at, math.log(lost)))
        return told

    def _target(self) -> float | None:
        """The loss at which the metric loses what is allowed, as far as the looks tell; None: not at all."""
        if not (self.allowed > 0 and (told := self._told())):
            return None
        wanted = math.log(self.allowed)
        nearest = sorted(told, key=lambda pair: abs(pair[1] - wanted))[:2]
        power = POWER
        if len(nearest) == 2 and nearest[0][0] != nearest[1][0]:
            power = (nearest[1][1] - nearest[0][1]) / (nearest[1][0] - nearest[0][0])
        at, lost = nearest[0]
        return math.exp(at + (wanted - lost) / float(np.clip(power, LEAST_POWER, MOST_POWER)))


def _middle(looks: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The mean of several looks."""
    return sum(at for at, _ in looks) / len(looks), sum(lost for _, lost in looks) / len(looks)


__all__ = ["Bracket"]
