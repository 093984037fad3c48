"""What a stage is, and what it has to work with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from lwgraph import ir
from lwgraph.arrays import Shapes
from lwgraph.calibrate.subsample import spread
from lwgraph.executor import Executor, Feeds
from lwgraph.failures import Failures
from lwgraph.layers.site import find_sites
from lwgraph.optimizer.candidates import Candidates
from lwgraph.optimizer.clock import Clock
from lwgraph.optimizer.data_pass import Cost, DataPass
from lwgraph.optimizer.inputs import Inputs
from lwgraph.optimizer.making import Making, Trunk
from lwgraph.optimizer.request import Request
from lwgraph.optimizer.setting import Setting
from lwgraph.optimizer.target import MACS
from lwgraph.plan import precision
from lwgraph.plan.choices import Precision
from lwgraph.plan.precision import FLOAT
from lwgraph.plan.price.oracle import Oracle
from lwgraph.plan.search.plan_search import Search
from lwgraph.rewrite import Context
from lwgraph.views.coupling import couple_channels

LEAST, MOST = 8, 64  # samples that the loss of a plan is measured on
LOOK_SECONDS = 2.0  # of timing one candidate, about
TRIAL_SECONDS = 2.0  # of running one trial plan to measure its loss, about
# What a stage's cost is predicted from: float runs that one sample takes where ranges are observed with all ways to
# choose them, and where two networks are walked to refit one of them; seconds of observing one node on one sample, and
# of putting one node into integers in all these ways, beside running it; seconds of linear algebra for each layer of a
# refit, of measuring one price, and of proving a plan.
OBSERVED, WALKED = 3.0, 10.0
OBSERVED_SECONDS, WRITTEN_SECONDS = 3e-4, 4e-2
FIT_SECONDS, PRICE_SECONDS, PROOF_SECONDS = 0.1, 0.1, 1.0


@dataclass
class IntegerFindings:
    """What was found out about integers so far: later stages know it, also where the one that did was stopped.

    Attributes:
        way: the pass that puts all layers into integers, as a plan spells it; "" where nothing was said of it.
        running: the layers that are in integers whose grids are taken as the model runs; None where none are.
        spared: names of layers that no plan of the search puts into integers.
        static: whether plans of the search may take grids from data.
    """

    way: str = ""
    running: Precision | None = None
    spared: tuple[str, ...] = ()
    static: bool = True

    @property
    def hasty(self) -> bool:
        """Whether there is no time to find out how each layer is best put into them."""
        return self.way != "" and self.way == precision.spelling(quick=True)


@dataclass(frozen=True, eq=False)
class Work:
    """What a stage has to work with; a stage that finds another trunk or opens a search returns another.

    Attributes:
        setting: what all steps of the run share.
        clean: the cleaned model; no stage changes it.
        shapes: its measured sizes by value name.
        context: with statistics of the cleaned model, data, and where refusals and failures are recorded.
        oracle: prices on the target.
        here: prices on this machine.
        float_ms: milliseconds of one run of the cleaned model here.
        candidates: takes proposals.
        making: carries candidates out.
        trunk: what the chosen structure leaves of the cleaned model.
        search: of forms and precisions on the trunk, once it was begun.
        integers: what was found out about integers.
    """

    setting: Setting
    clean: ir.Model
    shapes: Shapes
    context: Context
    oracle: Oracle
    here: Oracle
    float_ms: float
    candidates: Candidates
    making: Making
    trunk: Trunk
    search: Search | None = None
    integers: IntegerFindings = field(default_factory=IntegerFindings)

    @property
    def request(self) -> Request:
        """What was asked for."""
        return self.setting.request

    @property
    def inputs(self) -> Inputs:
        """What to fit, compare and judge on."""
        return self.setting.inputs

    @property
    def executor(self) -> Executor:
        """The target, or what stands for it here."""
        return self.setting.executor

    @property
    def clock(self) -> Clock:
        """The time of the run."""
        return self.setting.clock

    @property
    def precisions(self) -> tuple[str, ...]:
        """What layers may be computed in."""
        integers = precision.available() and self.request.target != MACS
        return (precision.FLOAT, precision.INT8) if integers else (precision.FLOAT,)

    def milliseconds(self, model: ir.Model, seconds: float = LOOK_SECONDS) -> float:
        """Milliseconds of one run on the target, by the clock on which the cleaned model takes `float_ms`."""
        return self.oracle.against(self.clean, self.float_ms, model, self.inputs.probe, seconds)

    def look_cost(self, unit: DataPass, *, refits: bool = True) -> Cost:
        """What looking at one plan is predicted to take: to make, judge, time and prove it."""
        taken, nodes = self.making.samples, len(self.clean.graph)
        ranged = unit.samples if taken.ranges is None else min(taken.ranges, unit.samples)
        walked = taken.refit if refits else 0
        passes = unit.looks(1) + unit.runs(OBSERVED * ranged + WALKED * min(walked, unit.samples))
        algebra = FIT_SECONDS * self.layers if refits else 0.0
        seconds = algebra + nodes * (OBSERVED_SECONDS * ranged + WRITTEN_SECONDS)
        return Cost(passes, seconds + LOOK_SECONDS + PROOF_SECONDS)

    @cached_property
    def layers(self) -> int:
        """How many dense layers the cleaned model has."""
        return len(find_sites(self.clean, self.shapes))

    @cached_property
    def groups(self) -> int:
        """How many groups of channels of the cleaned model may be narrowed."""
        return sum(not group.frozen for group in couple_channels(self.clean).groups)

    def samples(self, milliseconds: float, seconds: float = TRIAL_SECONDS, least: int = LEAST) -> Sequence[Feeds]:
        """As many of the samples for comparing as a network of `milliseconds` runs on in `seconds`, within bounds."""
        wanted = int(1e3 * seconds / max(milliseconds, 1e-3))
        return spread(self.inputs.search, min(max(wanted, least), MOST))


def layer_times(
    model: ir.Model, oracle: Oracle, shapes: Shapes, failures: Failures, kind: str = FLOAT
) -> dict[str, float]:
    """Milliseconds of each layer in one precision, by its node's name; inf where it is not computed in that.

    A layer whose price cannot be measured is left out, and recorded in `failures`.
    """
    times: dict[str, float] = {}
    for site in find_sites(model, shapes):
        with failures.guard(f"the price of layer '{site.name}'"):
            times[site.node.name or str(site.output.name)] = oracle.prices(site, [None], kind)[0].ms
    return times


class Stage(Protocol):
    """One step of a run that proposes candidates.

    A stage may fail in any way and be stopped at any time: what it proposed before then counts.

    Attributes:
        name: for the report.
        share: of the time that is left, what it may take at most.
        searches: whether it ends with the search, where that is limited; else with the budget only.
    """

    name: str
    share: float
    searches: bool

    def idle(self, work: Work) -> str:
        """Why there is nothing for it to do; "" when there is something."""
        ...

    def cost(self, work: Work, unit: DataPass) -> Cost:
        """What it is predicted to take, before it begins; asked only where it has something to do."""
        ...

    def run(self, work: Work) -> Work:
        """Propose candidates to `work.candidates`; return what later stages start from."""
        ...


def short(stage: Stage, work: Work, share: float = 1.0) -> bool:
    """Whether a stage is predicted to take more than a share of the time that is left."""
    unit = work.setting.data_pass
    if unit is None or math.isinf(work.clock.left):
        return False
    return unit.total(stage.cost(work, unit)) * unit.seconds > share * work.clock.left


__all__ = [
    "LEAST",
    "LOOK_SECONDS",
    "MOST",
    "TRIAL_SECONDS",
    "IntegerFindings",
    "Stage",
    "Work",
    "layer_times",
    "short",
]
