"""The unit in which stages state their time: the float network, run once over all inputs for fits and for judging."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from lwgraph import ir
from lwgraph.calibrate.subsample import spread
from lwgraph.executor import Executor, Feeds, untimed

TIMED, SECONDS = 8, 1.0  # samples that the float network is timed on, at most, and about how long that may take


@dataclass(frozen=True)
class Cost:
    """What a stage is predicted to take.

    Attributes:
        passes: over the data, of running networks.
        seconds: of what does not grow with the data: timing, solving, loading.
    """

    passes: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.passes + other.passes, self.seconds + other.seconds)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.passes * times, self.seconds * times)


@dataclass(frozen=True)
class DataPass:
    """One pass over the data, in seconds as they were at the start of the run.

    Attributes:
        sample: seconds of the float network on one sample to fit to, on all cores.
        samples: to fit to and to compare plans on.
        look: seconds of judging one model on the samples on which candidates are compared.
        looked: their share of all samples for judging.
    """

    sample: float
    samples: int
    look: float
    looked: float = 1.0

    @property
    def seconds(self) -> float:
        """The whole pass, over 0."""
        return max(self.sample * self.samples + self.look / self.looked, 1e-9)

    def runs(self, samples: float) -> float:
        """Running the float network on so many samples to fit to, in passes."""
        return self.sample * samples / self.seconds

    def looks(self, number: float) -> float:
        """Judging so many models, in passes."""
        return self.look * number / self.seconds

    def total(self, cost: Cost) -> float:
        """A cost in passes, its seconds included."""
        return cost.passes + cost.seconds / self.seconds


def sample_seconds(model: ir.Model, feeds: Sequence[Feeds], executor: Executor) -> float:
    """Seconds of one untimed run: the mean over a few samples, since these may differ in size."""
    run = untimed(executor).prepare(model)
    few = spread(feeds, TIMED)
    run(few[0])  # the first run allocates
    spent = done = 0.0
    for feed in few:
        start = time.perf_counter()
        run(feed)
        spent, done = spent + time.perf_counter() - start, done + 1
        if spent > SECONDS:
            break
    return spent / done


__all__ = ["Cost", "DataPass", "sample_seconds"]
