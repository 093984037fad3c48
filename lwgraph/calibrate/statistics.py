"""Statistics of layer inputs on calibration data, collected on first use for many layers in one streaming run."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from lwgraph import ir
from lwgraph.arrays import Array, Index
from lwgraph.calibrate.capture import ACTIVATION_BYTES, capture, grouped, main_values, measured_shapes
from lwgraph.calibrate.gram import CrossAccumulator, CrossMoments, Gram, GramAccumulator, NoMomentsError
from lwgraph.calibrate.patches import Layer, Patches, positions
from lwgraph.calibrate.sketch import BLOCK, CAPACITY, FactoredGram, Sketch
from lwgraph.calibrate.store import Store
from lwgraph.errors import DataError
from lwgraph.executor import Executor, untimed
from lwgraph.progress import Progress, silent

MEMORY_BYTES = 1 << 30
NARROW, WIDE = 1024, 20_000  # entries of a patch up to which moments are exact in any case, and without an allowance
AT_ONCE = 1024  # patches taken from a value at once, where there is an allowance
COPIES = 4  # of a matrix of moments, that a fit makes of it
ROWS_PER_UNKNOWN = 6  # patches collected per entry of a patch; fits are good from about 5
LEAST_ROWS = 2048
MORE_ROWS, ROW_WORK = 4, 4 * 10**10  # up to so many times as many, while their products take no more multiply-adds
HELD_OUT_ROWS = 1024
SAMPLE_IMAGES, SAMPLE_SIDE, SAMPLE_ROWS = 2, 12, 128
HELD_OUT_BYTES = 8 << 20  # memory for the held-out patches of one layer


def rows_for(width: int, per_unknown: int = ROWS_PER_UNKNOWN, least: int | None = None) -> int:
    """The number of patches of `width` entries to collect: `per_unknown` for each, and at least `least` (LEAST_ROWS).

    Up to MORE_ROWS times as many where they cost little, no more than ROW_WORK multiply-adds in all: short patches, for
    which fits gain from more samples what long ones cannot afford.
    """
    least = LEAST_ROWS if least is None else least
    return max(least, per_unknown * width, min(MORE_ROWS * per_unknown * width, ROW_WORK // width**2))


class FeedSource(Protocol):
    """Feeds that can be counted and iterated again and again: a list, or a `Reader`."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


@dataclass(frozen=True)
class _Want:
    """One thing to collect: patches of one value in one geometry."""

    name: str
    patches: Patches


