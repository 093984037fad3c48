"""Compare the outputs of two runs: are they equal within a contract, and where do they differ most?"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lwgraph.arrays import Array
from lwgraph.contract import Contract
from lwgraph.measure.tolerances import Tolerance, tolerance

if TYPE_CHECKING:
    from lwgraph.executor import Feeds, Run

_CHUNK = 1 << 20  # elements compared at once in float64


@dataclass(frozen=True)
class Difference:
    """The difference of one value between two runs.

    `excess` is the distance divided by what is allowed: over 1 means not equal within the tolerance; infinite for a
    wrong shape or dtype, a missing value or NaN and Inf out of place. `relative` is max|d| over the reference's largest
    finite magnitude, `rms` the root mean square of d over that of the reference, `sqnr` is in dB, `position` that of
    the largest difference, `flips` the share of unequal elements of integers, bools and strings.
    """

    name: str
    ok: bool
    excess: float
    reason: str = ""  # empty when ok
    max_abs: float = 0.0
    relative: float = 0.0
    rms: float = 0.0
    sqnr: float = math.inf
    flips: float = 0.0
    position: tuple[int, ...] | None = None
    sample: int | None = None
    reshaped: bool = False  # the shapes differ

    def __str__(self) -> str:
        where = f"'{self.name}'" + (f" (sample {self.sample})" if self.sample is not None else "")
        if not self.ok:
            return f"{where}: {self.reason}"
        return f"{where}: largest difference {self.max_abs:.3g} ({self.relative:.3g} of its scale)"


@dataclass(frozen=True)
class Comparison:
    """All differences, in the order of the reference's values. Truthiness is deliberately not defined: read `ok`."""

    differences: tuple[Difference, ...]

    def __bool__(self) -> bool:
        raise TypeError("a Comparison has no truth value; read its 'ok'")

    @property
    def ok(self) -> bool:
        """Whether every value is within its tolerance."""
        return all(d.ok for d in self.differences)

    @property
    def worst(self) -> Difference | None:
        """The value that exceeds its tolerance most (the nearest to it when all are within); None without values."""
        return max(self.differences, key=lambda d: d.excess, default=None)

    @property
    def first_failure(self) -> Difference | None:
        """The first value, in the reference's order, that is out of tolerance."""
        return next((d for d in self.differences if not d.ok), None)

    def __str__(self) -> str:
        if self.worst is None:
            return "nothing to compare"
        failed = sum(not d.ok for d in self.differences)
        if failed:
            return f"{failed} of {len(self.differences)} values differ; {self.worst}"
        return f"{len(self.differences)} values equal within tolerance; {self.worst}"


def compare(
    reference: Mapping[str, Any],
    candidate: Mapping[str, Any],
    contract: Contract,
    *,
    tolerances: Callable[[np.dtype[Any]], Tolerance] | None = None,
    resizable: Collection[str] = (),
) -> Comparison:
    """Compare two {name: array} results under a contract.

    Args:
        reference: what is held to be true; its dtypes choose the tolerances.
        candidate: what is checked. A value missing on either side is a difference.
        contract: EXACT, ROUNDING or APPROXIMATE; see `lwgraph.measure.tolerances`.
        tolerances: replaces the table, e.g. for a budget that the user states.
        resizable: names of values that may have other sizes, but not another rank; nothing is said of their elements
            then.

    Sequences and maps (lists and dicts of arrays) are compared member by member as `name[0]`, `name['key']`.
    The data are read once; float64 temporaries of a million elements at most.
    """
    left, right = dict(_leaves(reference)), dict(_leaves(candidate))
    found: list[Difference] = []
    for name, a in left.items():
        if name not in right:
            found.append(_failure(name, "missing from the candidate"))
            continue
        allowed = tolerances(a.dtype) if tolerances is not None else tolerance(contract, a.dtype)
        b = right[name]
        if name in resizable and a.shape != b.shape and a.ndim == b.ndim and a.dtype == b.dtype:
            found.append(Difference(name, ok=True, excess=0.0, reshaped=True))
        else:
            found.append(_compare_array(name, a, b, allowed))
    found += [_failure(name, "not in the reference") for name in right if name not in left]
    return Comparison(tuple(found))


