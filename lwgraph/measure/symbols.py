"""Sequences of symbols, such as text: decoded from scores at each step, and how alike two of them are."""

from __future__ import annotations

import numpy as np

from lwgraph.arrays import Array

LEAST_BLANK = 0.25  # of the steps that lead to a blank in outputs of connectionist temporal classification


def by_sample(scores: Array, steps_first: bool) -> Array:
    """Scores (samples, steps, symbols), of (n, t, c) or, where steps come first, (t, n, c)."""
    return np.moveaxis(scores, 1, 0) if steps_first else scores


def find_blank(best: Array, symbols: int) -> int | None:
    """The blank of connectionist temporal classification: the first or last symbol, where it leads at many steps.

    Args:
        best: the leading symbol of each step of each sample.
        symbols: how many there are.
    """
    shares = {symbol: float(np.mean(best == symbol)) for symbol in (0, symbols - 1)}
    symbol = max(shares, key=lambda s: shares[s])
    return symbol if shares[symbol] >= LEAST_BLANK else None


def decode(best: Array, blank: int | None) -> Array:
    """The symbols of one sample: repeated ones once and without blanks, or all where there is no blank.

    Args:
        best: (steps,), the leading symbol of each.
        blank: see `find_blank`.
    """
    if blank is None:
        return best
    kept = np.concatenate([[True], best[1:] != best[:-1]]) if len(best) else np.zeros(0, bool)
    found: Array = best[kept & (best != blank)]
    return found


def likeness(a: Array, b: Array) -> float:
    """1 less the edit distance (Levenshtein 1966) over the length of the longer one: 1 for equal, 0 for unlike ones."""
    longest = max(len(a), len(b))
    if not longest:
        return 1.0
    if len(a) == len(b) and np.array_equal(a, b):
        return 1.0
    row = np.arange(len(b) + 1)
    steps = np.arange(1, len(b) + 1)
    for i, symbol in enumerate(a, 1):
        # Leave out or replace; what inserting saves is a running minimum along the row.
        best = np.concatenate([[i], np.minimum(row[1:] + 1, row[:-1] + (b != symbol))])
        row = np.minimum.accumulate(best - np.concatenate([[0], steps])) + np.concatenate([[0], steps])
    return 1.0 - float(row[-1]) / longest


__all__ = ["LEAST_BLANK", "by_sample", "decode", "find_blank", "likeness"]
