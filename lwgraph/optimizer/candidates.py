"""Candidates: what stages propose, looked at once each; the best of them that keeps the promises is the incumbent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from lwgraph import ir
from lwgraph.measure.promise import CONFIDENCE, amount, count_kept, samples_needed
from lwgraph.measure.score import Score
from lwgraph.optimizer.judge import Judge
from lwgraph.optimizer.last_look import LastLook
from lwgraph.optimizer.memory import MODELS, weights
from lwgraph.optimizer.racing import Raced
from lwgraph.optimizer.request import Request
from lwgraph.plan.plan import Plan
from lwgraph.plan.search.front import Candidate
from lwgraph.report import Check
from lwgraph.rewrite.base import Context

Key = tuple[tuple[int, ...], tuple[str, ...]]
Make = Callable[[Candidate], "Made"]
CLOSE = 1.3  # candidates that were timed within this factor of the fastest are raced against each other
LINKS = 4  # plans that the last look is had at, at most
HOPELESS = 2.0  # times the samples of the last look: where more are needed to show anything, nothing is tested
BOUND_LEVEL = 1 - CONFIDENCE  # of the bounds that plans are compared by where nothing can be shown
SAME = 1e-6  # scores of one model that differ by less are the same
SLOWER = 1.1  # times the cleaned model's time that a plan of fewer bytes may be measured to take
DOUBT = 1.1  # a candidate that is predicted to take this many times what is measured of a good one is not looked at


@dataclass(frozen=True, eq=False)
class Made:
    """A candidate that was carried out, with what was found out of it.

    Attributes:
        candidate: with its plan, its score, and what it was measured to take.
        model: the model as it would be delivered; None where it is not kept in memory, see `Candidates.put`.
        size: bytes of a model that is not kept in memory.
        details: what passes told the report of it.
        score: of the metric; None before it was judged.
        checks: what was proved of it; empty before it was proved.
    """

    candidate: Candidate
    model: ir.Model | None
    details: Mapping[str, Any] = field(default_factory=dict)
    score: Score | None = None
    checks: tuple[Check, ...] = ()
    size: int = 0

    @property
    def bytes(self) -> int:
        """Bytes of the model."""
        return self.size if self.model is None else ir.size(self.model)


@dataclass(frozen=True, eq=False)
class Incumbent:
    """The best model so far that keeps the promises; what a run delivers whatever happens afterwards.

    Attributes:
        model: the model.
        plan: what was done to the cleaned model; empty for that itself.
        candidate: None for the cleaned model and the input.
        score: of the metric; None where nothing is judged.
        checks: what was proved.
        details: what passes told the report of it.
    """

    model: ir.Model
    plan: Plan = field(default_factory=Plan)
    candidate: Candidate | None = None
    score: Score | None = None
    checks: tuple[Check, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """When the incumbent changed: seconds since the run began, and what the new one is."""

    seconds: float
    origin: str
    milliseconds: float | None
    score: float | None


class Candidates:
    """Looks at candidates, at each once, and keeps the best.

    Args:
        request: the promises.
        judge: of the metric.
        make: carries out a candidate whose plan is stated, as it would be delivered.
        prove: checks a model that is about to become the incumbent.
        milliseconds: of one run of a model, measured; None where that cannot be done: predictions count then.
        race: of several models, timed in turn; None: what `milliseconds` says decides.
        base: the cleaned model, with what it takes on the clock of the candidates' predictions.
        context: gets progress, and what failed.
        seconds: since the run began.
        follows: whether the outputs of a model depend on the input as the original's do; else it never stands.
        changes: whether a model is another than the cleaned one; else no pass found a layer, and there is no plan.

    Attributes:
        incumbent: the best so far; the cleaned model at first.
        floor: the least score that keeps the promise on the metric; None where other promises count alone: the user
            stated speed or size, but no accuracy.
        moments: when the incumbent changed.
        told: how the last look chose where it could resolve nothing; "" where it could.
    """

    def __init__(
        self,
        request: Request,
        judge: Judge,
        incumbent: Incumbent,
        *,
        make: Make,
        prove: Callable[[ir.Model], Sequence[Check]],
        milliseconds: Callable[[ir.Model], float] | None,
        race: Callable[[Sequence[ir.Model]], Sequence[float]] | None = None,
        base: Candidate,
        context: Context,
        seconds: Callable[[], float] = lambda: 0.0,
        follows: Callable[[ir.Model], bool] = lambda model: True,
        changes: Callable[[ir.Model], bool] = lambda model: True,
    ) -> None:
        self.request, self.judge, self.incumbent = request, judge, incumbent
        self._cleaned = incumbent
        self.make, self.prove, self.milliseconds, self.race = make, prove, milliseconds, race
        self.base, self.context, self.seconds = replace(base, judged=judge.base.value), context, seconds
        self.follows, self.changes = follows, changes
        self.floor = None if request.limited and not judge.stated else judge.floor
        self.moments = [Moment(seconds(), "cleaned", self.base_ms if milliseconds else None, judge.base.value)]
        self._made: dict[Key, Made | None] = {}
        self.told = ""

    @property
    def base_ms(self) -> float:
        """Milliseconds of the cleaned model."""
        return self.base.predicted_ms

    # ------------------------------------------------------------ looking

    def look(self, candidate: Candidate, make: Make | None = None) -> bool:
        """Whether the candidate keeps the promise on the metric; the best so far becomes the incumbent.

        Args:
            candidate: what is proposed.
            make: carries it out, where its plan is not stated.
        """
        found = self.made(candidate, make)
        return found is not None and bool(found.candidate.accepted)

    def made(self, candidate: Candidate, make: Make | None = None) -> Made | None:
        """What became of a candidate; None when it could not be made, run or judged."""
        if candidate.key not in self._made:
            self._made[candidate.key] = None  # whatever happens now, it is not tried again
            with self.context.failures.guard(f"{candidate.origin}: a plan"):
                self.put(self._look(candidate, make or self.make))
        return self._made[candidate.key]

    def put(self, made: Made) -> None:
        """Take in what was made, judged and timed elsewhere.

        Models take an eighth of the allowance together: those that are farthest from winning are let go, and lie on in
        the cache on disk.
        """
        self._made[made.candidate.key] = made
        if made.candidate.accepted and self._better(made.candidate):
            self._stand(made)
        if (memory := self.context.memory_bytes) is not None:
            self._let_go(int(MODELS * memory))

    def recall(self, known: Sequence[Made], standing: Made | None) -> bool:
        """Take in what an earlier search looked at, and let what it ended with stand; whether it may.

        Args:
            known: all of them.
            standing: one of them, judged and proved anew: its score must be what it was. None: the cleaned model stood.
        """
        if standing is not None:
            assert standing.model is not None
            score = self.judge.score(standing.model)
            if not math.isclose(self.judge.expected(score), standing.candidate.judged or math.nan, abs_tol=SAME):
                return False
            if not self._stand(replace(standing, score=score)):
                self._made.clear()
                return False
        for made in known:
            self._made.setdefault(made.candidate.key, made)
        return True

    def _let_go(self, most: int) -> None:
        kept = [made for made in self.all() if made.model is not None and made.model is not self.incumbent.model]
        kept.sort(key=lambda made: (not made.candidate.accepted, self.amount(made.candidate)))
        taken = 0
        for made in kept:
            taken += 0 if made.model is None else weights(made.model, in_memory=True)
            if taken > most:
                self._made[made.candidate.key] = replace(made, model=None, size=made.bytes)

    def _look(self, candidate: Candidate, make: Make) -> Made:
        self.context.progress(f"judging plans ({self.judge.looks} looked at)", 0, 0)
        made = make(candidate)
        assert made.model is not None
        if not self.changes(made.model):
            same = replace(made.candidate, judged=self.judge.base.value, measured_ms=self.base_ms, accepted=False)
            return replace(made, candidate=same, score=self.judge.base)
        # Where accuracy is not promised it is still what is sought, so that all samples are asked.
        raced = Raced(self.judge.score(made.model)) if self.floor is None else self.judge.raced(made.model)
        score, known = raced.score, made.candidate
        assert known.plan is not None
        plan = replace(known.plan, ms=(self.base_ms, known.predicted_ms), error=known.loss or 0.0)
        judged = None if score is None else self.judge.expected(score)
        accepted = not raced.dropped and (self.floor is None or (judged is not None and judged >= self.floor))
        # What loses too much is timed, too: predictions of what is like it follow from that.
        taken = None if self.milliseconds is None else self.milliseconds(made.model)
        if accepted and taken is not None and self.request.objective == "bytes" and taken > SLOWER * self.base_ms:
            accepted = not self._is_slower(made.model)
        known = replace(known, plan=plan, judged=judged, accepted=accepted, measured_ms=taken)
        return replace(made, candidate=known, score=score)

    def _is_slower(self, model: ir.Model) -> bool:
        """Whether a model is slower than the cleaned one where both take turns, as a single timing may err.

        Fewer bytes are worth no time, unless a limit says how much.
        """
        if self.race is None:
            return True
        before, after = self.race([self._cleaned.model, model])
        return after > SLOWER * before

    # ------------------------------------------------------------ the incumbent

    def settle(self) -> None:
        """Race those that are CLOSE to the incumbent in time; the one that wins stands."""
        standing = self.incumbent.candidate
        if self.race is None or standing is None or self.request.objective != "latency" or self._for_accuracy:
            return
        limit = CLOSE * self.amount(standing)
        good = [made for made in self.good() if made.model is not None and self.meets(made.candidate)]
        close = [made for made in good if self.amount(made.candidate) <= limit]
        if len(close) < 2:
            return
        times = self.race([made.model for made in close if made.model is not None])
        for at in sorted(range(len(close)), key=lambda index: times[index]):
            if close[at].candidate.key == standing.key or self._stand(close[at]):
                return

    def look_last(self, last: LastLook) -> None:
        """Of a few plans, from the one that loses least to the incumbent, let the last one stand that surely holds.

        The order is that of the samples on which plans were compared, so it is fixed before the last look, and each may
        be tested at the whole level until the first that is not kept (`lwgraph.measure.promise.count_kept`). Where
        already the first is not, nothing is resolved, and that one stands. Where the samples are so few that it would
        not be, whatever they say, see `_surest`. Where no samples were kept for the last look, the incumbent stays. Of
        a plan that breaks the promise, for sure or by its estimate, a slower one takes the place, unless limits are to
        be kept.
        """
        standing = self.incumbent.candidate
        if standing is None or self._for_accuracy or not last.own:
            return
        chain = self._chain(standing)
        if self._hopeless(chain[0], last):
            self.told = (
                f"{last.samples:,} samples cannot show that any plan keeps the promise, so none was tested: of those "
                "whose estimate keeps it, the one with the best bound was chosen, and of equal ones the fastest"
            )
            picks = self._surest(standing)
        else:
            looks = [partial(last.evidence, made.model) for made in chain if made.model is not None]
            picks = list(reversed(chain[: max(1, count_kept(looks, self.judge.max_drop, last.confidence))]))
        for made in picks:
            if made.candidate.key == standing.key or self._stand(made):
                break
        # What breaks its promise by all that is known is not delivered, unless other promises ask for something to be.
        failed = self.incumbent.candidate
        if failed is not None and not self.request.limited and last.misses(self.incumbent.model):
            self._retreat(failed, last)

    def _retreat(self, failed: Candidate, last: LastLook) -> None:
        """Let a slower plan that loses no more on the samples of comparison, and that the last look finds to keep the
        promise, stand in place of one that it does not; else the cleaned model.

        Looks go from fast to slow, and each is paid for.
        """
        no_worse = [made for made in self._eligible(failed) if (made.candidate.judged or 0.0) >= (failed.judged or 0.0)]
        slower = [made for made in no_worse if self.amount(made.candidate) > self.amount(failed)]
        for made in _spaced(sorted(slower, key=lambda made: self.amount(made.candidate)), LINKS - 1):
            assert made.model is not None
            last.tested += 1
            if not last.misses(made.model) and self._stand(made):
                said = "by the last samples the plan chosen first loses too much: a slower one took its place"
                self.told = f"{self.told}; {said}" if self.told else said
                return
        self.incumbent = self._cleaned
        self.moments.append(Moment(self.seconds(), "cleaned", self.moments[0].milliseconds, self.judge.base.value))

    def _hopeless(self, made: Made, last: LastLook) -> bool:
        """Whether the last look's samples are far too few to show that the plan of least loss keeps the promise."""
        if made.score is None:
            return False
        needed = samples_needed(self.judge.evidence(made.score), self.judge.max_drop, 1 - last.confidence)
        return needed is None or needed > HOPELESS * last.samples

    def _surest(self, standing: Candidate) -> list[Made]:
        """The plans whose estimate keeps the promise, the best bound first, of equal bounds the fastest.

        The bounds are those of the samples of comparison: the last look then says what it says of a single plan.
        """

        def bound(made: Made) -> float:
            _, upper = (None, None) if made.score is None else self.judge.evidence(made.score).bounds(BOUND_LEVEL)
            return math.inf if upper is None else round(upper, 9)

        return sorted(self._eligible(standing), key=lambda made: (bound(made), self.amount(made.candidate)))

    def _eligible(self, standing: Candidate) -> list[Made]:
        """The plans that keep all promises on the samples of comparison, and whose models are in memory."""
        kept = [made for made in self.good() if made.model is not None]
        return [made for made in kept if self.meets(made.candidate) or made.candidate.key == standing.key]

    def _chain(self, standing: Candidate) -> list[Made]:
        """Plans that keep all promises on the samples of comparison, each faster and worse than the one before."""
        chain: list[Made] = []
        for made in sorted(
            self._eligible(standing), key=lambda m: (-(m.candidate.judged or 0.0), self.amount(m.candidate))
        ):
            if not chain or self.amount(made.candidate) < self.amount(chain[-1].candidate):
                chain.append(made)
            if made.candidate.key == standing.key:
                break
        return _spaced(chain, LINKS)

    @property
    def _for_accuracy(self) -> bool:
        """Whether the plan of least loss that keeps the limits is sought, and not the smallest one."""
        return self.floor is None

    def _better(self, candidate: Candidate) -> bool:
        """Whether a candidate that keeps the promise on the metric is better than the incumbent."""
        standing = self.incumbent.candidate or self.base
        if not self.meets(standing):
            return self._excess(candidate) < self._excess(standing)
        if not self.meets(candidate):
            return False
        if self._for_accuracy:
            return (candidate.judged or -math.inf) > (standing.judged or -math.inf)
        return self.amount(candidate) < self.amount(standing)

    def _stand(self, made: Made) -> bool:
        """Make it the incumbent once it is proved; one that is not is out."""
        assert made.model is not None
        checks = made.checks
        if not checks:
            with self.context.failures.guard(f"{made.candidate.origin}: the proof of a plan"):
                checks = tuple(self.prove(made.model)) if self.follows(made.model) else ()
        if not checks or not all(check.ok for check in checks):
            out = replace(made.candidate, accepted=False)
            self._made[out.key] = replace(made, candidate=out)
            return False
        self._made[made.candidate.key] = made = replace(made, checks=checks)
        known = made.candidate
        assert known.plan is not None and made.model is not None
        self.incumbent = Incumbent(made.model, known.plan, known, made.score, checks, made.details)
        self.moments.append(Moment(self.seconds(), known.origin, known.measured_ms, known.judged))
        return True

    def best_so_far(self) -> str:
        """The incumbent in a few words, such as "best so far 2.9x at 0.4 points"; "" while it is the cleaned model."""
        known = self.incumbent.candidate
        if known is None or known.judged is None:
            return ""
        lost = amount(self.judge.base.value - known.judged, self.judge.metric.unit)
        taken = known.predicted_ms if known.measured_ms is None else known.measured_ms
        return f"best so far {self.base_ms / max(taken, 1e-12):.1f}x at {lost}"

    # ------------------------------------------------------------ what is known

    def known(self, candidate: Candidate) -> Candidate:
        """The candidate with what is known of it by now."""
        made = self._made.get(candidate.key)
        return candidate if made is None else made.candidate

    @property
    def allowed(self) -> float:
        """What the metric may lose."""
        return self.judge.base.value - self.judge.floor

    def lost(self, candidate: Candidate) -> float | None:
        """What the metric lost with a candidate; None where that was not looked at."""
        judged = self.known(candidate).judged
        return None if judged is None else self.judge.base.value - judged

    def all(self) -> list[Made]:
        """What was looked at."""
        return [made for made in self._made.values() if made is not None]

    def good(self) -> list[Made]:
        """Of those, what keeps the promise on the metric."""
        return [made for made in self.all() if made.candidate.accepted]

    def meets(self, candidate: Candidate) -> bool:
        """Whether a candidate keeps the limits, by what is known of it by now."""
        return self._excess(candidate) <= 1

    def _excess(self, candidate: Candidate) -> float:
        taken = candidate.predicted_ms if candidate.measured_ms is None else candidate.measured_ms
        return self.request.excess(taken, self.base_ms, candidate.bytes, candidate.macs)

    def amount(self, candidate: Candidate) -> float:
        """What a candidate takes of the objective, measured where that is known."""
        if self.request.objective == "latency" and candidate.measured_ms is not None:
            return candidate.measured_ms
        return candidate.amount(str(self.request.objective))

    @property
    def most(self) -> float:
        """What a candidate may be predicted to take to be worth a look, given those that keep all promises; inf: any.

        Where the plan of least loss is sought, none is ruled out. What weights in codes take says nothing of plans
        whose weights may become codes, too.
        """
        plain = [made.candidate for made in self.good() if not made.candidate.coded]
        known = [self.amount(candidate) for candidate in plain if self.meets(candidate)]
        return DOUBT * min(known) if known and self.floor is not None else math.inf


def _spaced(plans: Sequence[Made], most: int) -> list[Made]:
    """At most so many of the plans, evenly spaced, the first and the last among them."""
    picks = sorted({round(i * (len(plans) - 1) / (most - 1)) for i in range(most)}) if plans else []
    return [plans[i] for i in picks]


__all__ = ["CLOSE", "DOUBT", "Candidates", "Incumbent", "Made", "Moment"]
