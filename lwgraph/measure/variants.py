"""Inputs unlike the given ones that a model takes, too: what a rewrite gets wrong there is seen on no others."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array
from lwgraph.calibrate.fills import booleans, integers, looks_like_image
from lwgraph.calibrate.input_use import IntegerUse, integer_use
from lwgraph.calibrate.signature import Input, batched_inputs, signature
from lwgraph.contract import Contract
from lwgraph.errors import LwgraphError
from lwgraph.executor import Feeds, Run
from lwgraph.flat import flat
from lwgraph.measure.compare import compare

BATCH = 3  # rows of another batch
MANY = 24  # rows of a batch that shows what few rows hardly do, such as places of highest values
SECONDS = 1.0  # that one run of all variants may take, about
LEAST = 2  # variants that are made however long they run
_MANY = f"a batch of {MANY}"
_ROUNDING = 2.0**-20  # of the largest value: a few roundings of float32
_ROUNDING_64 = 2.0**-49
_SPARE = 4  # by how much such an error must stay below what rounding may do to the outputs
_HALVES = np.array([-2, -1.5, -1, -0.5, 0, 0, 0.5, 1, 1.5, 2])


@dataclass(frozen=True, eq=False)
class Variant:
    """One feed.

    Attributes:
        feeds: the inputs.
        what: how they differ from the given ones, in words; "" for those themselves.
        natural: whether only sizes differ: the values are like the given ones, so that an approximation may be judged.
        steady: whether rounding of the inputs stays rounding of the outputs, so that contracts that allow rounding may
            be judged.
    """

    feeds: Feeds
    what: str = ""
    natural: bool = True
    steady: bool = True

    def counts(self, contract: Contract) -> bool:
        """Whether what a rewrite does to the outputs for this feed is judged under its contract."""
        return {Contract.APPROXIMATE: self.natural, Contract.ROUNDING: self.steady}.get(contract, True)


def variants(model: ir.Model, given: Sequence[Feeds], run: Run, seed: int = 0) -> list[Variant]:
    """Feeds that the model accepts and that differ from the given ones in batch, sizes, sign, scale or integers.

    Each is run once: what the model refuses, or gives NaN, infinity or nothing for, is left out. Where they take more
    than SECONDS together, the last ones are left out, too.

    Args:
        model: the model; not changed.
        given: feeds that it accepts, at least one.
        run: the model, prepared.
        seed: of the random numbers.
    """
    found: list[Variant] = []
    spent = 0.0
    single = {name: each for name, each in signature(model).items() if not each.sequence}  # others stay as they are
    for what, natural, candidates in _kinds(single, model, given, seed):
        if spent > SECONDS and len(found) >= LEAST:
            break
        if what == _MANY and spent > SECONDS / 10:  # it takes about twice as long as all before
            break
        for feeds in candidates:
            start = time.perf_counter()
            results = _accepted(run, feeds)
            spent += time.perf_counter() - start
            if results is not None:
                steady = natural or _steady(run, feeds, results, seed)
                found.append(Variant(feeds, what, natural, steady))
                break
    return found


def _accepted(run: Run, feeds: Feeds) -> Mapping[str, Any] | None:
    """The outputs; None where the model refuses the feeds, or computes nothing that could be compared."""
    try:
        results = run(feeds)
    except LwgraphError:
        return None
    for array in flat(results).values():
        if array.size == 0 or (array.dtype.kind == "f" and not np.isfinite(array).all()):
            return None
    return results


def _steady(run: Run, feeds: Feeds, results: Mapping[str, Any], seed: int) -> bool:
    """Whether errors of a few roundings in floating inputs stay small in the outputs."""
    rng = np.random.default_rng(seed)
    moved = dict(feeds)
    for name, array in feeds.items():
        if not isinstance(array, list) and _floating(array.dtype):
            share = _ROUNDING_64 if array.dtype == np.float64 else _ROUNDING
            noise = rng.uniform(-share, share, array.shape) * np.abs(array, dtype=np.float64).max(initial=0.0)
            moved[name] = (array + noise).astype(array.dtype)
    try:
        other = run(moved)
    except LwgraphError:
        return False
    worst = compare(results, other, Contract.ROUNDING).worst
    return worst is None or worst.excess * _SPARE <= 1


_Kind = tuple[str, bool, Iterator[dict[str, Array]]]  # what, natural, feeds of which the first that is accepted counts


def _kinds(inputs: Mapping[str, Input], model: ir.Model, given: Sequence[Feeds], seed: int) -> Iterator[_Kind]:
    base = given[0]
    batched = batched_inputs(inputs)
    lead = {_symbol(inputs[name], 0) for name in batched}
    if batched and None not in lead:
        yield f"a batch of {BATCH}", True, iter([_rows(given, batched, BATCH)])
    if sizes := _open_sizes(inputs, base, lead):
        yield "other sizes", True, _resized(inputs, base, sizes, _LARGER)
        yield "small sizes", True, _resized(inputs, base, sizes, _SMALLER)
    floats = [name for name in inputs if _floating(base[name].dtype)]

    def made(number: int, values: Callable[[np.random.Generator, tuple[int, ...]], Array]) -> dict[str, Array]:
        feeds = dict(given[number % len(given)])
        for position, name in enumerate(floats):
            rng = np.random.default_rng((seed, number, position))
            feeds[name] = values(rng, feeds[name].shape).astype(feeds[name].dtype)
        return feeds

    def scaled(number: int, *scales: float) -> Iterator[dict[str, Array]]:
        return (made(number, functools.partial(_normal, scale)) for scale in scales)

    if floats:
        yield "values of both signs", False, scaled(0, 1.0)
        yield "large values", False, scaled(1, 100.0, 10.0)
        yield "halves and zeros", False, iter([made(2, _halves)])
    uses = {n: integer_use(model, n, i.dtype) for n, i in inputs.items() if i.dtype.kind in "iu"}
    whole = [name for name, use in uses.items() if use.varied]
    for index, what in ((1, "integers of both signs"), (2, "large integers")) if whole else ():
        feeds = dict(given[index % len(given)])
        for position, name in enumerate(whole):
            rng = np.random.default_rng((seed, index, position))
            feeds[name] = integers(rng, feeds[name].shape, inputs[name].dtype, uses[name], "small", index)
        yield what, False, iter([feeds])
    signed = [name for name, i in inputs.items() if i.dtype.kind == "i"]
    indices = [name for name in signed if uses[name].bound is not None]
    places = [name for name in signed if uses[name].bound is None and not uses[name].varied]
    chosen = [names for names in ([*indices, *places], indices, places) if names]
    yield "places from the end", False, (_from_the_end(base, inputs, names, uses, seed) for names in chosen)
    shown = [name for name, i in inputs.items() if i.dtype.kind in "iu" and looks_like_image(base[name].shape)]
    if shown:
        feeds = dict(base)
        for position, name in enumerate(shown):
            rng = np.random.default_rng((seed, 5, position))
            feeds[name] = rng.integers(0, 255, feeds[name].shape, endpoint=True).astype(inputs[name].dtype)
        yield "noise in place of pictures", False, iter([feeds])
    if logical := [name for name, i in inputs.items() if i.dtype.kind == "b"]:
        for index in (1, 2):
            feeds = dict(given[index % len(given)])
            for position, name in enumerate(logical):
                feeds[name] = booleans(np.random.default_rng((seed, index, position)), feeds[name].shape, index)
            yield "other booleans", False, iter([feeds])
    if floats:
        yield "small values", False, scaled(3, 1e-3)
    if batched and None not in lead:
        many = _rows(given, batched, MANY)
        drawn = [name for name in inputs if name in batched and (name in floats or name in uses)]
        for position, name in enumerate(drawn):  # rows of their own, not one rolled
            rng = np.random.default_rng((seed, 4, position))
            shape, kind = many[name].shape, many[name].dtype
            if name in floats:
                many[name] = rng.standard_normal(shape).astype(kind)
            elif name in shown:
                many[name] = rng.integers(0, 255, shape, endpoint=True).astype(kind)
            else:
                many[name] = integers(rng, shape, inputs[name].dtype, uses[name], "small", 0)
        yield _MANY, False, iter([many])


def _from_the_end(
    base: Feeds, inputs: Mapping[str, Input], names: Sequence[str], uses: Mapping[str, IntegerUse], seed: int
) -> dict[str, Array]:
    """The base with -1, the last one, at the first place of the named inputs; what indexes a table, of both signs."""
    feeds = dict(base)
    for position, name in enumerate(names):
        rng, bound = np.random.default_rng((seed, 6, position)), uses[name].bound
        feeds[name] = feeds[name].copy() if bound is None else rng.integers(-bound, bound, feeds[name].shape)
        feeds[name] = feeds[name].astype(inputs[name].dtype)
        feeds[name].reshape(-1)[:1] = -1
    return feeds


def _normal(scale: float, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Normal values, of which two are surely far from zero, one on each side."""
    values: Array = scale * rng.standard_normal(shape)
    values.reshape(-1)[:2] = np.array([3 * scale, -3 * scale])[: values.size]
    return values