def compare_runs(
    reference: Run,
    candidate: Run,
    samples: Iterable[Feeds],
    contract: Contract,
    *,
    tolerances: Callable[[np.dtype[Any]], Tolerance] | None = None,
) -> Comparison:
    """Run both on every sample; for each value keep the sample on which it differs most (`Difference.sample`)."""
    worst: dict[str, Difference] = {}
    for index, feeds in enumerate(samples):
        for d in compare(reference(feeds), candidate(feeds), contract, tolerances=tolerances).differences:
            if d.name not in worst or d.excess > worst[d.name].excess:
                worst[d.name] = replace(d, sample=index)
    return Comparison(tuple(worst.values()))


def _leaves(values: Mapping[str, Any]) -> Iterable[tuple[str, Array]]:
    for name, value in values.items():
        if isinstance(value, (list, tuple)):
            yield from _leaves({f"{name}[{i}]": member for i, member in enumerate(value)})
        elif isinstance(value, Mapping):
            yield from _leaves({f"{name}[{key!r}]": member for key, member in value.items()})
        else:
            yield name, np.asarray(value)


def _failure(name: str, reason: str) -> Difference:
    return Difference(name, ok=False, excess=math.inf, reason=reason, sqnr=-math.inf)


def _compare_array(name: str, a: Array, b: Array, allowed: Tolerance) -> Difference:
    if a.dtype.kind not in "USO" and a.dtype != b.dtype:
        return _failure(name, f"is {b.dtype.name}, should be {a.dtype.name}")
    if a.shape != b.shape:
        return replace(_failure(name, f"has shape {list(b.shape)}, should be {list(a.shape)}"), reshaped=True)
    if allowed.finite:
        return _finite(name, a, b)
    if a.dtype.kind in "USO":
        return _unequal(name, a != b, allowed)
    kind = a.dtype.name
    if kind.startswith(("float", "bfloat", "complex")):
        return _compare_floats(name, a, b, allowed)
    wide = kind in ("uint64", "int64")  # their difference may overflow; compare through Python's exact order
    x, y = (a, b) if wide else (a.astype(np.int64), b.astype(np.int64))
    gap = np.where(x > y, x - y, y - x).astype(np.uint64)
    difference = _unequal(name, gap > np.uint64(allowed.step), allowed)
    if gap.size and gap.any():
        position = _unravel(int(gap.argmax()), gap.shape)
        difference = replace(difference, max_abs=float(gap.max()), position=position)
    return difference


def _finite(name: str, a: Array, b: Array) -> Difference:
    """Whether `b` is finite wherever `a` is; how far it is from there, for the telling."""
    if not a.dtype.name.startswith(("float", "bfloat", "complex")):
        return Difference(name, ok=True, excess=0.0)
    x, y = (np.ravel(v).astype(np.complex128 if a.dtype.kind == "c" else np.float64) for v in (a, b))
    fine = np.isfinite(x)
    lost = fine & ~np.isfinite(y)
    if lost.any():
        at = int(np.argmax(lost))
        position = _unravel(at, a.shape)
        reason = f"is {y[at]:.6g} at {list(position)}, should be {x[at]:.6g}"
        return replace(_failure(name, reason), position=position)
    energy, noise = (float(np.square(np.abs(v[fine])).sum()) for v in (x, x - np.where(fine, y, 0)))
    return Difference(name, ok=True, excess=0.0, rms=math.sqrt(noise / energy) if energy else 0.0)


def _unequal(name: str, unequal: Array, allowed: Tolerance) -> Difference:
    share = float(np.mean(unequal)) if unequal.size else 0.0
    if share == 0.0:
        return Difference(name, ok=True, excess=0.0)
    position = _unravel(int(np.argmax(unequal)), unequal.shape)
    ok = share <= allowed.flips
    excess = share / allowed.flips if allowed.flips else math.inf
    count = int(np.count_nonzero(unequal))
    more = f" by more than {allowed.step}" if allowed.step else ""
    limit = f"; allowed: {allowed.flips:.2g} of them" if allowed.flips else ""
    reason = "" if ok else f"{count} of {unequal.size} elements differ{more}, first at {list(position)}{limit}"
    return Difference(name, ok, excess, reason, flips=share, position=position, sqnr=math.nan)


