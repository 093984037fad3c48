"""Whether a promise on a loss holds for inputs to come: kept, broken, or not resolved by the samples there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lwgraph.arrays import Array
from lwgraph.measure.evidence import Evidence, OneNumber

KEPT, BROKEN, OPEN = "kept", "broken", "not resolved"
CONFIDENCE = 0.95
EXIT = {KEPT: 0, BROKEN: 1, OPEN: 3}
ALIKE = 1e-6  # of the largest output: what differs less differs by rounding
_SLACK = 1e-9  # a loss of just the promise keeps it, however it is rounded
_ONE_NUMBER = "a function that returns a value for each sample, or takes samples=, has one"
_MOST = 1_000_000  # samples; where more would be needed, no number is told


@dataclass(frozen=True)
class Verdict:
    """What is known of a promise on a loss.

    Attributes:
        verdict: KEPT: the bound is within the promise; BROKEN: even the lower bound is outside; else OPEN.
        estimate: the loss on the samples that judged, in the metric's unit.
        bound: the true loss is over it with a probability of at most 1 - confidence; None: none can be given.
        lower: the true loss is under it with a probability of at most 1 - confidence; None: none can be given.
        confidence: of the bounds, after all looks together.
        samples: that judged.
        samples_needed: how many would resolve it if the estimate is right; None where it is resolved, or none would.
        method: by which the bounds were found.
        text: one line for people.
    """

    verdict: str
    estimate: float
    bound: float | None
    lower: float | None
    confidence: float
    samples: int
    samples_needed: int | None
    method: str
    text: str


def judge(
    evidence: Evidence, max_drop: float, *, confidence: float = CONFIDENCE, looks: int = 1, unit: str = "share"
) -> Verdict:
    """The verdict on one candidate.

    Args:
        evidence: of samples that neither fits nor choices saw.
        max_drop: the largest loss allowed.
        confidence: of what is said.
        looks: candidates among which one was chosen for what these very samples said of it. Each gets an equal part of
            1 - confidence (Bonferroni). What `count_kept` looks at in an order fixed before counts as one.
        unit: of the metric: "share", "dB", or "" for another.
    """
    level = (1 - confidence) / looks
    lower, bound = evidence.bounds(level)
    verdict = _resolve(lower, bound, max_drop)
    needed = None if verdict != OPEN else samples_needed(evidence, max_drop, level)
    if isinstance(evidence, OneNumber):  # which is all that will ever be known of it
        verdict = BROKEN if evidence.estimate > max_drop + _SLACK else OPEN
    text = _text(verdict, evidence, lower, bound, max_drop, confidence, needed, unit)
    return Verdict(
        verdict, evidence.estimate, bound, lower, confidence, evidence.samples, needed, evidence.method, text
    )


def unchanged(confidence: float = CONFIDENCE) -> Verdict:
    """The verdict on what computes the same as the original by the contract of every rewrite: it loses nothing."""
    text = "nothing is lost: every rewrite preserves the outputs up to rounding"
    return Verdict(KEPT, 0.0, 0.0, 0.0, confidence, 0, None, "the contracts of the rewrites", text)


def judges_nothing(reason: str, estimate: float, samples: int, confidence: float = CONFIDENCE) -> Verdict:
    """The verdict of samples that cannot judge, whatever they say: see `degenerate`."""
    which = f"the {samples:,} samples" if samples else "the samples of the metric"
    text = f"{which} cannot judge anything: {reason}"
    return Verdict(OPEN, estimate, None, None, confidence, samples, None, "none: degenerate samples", text)


def samples_needed(evidence: Evidence, max_drop: float, level: float) -> int | None:
    """About how many samples would resolve the promise if the estimate is right; None: no number would."""

    def resolved(samples: int) -> bool:
        scaled = evidence.scaled(samples)
        return scaled is not None and _resolve(*scaled.bounds(level), max_drop) != OPEN

    least, most = evidence.samples, max(1, evidence.samples)
    while not resolved(most):
        if most > _MOST:
            return None
        least, most = most, 2 * most
    while most - least > max(1, least // 100):
        middle = (least + most) // 2
        least, most = (least, middle) if resolved(middle) else (middle, most)
    return _two_digits(most)


def count_kept(evidences: Sequence[Callable[[], Evidence]], max_drop: float, confidence: float = CONFIDENCE) -> int:
    """How many candidates, one after the other, are kept before the first that is not: fixed-sequence testing.

    The order must be fixed before, by other samples: from the one that is thought to lose least to the fastest. Each is
    tested at the whole level, since nothing counts after the first failure; the probability that any of those before
    it breaks the promise is at most 1 - confidence (Maurer, Hothorn, Lehmacher 1995; Learn then Test, Angelopoulos et
    al. 2021).
    """
    for number, evidence in enumerate(evidences):
        if _resolve(*evidence().bounds(1 - confidence), max_drop) != KEPT:
            return number
    return len(evidences)


def degenerate(outputs: Array, classes: Array | None = None, max_drop: float = 0.0) -> str:
    """Why samples cannot judge any candidate, in words; "" where they can.

    Args:
        outputs: of the original, (n, ...).
        classes: labels or classes of the original, one for each sample; None where outputs are no classes.
        max_drop: the loss allowed; samples on which one answer for all would keep it judge nothing.
    """
    if len(outputs) < 2:
        return "one alone cannot show what depends on the input" if len(outputs) else "there are none"
    rows = np.asarray(outputs).reshape(len(outputs), -1)
    if rows.dtype.kind == "f":
        size = float(np.abs(rows).max(initial=0.0))
        alike = bool((np.abs(rows - rows[:1]) <= ALIKE * size).all())
    else:
        alike = bool((rows == rows[:1]).all())
    if alike:
        return "the original's outputs are the same for all of them"
    if classes is not None and len(classes):
        most = int(np.unique(classes, return_counts=True)[1].max())
        if 1 - most / len(classes) <= max_drop + _SLACK:
            number = "all" if most == len(classes) else f"all but {len(classes) - most}"
            return f"{number} of them are of one class, so a model that always answers that class would pass"
    return ""


# ------------------------------------------------------------ dependence on the input

LEAST_DEPENDENCE = math.sqrt(0.5)


def dependence(original: Array, candidate: Array) -> float:
    """How far the outputs of a candidate follow the original's from input to input: -1..1, 1 for equal ones.

    The correlation over samples, after the mean over samples was taken from each element, so that what does not depend
    on the input counts for nothing: outputs that are the same for every input have 0, however near the mean they are.
    1 where the original's own outputs do not depend on the input.

    Args:
        original, candidate: outputs (n, ...) of the same samples.
    """
    a, b = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (original, candidate))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    first, second = float(np.sum(a * a)), float(np.sum(b * b))
    if first == 0:
        return 1.0
    scale = max(1.0, float(np.abs(np.asarray(candidate, np.float64)).max(initial=0.0)) ** 2)
    if second <= 1e-12 * scale * b.size or not math.isfinite(second):
        return 0.0
    return float(np.sum(a * b)) / math.sqrt(first * second)


LEAST_SPREAD = 0.1


def spread(original: Array, candidate: Array) -> float:
    """How much the outputs of a candidate vary from input to input, over how much the original's do: 0 for a constant.

    For generated inputs, which no fit saw: sound plans follow the original there loosely (correlations of 0 to 1), but
    they vary: pruned, factored and quantized plans of two classifiers have 0.37 to 1.0. Under LEAST_SPREAD a model is
    as good as a constant. 1 where the original's own outputs do not vary.

    Args:
        original, candidate: outputs (n, ...) of the same inputs.
    """
    first, second = (
        float(np.asarray(v, np.float64).reshape(len(v), -1).std(axis=0).mean()) for v in (original, candidate)
    )
    return second / first if first > 0 else 1.0


def least_dependence(max_drop: float, unit: str = "share") -> float:
    """The dependence below which a result is never delivered.

    At sqrt(1/2) half of the variance of the candidate's outputs is the original's, and half is something else: noise as
    loud as the signal. Pruned, factored and quantized plans of the embedded classifier that change 0.2 to 2.4 % of the
    classes have 0.995 to 1.000, so nothing sound comes near; what a few samples say in favour of less is chance.
    Where a share d of the inputs may lose its answer altogether, outputs that are independent of the input on that
    share have 1 - d, so a promise of more than 0.29 asks for that alone.
    """
    return min(LEAST_DEPENDENCE, 1 - min(max_drop, 1.0)) if unit == "share" else LEAST_DEPENDENCE


def worst(*found: tuple[str, str]) -> tuple[str, str]:
    """Of verdicts on several promises, each with its reason, the one on all of them: one that is broken breaks all."""
    return max(found, key=lambda each: (KEPT, OPEN, BROKEN).index(each[0]))


# ------------------------------------------------------------ words


def _resolve(lower: float | None, bound: float | None, max_drop: float) -> str:
    if bound is not None and bound <= max_drop + _SLACK:
        return KEPT
    return BROKEN if lower is not None and lower > max_drop + _SLACK else OPEN


def _text(
    verdict: str,
    evidence: Evidence,
    lower: float | None,
    bound: float | None,
    max_drop: float,
    confidence: float,
    needed: int | None,
    unit: str,
) -> str:
    allowed, best = amount(max_drop, unit), number(evidence.estimate, unit)
    if isinstance(evidence, OneNumber):
        return (
            f"{amount(evidence.estimate, unit)} lost, {number(max_drop, unit)} allowed; the metric is one number, of "
            f"which no interval can be given: {_ONE_NUMBER}"
        )
    count = f"{evidence.samples:,} samples" if evidence.samples != 1 else "1 sample"
    if verdict == KEPT and bound is not None:
        return (
            f"with {100 * confidence:g} % confidence, at most {amount(max(bound, 0.0), unit)} lost on new inputs "
            f"({number(max_drop, unit)} allowed); the best estimate from {count} is {best}"
        )
    if verdict == BROKEN and lower is not None:
        return (
            f"with {100 * confidence:g} % confidence, at least {amount(lower, unit)} lost on new inputs "
            f"({number(max_drop, unit)} allowed); the best estimate from {count} is {best}"
        )
    if bound is None and lower is None:
        few = evidence.samples < evidence.needs
        why = f"{count} give no interval, {evidence.needs} or more would" if few else f"all {count} lose the same"
        return f"{why}, so {allowed} cannot be shown; the best estimate is {best}"
    more = f"about {needed:,} would" if needed is not None else f"it would take more than {_MOST:,}"
    return f"{count} cannot show {allowed}; {more}; the best estimate is {best}"


def number(value: float, unit: str) -> str:
    """A loss without its unit, in points where it is a share."""
    shown = 100 * value if unit == "share" else value
    found = f"{shown:.0f}" if abs(shown) >= 10 else f"{shown:.2g}"
    return "0" if found == "-0" else found


def amount(value: float, unit: str) -> str:
    """A loss with its unit."""
    text = number(value, unit)
    if unit == "share":
        return f"{text} point" + ("s" if text != "1" else "")
    return f"{text} {unit}".strip()


def _two_digits(value: int) -> int:
    step: int = 10 ** max(0, len(str(value)) - 2)
    return -(-value // step) * step


__all__ = [
    "BROKEN",
    "CONFIDENCE",
    "EXIT",
    "KEPT",
    "LEAST_SPREAD",
    "OPEN",
    "Verdict",
    "amount",
    "count_kept",
    "degenerate",
    "dependence",
    "judge",
    "judges_nothing",
    "least_dependence",
    "number",
    "samples_needed",
    "spread",
    "unchanged",
    "worst",
]
