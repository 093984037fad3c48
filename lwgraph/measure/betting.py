"""Whether a mean is over a limit, told as early as samples allow, however often one looks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from lwgraph.arrays import Floats

_CAUTION = 0.5  # of the largest stake that no sample can turn into debts


@dataclass
class Bet:
    """A test of "the mean of bounded values is at most `limit`", which may be looked at after every value.

    Money is staked on each value being over the limit, more where those before it were. If the mean is at most the
    limit, whatever stakes were chosen before each value, the capital grows to 1 / level with a probability of at most
    `level`, ever (Ville's inequality). So "the mean is over the limit" is wrong with at most that probability, whenever
    one stops: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, J. R. Stat. Soc. B
    2024, section 4; stakes are near what would have let it grow most on the values before (B.3, aGRAPA).

    The values must come in an order that has nothing to do with them.

    Attributes:
        limit: of the mean.
        lowest: that no value goes below.
        level: the probability of a wrong answer.
    """

    limit: float
    lowest: float
    level: float
    _log: float = field(default=0.0, repr=False)  # of the capital
    _sum: float = field(default=0.0, repr=False)  # of what was over the limit, and of its squares
    _squares: float = field(default=0.0, repr=False)

    def add(self, values: Floats) -> bool:
        """Take in values (n,), in order; whether the mean is surely over the limit by now."""
        most = _CAUTION / max(self.limit - self.lowest, 1e-12)
        for over in (np.asarray(values, np.float64) - self.limit).tolist():
            if self.over:
                break
            stake = min(self._sum / self._squares, most) if self._sum > 0 else 0.0
            self._log += math.log1p(stake * over)
            self._sum, self._squares = self._sum + over, self._squares + over * over
        return self.over

    @property
    def over(self) -> bool:
        """Whether the mean is surely over the limit."""
        return self._log >= -math.log(self.level)


__all__ = ["Bet"]