def _compare_floats(name: str, a: Array, b: Array, allowed: Tolerance) -> Difference:
    """One pass in chunks: largest difference and its place, the two energies, NaN and Inf out of place."""
    kind: type = np.complex128 if a.dtype.kind == "c" else np.float64
    flat_a, flat_b = np.ravel(a), np.ravel(b)
    energy = noise = scale = 0.0
    largest, where, unequal_bits = -1.0, 0, 0
    for start in range(0, flat_a.size, _CHUNK):
        raw_a, raw_b = flat_a[start : start + _CHUNK], flat_b[start : start + _CHUNK]
        x: Array = raw_a.astype(kind)
        y: Array = raw_b.astype(kind)
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.all():
            odd = ~finite & (x != y) & ~(np.isnan(x) & np.isnan(y))
            if odd.any():
                at = int(np.argmax(odd))
                position = _unravel(start + at, a.shape)
                return replace(
                    _failure(name, f"is {y[at]:.6g} at {list(position)}, should be {x[at]:.6g}"), position=position
                )
            x, y = np.where(finite, x, 0), np.where(finite, y, 0)
        d = np.abs(x - y)
        magnitude = np.abs(x)
        energy += float(magnitude @ magnitude)
        noise += float(d @ d)
        scale = max(scale, float(magnitude.max()))
        at = int(d.argmax())
        if d[at] > largest:
            largest, where = float(d[at]), start + at
        if allowed.bitwise:
            unequal_bits += int(np.count_nonzero(_bits_differ(raw_a, raw_b, finite)))
    if flat_a.size == 0:
        return Difference(name, ok=True, excess=0.0)
    position = _unravel(where, a.shape)
    size = flat_a.size
    sqnr = math.inf if noise == 0 else (10 * math.log10(energy / noise) if energy else -math.inf)
    relative = largest / scale if scale else (math.inf if largest else 0.0)
    rms = math.sqrt(noise / energy) if energy else (math.inf if noise else 0.0)
    if allowed.bitwise:
        ok, excess = unequal_bits == 0, math.inf if unequal_bits else 0.0
        limit = f"{unequal_bits} of {size} elements are not bit-identical"
    else:
        peak_excess = _ratio(largest, max(allowed.peak * scale, allowed.floor))
        rms_excess = _ratio(math.sqrt(noise / size), max(allowed.rms * math.sqrt(energy / size), allowed.floor))
        excess = max(peak_excess, rms_excess)
        ok = excess <= 1
        limit = (
            f"allowed {allowed.peak:.2g}"
            if peak_excess >= rms_excess
            else f"root mean square {rms:.3g} of its own, allowed {allowed.rms:.2g}"
        )
    reason = (
        ""
        if ok
        else (
            f"differs by up to {largest:.3g} ({relative:.3g} of its scale) at {list(position)}, "
            f"SQNR {sqnr:.1f} dB; {limit}"
        )
    )
    return Difference(
        name, ok, excess, reason, largest, relative, rms, sqnr, position=position if largest > 0 else None
    )


def _bits_differ(a: Array, b: Array, finite: Array) -> Array:
    """Elements whose bytes differ (so -0.0 is not 0.0); non-finite ones have been compared by value already."""
    width = a.dtype.itemsize
    raw = [np.ascontiguousarray(v).view(np.uint8).reshape(v.size, width) for v in (a, b)]
    differ: Array = (raw[0] != raw[1]).any(axis=1) & finite
    return differ


def _ratio(value: float, allowed: float) -> float:
    return 0.0 if value == 0 else (value / allowed if allowed else math.inf)


def _unravel(index: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(index, shape)) if shape else ()