class Statistics:
    """Gram matrices and held-out patches of a model's sites.

    `gram(site)` collects what is missing in a streaming run; call `prefetch(sites)` first to collect many in one run.
    Sites with the same input value and patch geometry share one result. The model is copied (its weights are not), so
    that rewriting it later changes nothing here: sites are found again by the name of their input value.

    Moments are exact where `memory_bytes` has room for them in accumulators and in a fit, so that the layers with the
    longest patches are the first that are factored (see `FactoredGram`); `exact(site)` tells. Patches of up to NARROW
    entries always have exact moments, which take no more than a factor.

    Memory: half of `memory_bytes` for accumulators (sites that do not fit wait for another run over the data), half for
    results (the rest goes to temporary files), plus `activation_bytes` for captured values. What `release` drops is
    collected again when it is asked for.

    Args:
        model: the model that runs; sites are of this model.
        feeds: calibration feeds, counted and re-iterable.
        executor: what runs the model.
        seed: of the sampled positions and the held-out feeds.
        rows_per_unknown: patches per entry of a patch; see `rows_for`. They are spread evenly over the feeds.
        held_out: share of the feeds kept out of the Grams, for `held_out(site)`; 0: none.
        memory_bytes: the bound above. None: MEMORY_BYTES, but for a layer with patches of up to WIDE entries, whose
            moments are exact whatever they take.
        activation_bytes: the bound above.
        progress: called with (what, runs done, runs in all); an attribute, which others may set.
    """

    def __init__(
        self,
        model: ir.Model,
        feeds: FeedSource,
        executor: Executor,
        seed: int = 0,
        *,
        rows_per_unknown: int = ROWS_PER_UNKNOWN,
        held_out: float = 0.0,
        memory_bytes: int | None = None,
        activation_bytes: int = ACTIVATION_BYTES,
        progress: Progress = silent,
    ) -> None:
        if not len(feeds):
            raise DataError("statistics need calibration samples; there are none")
        self._model, self._feeds, self._executor, self._seed = ir.clone(model), feeds, executor, seed
        self._values = frozenset(main_values(self._model))
        self._rows_per_unknown, self._activation_bytes = rows_per_unknown, activation_bytes
        self._allowance = memory_bytes
        self._accumulator_bytes = (MEMORY_BYTES if memory_bytes is None else memory_bytes) // 2
        self._store = Store(self._accumulator_bytes)
        self._at_once = sys.maxsize if memory_bytes is None else AT_ONCE
        self.progress = progress
        self._unfit: dict[_Want, str] = {}
        self._held_feeds = _held_feeds(len(feeds), held_out, seed)
        self._share = held_out if held_out and not self._held_feeds else 0.0  # share of a single feed's positions

    def prefetch(self, sites: Iterable[Layer]) -> None:
        """Collect what `sites` need and is not there yet. Raises as `gram`."""
        wants = dict.fromkeys(w for w in map(_want, sites) if not self._known(w))
        if not wants:
            return
        shapes = self._shapes([w.name for w in wants])
        sizes = [self._size(w.patches.group, _width(w, shapes)) for w in wants]
        listed = list(wants)
        for group in grouped(sizes, self._accumulator_bytes):
            self._collect([listed[i] for i in group], shapes)

    def _known(self, want: _Want) -> bool:
        return ("gram", want) in self._store or want in self._unfit

    def unfit(self, site: Layer) -> str:
        """Why a site has no moments, collected now if they were not: values that are not finite, or none; else "".

        Raises:
            ModelError: as `gram`.
        """
        self._ensure(site)
        return self._unfit.get(_want(site), "")

    def _ensure(self, site: Layer) -> None:
        if not self._known(_want(site)):
            self.prefetch([site])

    def knows(self, site: Layer) -> bool:
        """Whether the site's input is a value of the model that these are of; not where a rewrite put it there."""
        return (site.input.name or "") in self._values

    def exact(self, site: Layer) -> bool:
        """Whether the site's moments are kept as matrices; they are factored otherwise."""
        return self._exact(Patches.of(site).group, site.fan_in)

    def release(self, sites: Iterable[Layer]) -> None:
        """Forget what was collected for `sites`, in memory and on disk."""
        for want in dict.fromkeys(map(_want, sites)):
            self._unfit.pop(want, None)
            for kind in ("gram", "held", "sample"):
                if (kind, want) in self._store:
                    self._store.drop((kind, want))

    def _exact(self, groups: int, width: int) -> bool:
        if width <= NARROW:
            return True
        if self._allowance is None:
            return width <= WIDE
        matrix = 8 * groups * width**2
        return max(2 * (GramAccumulator.size(groups, width) + matrix), COPIES * matrix) <= self._allowance

    def _size(self, groups: int, width: int) -> int:
        """Bytes that collecting a layer's moments takes."""
        if not self._exact(groups, width):
            return Sketch.size(groups, width, self._capacity(groups, width))
        result = 0 if self._allowance is None else 8 * groups * width**2  # while its accumulator is still there
        return GramAccumulator.size(groups, width) + result

    def _capacity(self, groups: int, width: int) -> int:
        """The rows of a factor, for which half the allowance has room."""
        return CAPACITY if self._allowance is None else Sketch.capacity(groups, width, self._accumulator_bytes)

    def gram(self, site: Layer) -> Gram | FactoredGram:
        """Moments of the site's input patches over the feeds that are not held out; a Gram where `exact(site)`.

        Raises:
            ModelError: the site's input is not a value of the model's main graph.
            DataError: its values are not finite, or there are none.
        """
        *arrays, count = self._of(site, "gram")
        return _gram(arrays, int(count))

    def held_out(self, site: Layer) -> Array:
        """(r, G, D) input patches that no Gram has seen, to measure the true error of a fit. r <= HELD_OUT_ROWS.

        Raises:
            DataError: the statistics were made with held_out=0. Otherwise as `gram`.
        """
        if not self._held_feeds and not self._share:
            raise DataError("no calibration samples are held out; make the statistics with a positive held_out")
        return self._of(site, "held")[0]

    def sample(self, site: Layer) -> Array:
        """A part of the site's input on the first feed: at most SAMPLE_IMAGES images (rows, for a Gemm or MatMul,
        SAMPLE_ROWS) cut to SAMPLE_SIDE positions a side and what the kernel reaches beyond; to verify a rewrite on.
        Where the site is `unfit`, zeros stand for what is not finite.

        Raises:
            ModelError: as `gram`.
        """
        self._ensure(site)
        want = _want(site)
        found = self._store.get(("sample", want))[0]
        return found if want not in self._unfit else np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)

    def _of(self, site: Layer, kind: str) -> tuple[Array, ...]:
        self._ensure(site)
        want = _want(site)
        if want in self._unfit:
            raise DataError(self._unfit[want])
        return self._store.get((kind, want))

    def _shapes(self, names: list[str]) -> Mapping[str, tuple[int, ...]]:
        return measured_shapes(self._model, names, next(iter(self._feeds)), self._executor)

    def _collect(self, wants: list[_Want], shapes: Mapping[str, tuple[int, ...]]) -> None:
        by_name: dict[str, list[_Want]] = {}
        for want in wants:
            by_name.setdefault(want.name, []).append(want)
        grams: dict[_Want, GramAccumulator | Sketch] = {}
        held: dict[_Want, list[Array]] = {w: [] for w in wants}
        fit_feeds = len(self._feeds) - len(self._held_feeds)
        values = capture(
            self._model,
            list(by_name),
            self._feeds,
            self._executor,
            activation_bytes=self._activation_bytes,
            progress=lambda done, total: self.progress("collecting statistics", done, total),
        )
        for index, arrays in values:
            for name, array in arrays.items():
                for want in [each for each in by_name[name] if each not in self._unfit]:
                    width = _width(want, shapes)
                    if want not in grams:
                        grams[want] = self._accumulator(want, width, array.dtype)
                        self._store.put(("sample", want), (_part(array, want.patches),))
                    apart, at = self._positions(want, array.shape, width, index, self._rows(want, width, fit_feeds))
                    if len(apart):
                        held[want].append(want.patches.rows(array, apart))
                    step = BLOCK if isinstance(grams[want], Sketch) else self._at_once
                    try:
                        for start in range(0, len(at), step):
                            grams[want].add(want.patches.rows(array, at[start : start + step]))
                    except NoMomentsError as error:
                        self._give_up(want, error)
        for want in [each for each in wants if each not in self._unfit]:
            try:
                gram = grams.pop(want).result()
            except NoMomentsError as error:
                self._give_up(want, error)
                continue
            self._store.put(("gram", want), _arrays(gram))
            if held[want]:
                self._store.put(("held", want), (np.concatenate(held[want]),))

    def _give_up(self, want: _Want, why: NoMomentsError) -> None:
        """A layer that cannot be measured is none of the others' business."""
        self._unfit[want] = str(why)

    def _accumulator(self, want: _Want, width: int, dtype: Any) -> GramAccumulator | Sketch:
        groups = want.patches.group
        if self._exact(groups, width):
            return GramAccumulator(groups, width, np.float64 if dtype == np.float64 else np.float32, want.name)
        return Sketch(groups, width, want.name, self._capacity(groups, width))

    def _rows(self, want: _Want, width: int, feeds: int) -> int:
        """How many patches to take of one feed."""
        rows, groups = rows_for(width, self._rows_per_unknown), want.patches.group
        if not self._exact(groups, width):
            rows = min(rows, Sketch.rows(groups, width, self._capacity(groups, width)))
        return math.ceil(rows / feeds)

    def _positions(
        self, want: _Want, shape: tuple[int, ...], width: int, index: int, wanted: int
    ) -> tuple[Index, Index]:
        """The positions of one feed that are held out, and those that go into the Gram."""
        none = np.arange(0)
        total, rng = want.patches.count(shape), np.random.default_rng((self._seed, index))
        if index in self._held_feeds:
            return positions(total, _held_rows(want, width, len(self._held_feeds)), rng), none
        at = positions(total, wanted, rng)
        if not self._share:
            return none, at
        apart = min(max(1, round(self._share * len(at))), _held_rows(want, width, 1), len(at) - 1)
        chosen = rng.permutation(len(at))
        return at[np.sort(chosen[:apart])], at[np.sort(chosen[apart:])]


