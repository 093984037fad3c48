"""How far a classifier's answers are from another answer, and what that says of the answers to come.

On a few samples a count of changed answers is 0 for nearly every plan, whether it changes 0.1 % of all answers or 3 %.
How far scores moved is seen on every sample, and how far they would have to move, too: together they say how often
answers change, before one does. That is smoothed error counting (Glick 1978, "Additive estimators for probabilities of
correct classification"), with what was seen to happen to the margins in the place of a kernel.
"""

from __future__ import annotations

import numpy as np

from lwgraph.arrays import Array, Floats

DOUBT = 6.0  # changed answers that a count needs to weigh as much as the margins, which are up to 0.4 off: 1 / 0.4^2
LEAST = 4  # samples whose moves are taken in any case
NEAR = 3  # a part of the samples; see `changed`
MOST = 2048  # samples whose margins are put together; the rest would take memory and add nothing
_LEAST = 1e-38  # a probability of 0 in the logarithm


def margins(scores: Array, classes: Array) -> Floats:
    """By how much the score of one class exceeds the best of the others: over 0 where it is the answer.

    Args:
        scores: (n, c) with c of at least 2: logits, or probabilities, whose logarithms are taken, since they say little
            of how sure an answer is where they are near 1.
        classes: (n,), of the class asked about for each sample.

    Returns:
        (n,), float64.
    """
    found = np.array(scores, np.float64)
    if ((found >= 0) & (found <= 1)).all() and np.allclose(found.sum(axis=1), 1, atol=0.05):
        found = np.log(np.maximum(found, _LEAST))
    rows = np.arange(len(found))
    own = found[rows, classes].copy()
    found[rows, classes] = -np.inf
    apart: Floats = own - found.max(axis=1)
    return apart


def changed(before: Floats, after: Floats) -> tuple[float, float]:
    """The share of inputs to come whose answer leaves the class asked about, and of those whose answer becomes it.

    Each margin is moved as the margins of the third of the samples were whose own were most like it, since plans move
    large margins otherwise than small ones: near a tie, more often against the class that is right. A half hides that,
    so that losses are told too small, and less than a third leaves too few moves to be sure of. What was counted takes
    over as more answers are seen to change.

    Args:
        before, after: margins (n,) of the same samples, by the original and by a candidate.
    """
    n = len(before)
    left, came = _counted(before, after)
    order = np.argsort(before, kind="stable")
    if n > MOST:
        order = order[np.linspace(0, n - 1, MOST).round().astype(int)]
    near = max(min(LEAST, len(order)), -(-len(order) // NEAR))
    first = np.clip(np.arange(len(order)) - near // 2, 0, len(order) - near)
    moves = (after - before)[order][first[:, None] + np.arange(near)]
    start = before[order][:, None]
    smooth = _counted(start, start + moves)
    return _together(left, smooth[0], n), _together(came, smooth[1], n)


def _counted(before: Floats, after: Floats) -> tuple[float, float]:
    """The shares on the samples; a tie is half of either answer."""
    was, is_ = np.heaviside(before, 0.5), np.heaviside(after, 0.5)
    return float(np.mean(was * (1 - is_))), float(np.mean((1 - was) * is_))


def _together(counted: float, smooth: float, samples: int) -> float:
    """Both estimates, weighed by their squared errors: the count's is its variance, share / n, the other's its bias."""
    weight = DOUBT / (DOUBT + smooth * samples)
    return weight * smooth + (1 - weight) * counted


__all__ = ["DOUBT", "changed", "margins"]