def _halves(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Multiples of a half, where ties and zeros are, the first quarter of them zeros."""
    values: Array = rng.choice(_HALVES, shape)
    values.reshape(-1)[: values.size // 4] = 0
    return values


def _symbol(wanted: Input, axis: int) -> str | None:
    """A name for an open size; None for a fixed one."""
    assert wanted.shape is not None
    size = wanted.shape[axis]
    return None if isinstance(size, int) else size or f"{wanted.name}/{axis}"


def _open_sizes(inputs: Mapping[str, Input], base: Feeds, batch: set[str | None]) -> dict[str, int]:
    """The open sizes that are no batch, as they are in the base, by symbol."""
    found: dict[str, int] = {}
    for name, wanted in inputs.items():
        for axis in range(wanted.rank or 0):
            symbol = _symbol(wanted, axis)
            if symbol is not None and symbol not in batch:
                found[symbol] = base[name].shape[axis]
    return found


_Changes = tuple[Callable[[int], int], ...]
_LARGER: _Changes = (lambda n: n + 1, lambda n: max(1, n // 2), lambda n: n + 32)
_SMALLER: _Changes = (lambda n: min(n, 2), lambda n: min(n, 5), lambda n: max(1, n // 4), lambda n: max(1, n // 2 + 1))


def _resized(
    inputs: Mapping[str, Input], base: Feeds, sizes: Mapping[str, int], changes: _Changes
) -> Iterator[dict[str, Array]]:
    """The base at other sizes: one more, half, and, for networks that halve their inputs often, 32 more; or small."""
    for change in changes:
        feeds = dict(base)
        for name, wanted in inputs.items():
            for axis in range(wanted.rank or 0):
                old = sizes.get(_symbol(wanted, axis) or "")
                if old is not None:
                    feeds[name] = _cut(feeds[name], axis, change(old))
        if any(feeds[name].shape != base[name].shape for name in inputs):
            yield feeds


def _cut(array: Array, axis: int, size: int) -> Array:
    """The array with another size, from its start on, again and again."""
    cut: Array = np.take(array, np.arange(size) % max(array.shape[axis], 1), axis)
    return cut


def _rows(given: Sequence[Feeds], batched: frozenset[str], count: int) -> dict[str, Array]:
    """Rows of the given feeds in one batch; the first one's, rolled and smaller, where these are too few or unlike.

    Rows that are equal would hide what is wrong for all but one of them.
    """
    feeds = dict(given[0])
    for name in batched:
        alike = [f[name] for f in given if f[name].shape[1:] == given[0][name].shape[1:]]
        rows = np.concatenate(alike)[:count]
        while len(rows) < count:
            other = np.roll(rows[:1], len(rows), axis=-1)
            rows = np.concatenate([rows, (other * 0.75).astype(rows.dtype) if _floating(rows.dtype) else other])
        feeds[name] = rows
    return feeds


def _floating(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"


__all__ = ["Variant", "variants"]
