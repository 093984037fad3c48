"""Grids of any levels: signed powers of two, and codebooks fitted to the weights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lwgraph.arrays import Array, Floats
from lwgraph.passes.quantize.grids.second_order import Elimination, eliminate, elimination_order, settle

_SCALES = 41  # scales that are tried for a row
_LLOYD = 60  # rounds of k-means, at most
_ALTERNATIONS = 2  # of fitting the levels to the codes and the codes to the levels
_REFIT = 1e11  # multiply-adds that fitting levels to codes by the inputs' moments may take; without, by their powers


@dataclass(frozen=True)
class Levels:
    """What each weight of (o, D) may be: a level of its table times the scale of its row.

    Attributes:
        tables: (T, L) ascending in each row. Row r and column d use table r * (tables per row) + d // block.
        block: columns that share a table.
        scale: (o,).
        common: whether all groups of a layer have this table.
    """

    tables: Floats
    block: int
    scale: Floats
    common: bool = False

    def at(self, column: int) -> Floats:
        """(o, L), or (1, L) where all rows share a table: the tables of a column."""
        per_row = max(len(self.tables) // len(self.scale), 1)
        if len(self.tables) == 1:
            return self.tables
        return self.tables[np.arange(len(self.scale)) * per_row + column // self.block]

    def codes(self, values: Floats, column: int) -> Array:
        """(o,) the number of the nearest level to each real value (o,) of a column."""
        tables, unit = self.at(column), values / self.scale
        middles = (tables[:, 1:] + tables[:, :-1]) / 2
        if len(tables) == 1:
            return np.searchsorted(middles[0], unit)
        found: Array = (unit[:, None] > middles).sum(axis=1)
        return found

    def rounded(self, values: Floats, column: int) -> Floats:
        """(o,) the nearest levels themselves."""
        tables, codes = self.at(column), self.codes(values, column)
        level = tables[0, codes] if len(tables) == 1 else np.take_along_axis(tables, codes[:, None], axis=1)[:, 0]
        return np.asarray(level * self.scale)

    def encode(self, weight: Floats) -> Array:
        """(o, D) uint8, the codes of weights."""
        return np.stack([self.codes(weight[:, d], d) for d in range(weight.shape[1])], axis=1).astype(np.uint8)

    def decode(self, codes: Array) -> Floats:
        """(o, D) what codes stand for."""
        per_row = -(-codes.shape[1] // self.block)
        if len(self.tables) == 1:
            return np.asarray(self.tables[0, codes] * self.scale[:, None])
        rows = np.arange(len(codes))[:, None] * per_row + np.arange(codes.shape[1])[None, :] // self.block
        return np.asarray(self.tables[rows, codes] * self.scale[:, None])


def powers(bits: int, terms: int) -> Floats:
    """(L,) ascending: zero and signed sums of `terms` powers of two, of at most 2^bits levels in all.

    One term: 0 and +-2^-i (DeepShift: Elhoushi et al. 2021; INQ: Zhou et al. 2017). More: term t of n is 0 or one of
    2^-t, 2^-(t+n), 2^-(t+2n), ... (APoT: Li, Dong, Wang 2020, equation 5); the bits beside the sign are shared out
    among the terms, the first taking what is left over.
    """
    shares = [(bits - 1) // terms + (t < (bits - 1) % terms) for t in range(terms)]
    choices = [[0.0, *(2.0 ** -(t + terms * i) for i in range((1 << share) - 1))] for t, share in enumerate(shares)]
    sums = {sum(each) for each in itertools.product(*choices)}
    return np.array(sorted(sums | {-each for each in sums}))


def fit_powers(
    parts: Sequence[Floats], moments: Sequence[Floats], bits: int, terms: int
) -> tuple[list[Levels], list[Floats]]:
    """Round a layer's rows to powers of two times a scale for each.

    Scales are of least squared error weighted by the inputs' power, and fitted again to the rounded rows; what one
    weight loses the others of its row make good (GPTQ, then coordinate descent).

    Args:
        parts: a (o/g, D) weight for each group.
        moments: of each group's inputs, (D, D), or their diagonals (D,): then each weight is rounded by itself.

    Returns:
        Levels and the rounded rows (o/g, D) of each group. O(41 o D + D^3 + 6 o D^2).
    """
    table, found, kernels = powers(bits, terms)[None], [], []
    for rows, inputs in zip(parts, moments, strict=True):
        levels = Levels(table, rows.shape[1], _row_scales(rows, table[0], _power(inputs)), True)
        elimination = _elimination(inputs)
        kernel = _round(rows, levels, inputs, elimination)
        for _ in range(_ALTERNATIONS):
            levels = Levels(table, rows.shape[1], _refitted_scale(rows, kernel, levels.scale, inputs), True)
            kernel = _round(rows, levels, inputs, elimination)
        found.append(levels)
        kernels.append(kernel)
    return found, kernels


def fit_codebooks(
    parts: Sequence[Floats], moments: Sequence[Floats], entries: int, per: str, block: int
) -> tuple[list[Levels], list[Floats]]:
    """Round a layer's rows to codebooks: k-means weighted by the inputs' power, then second-order rounding to them.

    (Deep Compression: Han, Mao, Dally 2016, section 3; the weighting is the diagonal of the output error.) The entries
    are fitted again, in closed form, to the codes that were chosen.

    Args:
        parts, moments: as for `fit_powers`.
        entries: levels of a codebook.
        per: "tensor" (one codebook, and a scale for each row), "channel" or "block" (a codebook for every `block`
            weights of a row, which divides D).

    Returns:
        Levels and the rounded rows (o/g, D) of each group. O(60 n log n) for n weights, and as for `fit_powers`.
    """
    if per == "tensor":
        return _one_codebook(parts, moments, entries)
    found, kernels = [], []
    for rows, inputs in zip(parts, moments, strict=True):
        width = rows.shape[1] if per == "channel" else block
        importance = _power(inputs).reshape(-1, width)
        tables = np.stack([
            lloyd(values, importance[number % len(importance)], entries)
            for number, values in enumerate(rows.reshape(-1, width))
        ])  # fmt: skip
        found.append(Levels(tables, width, np.ones(len(rows))))
        kernels.append(_round(rows, found[-1], inputs, _elimination(inputs)))
    return found, kernels


def lloyd(values: Floats, importance: Floats, entries: int) -> Floats:
    """(L,) ascending: 1-D k-means of weighted values, from quantiles on, by prefix sums of the sorted values.

    Args:
        values: (n,).
        importance: (n,), not negative.

    Complexity: O(n log n) once and O(L log n) a round.
    """
    order = np.argsort(values, kind="stable")
    ordered, weight = values[order], np.maximum(importance[order], 1e-12 * max(float(importance.max(initial=0)), 1e-30))
    mass = np.concatenate([[0.0], np.cumsum(weight)])
    sums = np.concatenate([[0.0], np.cumsum(weight * ordered)])
    # Cubic roots of the mass lay levels as densely as a fine quantizer of least error has them (Panter and Dite 1951).
    spread = np.cumsum(np.cbrt(weight) * (np.gradient(ordered) if len(ordered) > 1 else 1.0) ** (2 / 3))
    goals = (np.arange(entries) + 0.5) / entries * spread[-1]
    levels = ordered[np.minimum(np.searchsorted(spread, goals), len(ordered) - 1)]
    for _ in range(_LLOYD):
        edges = np.concatenate([[0], np.searchsorted(ordered, (levels[1:] + levels[:-1]) / 2), [len(ordered)]])
        held, total = mass[edges[1:]] - mass[edges[:-1]], sums[edges[1:]] - sums[edges[:-1]]
        moved = np.where(held > 0, total / np.where(held > 0, held, 1.0), levels)
        if np.array_equal(moved, levels):
            break
        levels = moved
    return np.asarray(np.sort(levels))


def _one_codebook(
    parts: Sequence[Floats], moments: Sequence[Floats], entries: int
) -> tuple[list[Levels], list[Floats]]:
    scales = [np.maximum(np.sqrt(np.square(rows).mean(axis=1)), 1e-30) for rows in parts]
    unit = [rows / scale[:, None] for rows, scale in zip(parts, scales, strict=True)]
    mass = [np.square(scale)[:, None] * _power(each)[None] for scale, each in zip(scales, moments, strict=True)]
    table = lloyd(np.concatenate([u.ravel() for u in unit]), np.concatenate([m.ravel() for m in mass]), entries)

    eliminations = [_elimination(each) for each in moments]

    def made() -> tuple[list[Levels], list[Floats]]:
        levels = [Levels(table[None], rows.shape[1], scale, True) for rows, scale in zip(parts, scales, strict=True)]
        return levels, [_round(*each) for each in zip(parts, levels, moments, eliminations, strict=True)]

    levels, kernels = made()
    for _ in range(_ALTERNATIONS):
        scales = [
            _refitted_scale(rows, kernel, scale, inputs)
            for rows, kernel, scale, inputs in zip(parts, kernels, scales, moments, strict=True)
        ]
        codes = [level.encode(kernel) for level, kernel in zip(levels, kernels, strict=True)]
        table = _refitted_table(parts, codes, scales, moments, table)
        levels, kernels = made()
    return levels, kernels


def _round(rows: Floats, levels: Levels, moments: Floats, elimination: Elimination | None) -> Floats:
    """(o, D) on the grid; no row worse than with each weight at its nearest level."""
    nearest = levels.decode(levels.encode(rows))
    if elimination is None:
        return nearest
    found = eliminate(rows, elimination, levels.rounded)
    kept = np.where(_worse(rows, found, nearest, moments)[:, None], nearest, found)
    return settle(rows, kept, moments, levels.rounded, 2)


def _elimination(moments: Floats) -> Elimination | None:
    return elimination_order(moments) if moments.ndim == 2 else None


def _worse(rows: Floats, one: Floats, other: Floats, moments: Floats) -> Array:
    def error(kernel: Floats) -> Floats:
        change = rows - kernel
        return np.asarray(np.einsum("od,od->o", change @ moments, change))

    return np.asarray(error(one) > error(other))


def _power(moments: Floats) -> Floats:
    """(D,) the inputs' mean squares."""
    power = np.diagonal(moments) if moments.ndim == 2 else moments
    return power if power.any() else np.ones(len(power))


