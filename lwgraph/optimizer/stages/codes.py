"""Weights in few bits: where bytes are what is asked for, on top of the best plans so far."""

from __future__ import annotations

from dataclasses import replace

from lwgraph import registry
from lwgraph.layers.site import find_sites
from lwgraph.optimizer.data_pass import Cost, DataPass
from lwgraph.optimizer.stages.base import Work
from lwgraph.plan.carry_out import RANGE_SAMPLES, RANGE_SECONDS, affordable
from lwgraph.plan.roles import CODES, CodesWeights
from lwgraph.plan.search.front import Candidate
from lwgraph.plan.search.integers import survey

ORIGIN = "codes"
FIRST = 4  # bits that are tried first
STEPS = 4  # mixtures of two widths that are tried, at most
LOOKS = 8  # that one base may take, about


class Codes:
    """Proposes the incumbent, and the cleaned model, with weights as codes: of one width, then of two mixed."""

    name = "codes"
    share = 0.5

    def idle(self, work: Work) -> str:
        """Why there are none."""
        if work.request.objective != "bytes" and work.request.max_bytes is None:
            return "bytes are not asked for"
        if CODES not in registry.names("roles"):
            return "nothing is installed that stores weights as codes"
        standing = work.candidates.incumbent.candidate or work.candidates.base
        if work.request.objective != "bytes" and work.candidates.meets(standing):
            return "the limits are kept without them"
        return ""

    def cost(self, work: Work, unit: DataPass) -> Cost:
        """A few looks at each of two bases."""
        look = work.look_cost(unit)
        return Cost(look.passes * 2 * LOOKS, look.seconds * 2 * LOOKS)

    def run(self, work: Work) -> Work:
        """For each base: four bits; fewer while that keeps the promise, more until it does; then a mixture."""
        incumbent = work.candidates.incumbent
        bases = [incumbent.candidate or work.candidates.base, work.candidates.base]
        for base in {each.key: each for each in bases}.values():
            with work.context.failures.guard(f"codes on the plan '{base.origin}'"):
                _Widths(work, base).find()
        return work


class _Widths:
    """The fewest bits that the weights of one candidate can do with."""

    def __init__(self, work: Work, base: Candidate) -> None:
        self.work, self.base = work, base
        self.coder = registry.role(CODES, CodesWeights)

    def find(self) -> None:
        """Look at one width after another, then at mixtures of the fewest bits that hold and the next fewer."""
        widths = sorted(self.coder.bits, reverse=True)
        at = widths.index(FIRST) if FIRST in widths else len(widths) // 2
        if self.look((widths[at], ())):
            while at + 1 < len(widths) and self.look((widths[at + 1], ())):
                at += 1
        else:
            at -= 1
            while at >= 0 and not self.look((widths[at], ())):
                at -= 1
        if 0 <= at < len(widths) - 1:
            self.mix(widths[at], widths[at + 1])

    def mix(self, good: int, fewer: int) -> None:
        """As many layers in fewer bits as the promise allows, by bisection in the order of `order`."""
        layers = self.order()
        low, high = 0, len(layers)
        for _ in range(STEPS):
            middle = (low + high) // 2
            if middle in (low, high):
                break
            if self.look((fewer, tuple(layers[middle:])), (good, ())):
                low = middle
            else:
                high = middle

    def order(self) -> list[str]:
        """The layers whose bits save most for the damage that their integers do first."""
        work = self.work
        sizes = {site.name: site.outputs * site.fan_in for site in find_sites(work.clean, work.shapes)}
        damage: dict[str, float] = {}
        with work.context.failures.guard("codes: the order of layers"):
            samples = affordable(RANGE_SAMPLES, RANGE_SECONDS, work.float_ms)
            damage = survey(work.clean, work.context, samples=samples).damage
        typical = sorted(damage.values())[len(damage) // 2] if damage else 1.0
        return sorted(sizes, key=lambda name: (damage.get(name, typical) / sizes[name], name))

    def look(self, *steps: tuple[int, tuple[str, ...]]) -> bool:
        """Look at the base with its weights in codes: of how many bits, and which layers each step spares."""
        plan = self.base.plan
        assert plan is not None
        coded = tuple(str(self.coder.coded(bits, spared)) for bits, spared in steps)
        plan = replace(plan, precision=replace(plan.precision, passes=(*coded, *plan.precision.passes)))
        proposed = replace(self.base, choice=(), origin=ORIGIN, plan=plan, stated=True, measured_ms=None)
        return self.work.candidates.look(replace(proposed, accepted=None, judged=None))


__all__ = ["Codes"]
