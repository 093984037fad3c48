"""Weights in few bits: where bytes are what is asked for, on top of the best plans so far."""

from __future__ import annotations

import math
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
LOOKS = 6  # that one base takes, about


class Codes:
    """Proposes the best plans, and the cleaned model, with weights as codes: of one width, then of two mixed.

    It stands twice in a run: at the end, on what was found; and, where time is short, as soon as there are integers, so
    that whatever comes of the rest there is a model of few bytes.

    Args:
        name: for the report.
        early: whether others follow that find plans: then it works under a budget only, and on one plan.
    """

    share = 0.5
    searches = True

    def __init__(self, name: str = "codes", *, early: bool = False) -> None:
        self.name, self.early = name, early

    def idle(self, work: Work) -> str:
        """Why there are none."""
        request = work.request
        if request.objective != "bytes" and request.max_bytes is None:
            return "bytes are not asked for"
        if CODES not in registry.names("roles"):
            return "nothing is installed that stores weights as codes"
        if request.objective != "bytes" and work.candidates.meets(self._bases(work)[0]):
            return "the limits are kept without them"
        if self.early and math.isinf(work.clock.left):
            return "there is time for them when all plans are found"
        return ""

    def cost(self, work: Work, unit: DataPass) -> Cost:
        """A few looks at each base."""
        look, looks = work.look_cost(unit), len(self._bases(work)) * LOOKS
        return Cost(look.passes * looks, look.seconds * looks)

    def run(self, work: Work) -> Work:
        """For each base: four bits; fewer while that keeps the promise, more until it does; then a mixture."""
        for base in self._bases(work):
            with work.context.failures.guard(f"codes on the plan '{base.origin}'"):
                _Widths(work, base).find()
        return work

    def _bases(self, work: Work) -> list[Candidate]:
        """Of the plans without codes that are good, the best and the smallest; and the cleaned model."""
        candidates = work.candidates
        plain = [made.candidate for made in candidates.good() if not made.candidate.coded] or [candidates.base]
        bases = [min(plain, key=candidates.amount), min(plain, key=lambda each: each.bytes), candidates.base]
        return list({each.key: each for each in bases}.values())[: 1 if self.early else None]


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
        proposed = replace(self.base, choice=(), origin=ORIGIN, plan=plan, stated=True, coded=True, measured_ms=None)
        return self.work.candidates.look(replace(proposed, accepted=None, judged=None))


__all__ = ["Codes"]