def _row_scales(rows: Floats, table: Floats, importance: Floats) -> Floats:
    """(o,) the scale of each row of least weighted error, tried over an octave and a half below its largest weight."""
    reach = np.maximum(np.abs(rows).max(axis=1, initial=0.0) / table[-1], 1e-30)
    best, lost = reach, np.full(len(rows), np.inf)
    middles = (table[1:] + table[:-1]) / 2
    for share in np.geomspace(1.0, 0.35, _SCALES):
        scale = reach * share
        unit = rows / scale[:, None]
        error = np.square(table[np.searchsorted(middles, unit)] - unit) @ importance * np.square(scale)
        best, lost = np.where(error < lost, scale, best), np.minimum(error, lost)
    return np.asarray(best)


def _refitted_scale(rows: Floats, kernel: Floats, scale: Floats, moments: Floats) -> Floats:
    """(o,) the scale that least squares gives to rounded rows; the old one where that is not positive."""
    seen = kernel @ moments if moments.ndim == 2 else kernel * moments
    own, cross = np.einsum("od,od->o", seen, kernel), np.einsum("od,od->o", seen, rows)
    factor = np.where(own > 0, cross / np.where(own > 0, own, 1.0), 1.0)
    return np.asarray(np.where(factor > 0.5, scale * factor, scale))


def _refitted_table(
    parts: Sequence[Floats],
    codes: Sequence[Array],
    scales: Sequence[Floats],
    moments: Sequence[Floats],
    table: Floats,
) -> Floats:
    """(L,) the entries of least output error for given codes: normal equations over all rows and groups."""
    entries = len(table)
    left, right = np.zeros((entries, entries)), np.zeros(entries)
    work = sum(2.0 * rows.shape[0] * entries * rows.shape[1] ** 2 for rows in parts)
    for rows, code, scale, inputs in zip(parts, codes, scales, moments, strict=True):
        exact = inputs.ndim == 2 and work <= _REFIT
        power = _power(inputs)
        for row, chosen, unit in zip(rows, code, scale, strict=True):
            members = np.equal.outer(np.arange(entries), chosen).astype(np.float64)
            seen = members @ inputs if exact else members * power
            left += np.square(unit) * (seen @ members.T)
            right += unit * (seen @ row)
    ridge = 1e-6 * max(float(np.trace(left)) / entries, 1e-30)
    return np.asarray(np.sort(np.linalg.solve(left + ridge * np.eye(entries), right + ridge * table)))


__all__ = ["Levels", "fit_codebooks", "fit_powers", "lloyd", "powers"]