def cross_moments(
    original: ir.Model,
    targets: Mapping[str, str],
    rewritten: ir.Model,
    sites: Iterable[Layer],
    feeds: FeedSource,
    executor: Executor,
    seed: int = 0,
    *,
    rows_per_unknown: int = ROWS_PER_UNKNOWN,
    activation_bytes: int = ACTIVATION_BYTES,
) -> dict[str, CrossMoments]:
    """Moments of each site's input patches in the rewritten model and of its output in the original.

    Both models run side by side on every feed, each holding at most half of `activation_bytes`; all accumulators are in
    memory at once, so pass few sites (the sequential refit passes one, or one stage).

    Args:
        original: the model whose outputs are aimed at.
        targets: for each site's name, the value of `original` that the site should produce: (n, o, *grid) for a
            convolution, (..., o) for Gemm and MatMul.
        rewritten: the model that the sites belong to.
        sites: the layers to refit.
        feeds: calibration feeds, counted and re-iterable.
        executor: what runs both.
        seed: of the sampled positions.

    Raises:
        ModelError: a value does not exist. DataError: the shapes of site and target do not agree.

    Returns:
        by the site's name; those are left out whose values are not finite.
    """
    listed = list(sites)
    unfit: set[str] = set()
    found: dict[str, CrossAccumulator] = {}
    executor = untimed(executor)
    names = [_want(site).name for site in listed]
    shapes = measured_shapes(rewritten, names, next(iter(feeds)), executor)
    sizes = [4 * math.prod(shapes[name]) for name in names]
    for group in grouped(sizes, activation_bytes // 2):
        part = [listed[i] for i in group]
        inputs = executor.prepare(rewritten, list(dict.fromkeys(names[i] for i in group)))
        outputs = executor.prepare(original, list(dict.fromkeys(targets[site.name] for site in part)))
        for index, feed in enumerate(feeds):
            xs, ys = inputs(feed), outputs(feed)
            for site in [each for each in part if each.name not in unfit]:
                try:
                    _add_pair(found, site, xs, ys[targets[site.name]], index, len(feeds), seed, rows_per_unknown)
                except NoMomentsError:
                    unfit.add(site.name)
    made: dict[str, CrossMoments] = {}
    for site in [each for each in listed if each.name not in unfit]:
        with contextlib.suppress(NoMomentsError):
            made[site.name] = found[site.name].result()
    return made


def _add_pair(
    found: dict[str, CrossAccumulator],
    site: Layer,
    xs: Mapping[str, Array],
    y: Array,
    index: int,
    feeds: int,
    seed: int,
    rows_per_unknown: int,
) -> None:
    want = _want(site)
    x, patches = xs[want.name], want.patches
    total = patches.count(x.shape)
    rows_y = np.moveaxis(y, 1, -1).reshape(-1, y.shape[1]) if patches.kernel else y.reshape(-1, y.shape[-1])
    if rows_y.shape != (total, site.outputs):
        raise DataError(
            f"layer '{site.name}' has {total} positions of {site.outputs} outputs, its target {list(y.shape)}"
        )
    width = site.fan_in
    wanted = math.ceil(rows_for(width, rows_per_unknown) / feeds)
    at = positions(total, wanted, np.random.default_rng((seed, index)))
    rows = patches.rows(x, at)
    if site.name not in found:
        found[site.name] = CrossAccumulator(patches.group, site.outputs // patches.group, width, rows.dtype, site.name)
    found[site.name].add(rows, rows_y[at].reshape(len(at), patches.group, -1).astype(rows.dtype))


def _arrays(gram: Gram | FactoredGram) -> tuple[Array, ...]:
    if isinstance(gram, Gram):
        return gram.matrix, gram.mean, np.array(gram.count)
    return gram.factor, gram.rest, gram.mean, gram.slack, np.array(gram.count)


def _gram(arrays: Sequence[Array], count: int) -> Gram | FactoredGram:
    if len(arrays) == 2:
        return Gram(arrays[0], arrays[1], count)
    factor, rest, mean, slack = arrays
    return FactoredGram(factor, rest, mean, count, slack)


def _want(site: Layer) -> _Want:
    assert site.input.name is not None
    return _Want(site.input.name, Patches.of(site))


def _part(array: Array, patches: Patches) -> Array:
    """A copy of the middle of an input; see `Statistics.sample`."""
    if not patches.kernel:
        rows: Array = array.reshape(-1, array.shape[-1])[:SAMPLE_ROWS].copy()
        return rows
    cut = [slice(0, SAMPLE_IMAGES), slice(None)]
    for size, kernel, dilation, stride in zip(
        array.shape[2:], patches.kernel, patches.dilations, patches.strides, strict=True
    ):
        side = min(size, (kernel - 1) * dilation + 1 + SAMPLE_SIDE * (1 if patches.transposed else stride))
        start = (size - side) // 2
        cut.append(slice(start, start + side))
    part: Array = array[tuple(cut)].copy()
    return part


def _width(want: _Want, shapes: Mapping[str, tuple[int, ...]]) -> int:
    return want.patches.width(shapes[want.name][1 if want.patches.kernel else -1])


def _held_rows(want: _Want, width: int, feeds: int) -> int:
    """Patches held out of one feed, so that all together keep HELD_OUT_ROWS and HELD_OUT_BYTES."""
    fits = HELD_OUT_BYTES // (4 * width * want.patches.group)
    return max(1, min(HELD_OUT_ROWS, fits) // feeds)


def _held_feeds(count: int, share: float, seed: int) -> Collection[int]:
    if not 0 <= share < 1:
        raise DataError(f"held_out {share} is not a share from 0 to below 1")
    if not share or count < 2:
        return frozenset()
    held = min(count - 1, max(1, round(share * count)))
    return frozenset(int(i) for i in np.random.default_rng((seed, 0)).permutation(count)[:held])
