"""Weights in few bits: where bytes are what is asked for, on top of the best plans so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from lwgraph import ir, registry
from lwgraph.executor import Feeds
from lwgraph.optimizer.back_off import STEP, apart, least_loss
from lwgraph.optimizer.bracket import Bracket
from lwgraph.optimizer.data_pass import Cost, DataPass
from lwgraph.optimizer.stages.base import FIT_SECONDS, Work
from lwgraph.optimizer.stages.forms import FEWEST, SENSING_SECONDS
from lwgraph.plan.carry_out import observing
from lwgraph.plan.plan import Precision
from lwgraph.plan.roles import CODES, CodesLayers, CodesWeights
from lwgraph.plan.search.code_widths import Mixtures, Widths, mixtures, uniform
from lwgraph.plan.search.front import Candidate

ORIGIN = "codes"
FIRST = 4  # bits that are tried first, of all layers
LOOKS = 6  # that one base takes, at most
PROBES = 2  # fits and runs that tell what codes of one layer do
PROBED = 0.3  # of the time that is left, what finding that out may be predicted to take


class Codes:
    """Proposes the best plans, and the cleaned model, with weights as codes: of one width, then of one for each layer.

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
        """A few looks at each base; before, what codes of single layers do."""
        look, looks = work.look_cost(unit), len(self._bases(work)) * LOOKS
        sensed = PROBES * work.layers * len(sensing(work))
        seconds = look.seconds * looks + FIT_SECONDS * PROBES * work.layers
        return Cost(look.passes * looks + unit.runs(sensed), seconds)

    def run(self, work: Work) -> Work:
        """For each base: four bits for all layers; then a few of the mixtures that are predicted to be better.

        Where a limit of bytes is to be kept on the way to something else, the first base that does is enough.
        """
        for base in self._bases(work):
            with work.context.failures.guard(f"codes on the plan '{base.origin}'"):
                _Coding(work, base).find()
            if work.request.objective != "bytes" and work.candidates.meets(
                work.candidates.incumbent.candidate or work.candidates.base
            ):
                break
        return work

    def _bases(self, work: Work) -> list[Candidate]:
        """Of the plans without codes that are good, the best and the smallest; and the cleaned model."""
        candidates = work.candidates
        plain = [made.candidate for made in candidates.good() if not made.candidate.coded] or [candidates.base]
        bases = [min(plain, key=candidates.amount), min(plain, key=lambda each: each.bytes), candidates.base]
        return list({each.key: each for each in bases}.values())[: 1 if self.early else None]


def sensing(work: Work) -> Sequence[Feeds]:
    """The samples that tell what codes of one layer do."""
    return work.samples(work.float_ms * max(work.layers, 1), SENSING_SECONDS, FEWEST)


class _Coding:
    """The fewest bytes that the weights of one candidate can do with as codes.

    Args:
        work: of the stage.
        base: the candidate.
    """

    def __init__(self, work: Work, base: Candidate) -> None:
        self.work, self.base = work, base
        self.coder = registry.role(CODES, CodesWeights)
        self.first = min(self.coder.bits, key=lambda bits: abs(bits - FIRST))
        self.taken = 0.0  # seconds, by the first look

    def find(self) -> None:
        """Look at codes of one width, then at some of the mixtures that may be better.

        Fewer bytes than a limit allows are worth nothing where another objective is pursued, so the mixture of least
        loss within the limit is looked at then.
        """
        candidates, request = self.work.candidates, self.work.request
        began = self.work.clock.spent
        made = candidates.made(self.proposed(Widths(self.first, 0.0, 0.0)))
        self.taken = self.work.clock.spent - began
        if made is None:
            return
        first, sought = made.candidate, candidates.floor is None
        if request.objective != "bytes" and not sought and first.accepted and candidates.meets(first):
            return
        choices = self.choices(first)
        ladder = apart([self.proposed(each, first.bytes) for each in choices.front], "bytes")
        if request.objective == "bytes" and not sought:
            self.narrow(ladder, replace(first, predicted_loss=choices.reference.loss))
            return
        within = [c for c in ladder if request.allows(c.predicted_ms, candidates.base_ms, c.bytes, c.macs)]
        least_loss(within or ladder[:1], candidates)

    def narrow(self, ladder: Sequence[Candidate], first: Candidate) -> None:
        """Look for the fewest bytes that keep the promise, as long as a STEP can be gained.

        Args:
            ladder: the fewest bytes first; each loses less than all before it.
            first: what was looked at already.
        """
        candidates, best = self.work.candidates, None
        standing = candidates.incumbent.candidate
        if standing is not None and standing.coded and standing.key != first.key:
            best = standing.bytes  # of another base
        able = [c for c in ladder if c.bytes < first.bytes or not first.accepted]
        able = [c for c in able if c.predicted_loss < first.predicted_loss or first.accepted]
        able = [c for c in able if best is None or c.bytes * STEP < best]
        bracket, looks = Bracket([c.predicted_loss for c in able], candidates.allowed), 1
        bracket.hear(first.predicted_loss, candidates.lost(first))
        while bracket and looks < LOOKS:
            known = able[bracket.high].bytes if bracket.high < len(able) else first.bytes if first.accepted else None
            if known is not None and known < STEP * able[bracket.low].bytes:
                return
            # What another base did better is beaten at its least loss or not at all.
            number, looks = len(able) - 1 if best is not None and looks == 1 else bracket.pick(), looks + 1
            bracket.learn(number, candidates.look(able[number]), candidates.lost(able[number]))

    def choices(self, first: Candidate) -> Mixtures:
        """The choices of widths, which bases of one network have in common; one for all where there is no time."""
        work = self.work
        # A look fits all layers once.
        affordable = PROBES * self.taken + SENSING_SECONDS <= PROBED * work.clock.left
        if isinstance(self.coder, CodesLayers) and affordable:
            with work.context.failures.guard("codes: the bits of each layer"):
                model = self.floats()
                key = ("codes", self.coder.coded(self.first), work.context.statistics, ir.fingerprint(model))
                if key not in work.context.memory:
                    context = work.context if model is work.clean else observing(model, work.context)
                    found = mixtures(model, self.coder, self.first, context, sensing(work))
                    work.context.memory[key] = found
                if (known := cast("Mixtures | None", work.context.memory[key])) is not None:
                    return known
        return uniform(self.coder, self.first, first.bytes)

    def floats(self) -> ir.Model:
        """The base before anything was done to its precision."""
        plan = self.base.plan
        assert plan is not None
        trunk = self.work.making.trunk(plan)
        if not plan.sites:
            return trunk.model
        plain = replace(self.base, plan=replace(plan, precision=Precision()), stated=True)
        model = self.work.making.stated(plain).model
        assert model is not None
        return model

    def proposed(self, widths: Widths, size: int = 0) -> Candidate:
        """The base with its weights in codes.

        Args:
            widths: of the codes.
            size: bytes of the model with codes of the reference width.
        """
        plan = self.base.plan
        assert plan is not None
        coded = (
            self.coder.mixed(widths.bits, widths.others)
            if widths.bits and isinstance(self.coder, CodesLayers)
            else self.coder.coded(widths.others)
        )
        plan = replace(plan, precision=replace(plan.precision, passes=(str(coded), *plan.precision.passes)))
        proposed = replace(self.base, choice=(), origin=ORIGIN, plan=plan, stated=True, coded=True, measured_ms=None)
        size = max(round(size - widths.saved), 1)
        return replace(proposed, accepted=None, judged=None, predicted_loss=widths.loss, loss=None, bytes=size)


__all__ = ["Codes"]
