"""Generated inputs, for models that come without data: right in shape, dtype and range, images where fitting."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.calibrate.fills import DOMAINS, SMALL, Fill, booleans, floats, integers, looks_like_image, picture, texts
from lwgraph.calibrate.input_use import IntegerUse, integer_use, known_texts, values_matter
from lwgraph.calibrate.signature import Input, signature
from lwgraph.errors import DataError, LwgraphError, ModelError, UsageError, did_you_mean
from lwgraph.flat import flat

if TYPE_CHECKING:
    from lwgraph.executor import Executor, Run

IMAGE_SIZES = (224, 320, 256, 640, 128, 64, 32, 28)
LENGTHS = (1, 0.5, 2, 0.25)  # of sentences, from feed to feed, in shares of the length that was found
ITEMS = (3, 2, 4, 1)  # of inputs that are sequences, from feed to feed
SEQUENCE_LENGTHS = (32, 16, 64, 128, 512, 256, 8, 1)
_MOST_AXES = 32  # that every version of NumPy has
_MOST_ELEMENTS = 1 << 30
_SLOW = 2.0  # seconds of processors that one run may take where smaller sizes will do
_MOST_POWER = 4.0  # of the number of elements, with which the time of a run is taken to grow
_LARGE = 1 << 16  # elements of inputs before which smaller ones are tried, where the sizes are open
_TRIALS = 24  # executions spent on finding sizes that the model accepts

Sizes = Mapping[str, tuple[int, ...]]


def generate(
    model: ir.Model,
    count: int,
    seed: int = 0,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    executor: Executor | None = None,
) -> list[dict[str, Array]]:
    """`count` feeds that the model accepts; the same seed gives the same feeds.

    Images (4 dimensions, 1, 3 or 4 channels) are smooth noise of several scales with edges and a little white noise,
    in 0..1 for even samples and normalised to about -2..2 for odd ones, since either may be what the model expects.
    Integers that index a table stay below its length; masks are ones, then ones and zeros behind them; sentences of
    tokens differ in length from feed to feed, where the model leaves it open; integers that state sizes,
    places or divisors are small (or ones, or zeros, as the model accepts). All others are small, then of both signs,
    then over the whole type, one feed after another; booleans are true, then both; texts are those that the graph looks
    for, then others, too. A feed that the model refuses, or answers with NaN, is made from small numbers again. Where
    all sizes and fills give NaN, floats are made positive, above 1, or between -1 and 1 (logarithms, inverse
    functions); NaN is taken only where these give it, too, and an empty output beside others only where all sizes and
    fills give one: a detector that finds nothing in noise.
    `tried` says what was made.

    Dynamic dimensions: 1 for the batch, otherwise usual sizes, tried by executing the model until it accepts; smaller
    ones where it takes long.

    Args:
        model: the model; it is not changed.
        count: how many feeds, at least 1.
        seed: of the random numbers.
        shapes: full shapes by input name, for inputs whose sizes cannot be found so.
        executor: what tries the sizes; None: ONNX Runtime.

    Raises:
        UsageError: `shapes` names no input or contradicts it.
        DataError: the model accepts none of the inputs tried; the message has its last complaint.
        ModelError: neither do other inputs help: nothing depends on their values, and their sizes are fixed.
    """
    if count < 1:
        raise UsageError(f"count {count} must be at least 1")
    inputs = signature(model)
    stated = {name: tuple(shape) for name, shape in (shapes or {}).items()}
    for name, shape in stated.items():
        if name not in inputs:
            raise UsageError(f"the model has no input '{name}'{did_you_mean(name, inputs)}")
        declared = inputs[name].shape
        if declared is not None and (
            len(declared) != len(shape)
            or any(isinstance(d, int) and d != s for d, s in zip(declared, shape, strict=True))
        ):
            raise UsageError(f"shape {list(shape)} contradicts input '{name}' ({inputs[name]})")
    uses = {name: integer_use(model, name, i.dtype) for name, i in inputs.items() if i.dtype.kind in "iu"}
    run = (executor or registry.executor("ort")).prepare(model)
    kinds = ("small", "ones", "zeros") if any(use.bound is None for use in uses.values()) else ("small",)
    known = {name: known_texts(model, name) for name, i in inputs.items() if i.dtype.kind == "O"}
    maker = _Maker(run, inputs, uses, seed, {}, Fill(texts=known))
    found, problem = _accepted(maker, stated, [Fill(kind, texts=known) for kind in kinds])
    if found is not None:
        return [found.feed(0), *(found.later(index) for index in range(1, count))]
    # Only sizes that are open can be given.
    opened = {
        name: "?" if i.shape is None else ",".join(str(d) if isinstance(d, int) else "?" for d in i.shape)
        for name, i in inputs.items()
        if i.shape is None or not all(isinstance(d, int) for d in i.shape)
    }
    if not opened and not values_matter(model) and not _too_much(next(_sizes(inputs, stated))):
        raise ModelError(f"the model gives nothing for any input of its sizes ({problem}); mend the model")
    sizes_too = "".join(f" --input-shape {name}:{text}" for name, text in opened.items())
    raise DataError(
        f"the model accepts no generated input ({problem}); give --data"
        + (f", or its sizes:{sizes_too}" if opened else "")
    )


@dataclass(frozen=True)
class _Maker:
    """Makes feeds of some sizes.

    Attributes:
        run: the model, ready to run.
        inputs, uses: what it declares, and what it does with integers.
        seed: of the random numbers.
        sizes: of all inputs.
        fill: what they are made of.
    """

    run: Run
    inputs: Mapping[str, Input]
    uses: Mapping[str, IntegerUse]
    seed: int
    sizes: Sizes
    fill: Fill

    def filled(self, *, integers: str | None = None, floats: str | None = None) -> _Maker:
        """The maker with another fill."""
        fill = replace(self.fill, integers=integers or self.fill.integers, floats=floats or self.fill.floats)
        return replace(self, fill=fill)

    def feed(self, index: int, tame: bool = False) -> dict[str, Array]:
        """Feed number `index`; `tame`: with the values of the first where others may be refused."""
        feeds: dict[str, Array] = {}
        for position, (name, wanted) in enumerate(self.inputs.items()):
            rng, number = np.random.default_rng((self.seed, index, position)), 0 if tame else index
            if wanted.sequence:
                made = [self._array(wanted, rng, index, number) for _ in range(ITEMS[number % len(ITEMS)])]
                feeds[name] = cast(Array, made)  # what runs a model takes a list for a sequence
            else:
                feeds[name] = self._array(wanted, rng, index, number)
        return feeds

    def _array(self, wanted: Input, rng: np.random.Generator, index: int, number: int) -> Array:
        """An input, or an item of one; `number`: that of the feed, or 0."""
        shape, dtype = self.sizes[wanted.name], wanted.dtype
        if dtype.kind == "O":
            return texts(rng, shape, self.fill.texts.get(wanted.name, ()), number)
        if dtype.kind == "b":
            return booleans(rng, shape, number) if number else np.ones(shape, bool)
        if dtype.kind in "iu" and looks_like_image(shape):
            return np.asarray((picture(rng, shape) * 255).round().astype(dtype))
        if dtype.kind in "iu":
            return integers(rng, shape, dtype, self.uses[wanted.name], self.fill.integers, number)
        made = floats(rng, shape, index).astype(dtype)
        domain = DOMAINS.get(self.fill.floats)
        return made if domain is None else domain(made.astype(np.float64)).astype(dtype)

    def gives_nan(self, feeds: Mapping[str, Array]) -> bool | None:
        """Whether the model answers with NaN; None where it refuses the feed."""
        try:
            return _has_nan(self.run(feeds))
        except LwgraphError:
            return None

    @property
    def nan_in_pictures(self) -> bool:
        """Whether the second feed gives NaN, where it has pictures: unlike those of the first, they have both signs."""
        pictured = any(
            i.dtype.kind not in "Obiu" and looks_like_image(self.sizes[name]) for name, i in self.inputs.items()
        )
        return pictured and self.gives_nan(self.feed(1)) is True

    def without_nan(self) -> _Maker:
        """The maker with the first domain of floats that gives no NaN; as it is where all do."""
        for domain in DOMAINS:
            other = self.filled(floats=domain)
            if other.gives_nan(other.feed(0)) is False and not other.nan_in_pictures:
                return other
        return self

    def later(self, index: int) -> dict[str, Array]:
        """A feed after the first. With integers, booleans or texts it is tried, made tamer when refused or answered by
        NaN.

        Where there are tokens, sentences differ in length from feed to feed, as far as the model accepts that.
        """
        if (other := self._other_length(index)) is not None:
            varied = other.feed(index)
            if self.gives_nan(varied) is False:
                return varied
        feeds = self.feed(index)
        if not any(
            i.dtype.kind in "bO" or (i.dtype.kind in "iu" and self.uses[name].bound is None)
            for name, i in self.inputs.items()
        ):
            return feeds
        tame, own = self.feed(index, tame=True), self.fill.integers
        # Integers that must be ones to be accepted together, such as counts, may often be others for a change.
        bolder = [self.filled(integers=kind).feed(index) for kind in ("small", *SMALL) if own not in ("small", kind)]
        ones = self.filled(integers="ones").feed(index, tame=True)
        return next((each for each in (*bolder, feeds, tame, ones) if self.gives_nan(each) is False), tame)

    def _other_length(self, index: int) -> _Maker | None:
        """The maker of sentences of another length; None where no input has tokens along an axis that is open."""
        symbols = {
            (self.inputs[name].shape or ())[1]
            for name, use in self.uses.items()
            if (use.bound is not None or use.mask) and len(self.inputs[name].shape or ()) == 2
        }
        named = {symbol for symbol in symbols if isinstance(symbol, str)}
        share = LENGTHS[index % len(LENGTHS)]
        if not named or share == 1:
            return None
        sizes = {
            name: tuple(
                max(2, round(share * size)) if symbol in named else size
                for size, symbol in zip(shape, self.inputs[name].shape or shape, strict=True)
            )
            for name, shape in self.sizes.items()
        }
        return replace(self, sizes=sizes)


def _accepted(maker: _Maker, stated: Sizes, fills: Sequence[Fill]) -> tuple[_Maker | None, str]:
    """The maker with sizes and a fill that the model accepts, quickly and without NaN if there are such; or None, and
    its last complaint.

    What grows faster than the input, such as attention over all pixels, may take minutes and all memory at a usual
    size. So a large one is tried after the smaller ones, and only where they let expect that it will be quick."""
    nothing = any(0 in (stated.get(name) or i.shape or ()) for name, i in maker.inputs.items())
    pairs = itertools.islice(itertools.product(_sizes(maker.inputs, stated), fills), _TRIALS)
    candidates = [replace(maker, sizes=sizes, fill=fill) for sizes, fill in pairs]
    ascending = sorted(range(len(candidates)), key=lambda index: _elements(candidates[index].sizes))
    trials: dict[int, _Trial] = {}
    problem = "no size was tried"
    slow: _Maker | None = None  # the smallest so far
    with_nan: _Maker | None = None
    with_nothing: _Maker | None = None  # where something is found in pictures, or nothing
    for index, candidate in enumerate(candidates):
        size = _elements(candidate.sizes)
        if slow is not None and size >= _elements(slow.sizes):
            continue
        smaller = (each for each in ascending if _elements(candidates[each].sizes) < size)
        for each in (*(smaller if size > _LARGE else ()), index):
            if each not in trials and _expected(trials.values(), _elements(candidates[each].sizes)) <= _SLOW:
                trials[each] = _tried(candidates[each], nothing)
        if (trial := trials.get(index)) is None:
            continue
        if trial.problem:
            problem = trial.problem
        elif trial.empty:
            with_nothing = with_nothing or candidate
        elif trial.nan or candidate.nan_in_pictures:
            with_nan = with_nan or candidate
        elif trial.seconds > _SLOW:
            slow = candidate
        else:
            return candidate, ""
    return slow or (with_nan and with_nan.without_nan()) or with_nothing, problem


@dataclass(frozen=True)
class _Trial:
    """What came of the first feed: the model's complaint, the seconds of processors that it took, of how many elements
    it was, whether the outputs have NaN, and whether some are empty."""

    problem: str
    elements: int
    seconds: float = 0.0
    nan: bool = False
    empty: bool = False


def _tried(candidate: _Maker, nothing: bool) -> _Trial:
    """A trial of one candidate; `nothing`: the inputs are empty, and the outputs may be."""
    elements = _elements(candidate.sizes)
    if too_much := _too_much(candidate.sizes):
        return _Trial(too_much, elements)
    start = time.process_time()
    try:
        outputs = candidate.run(candidate.feed(0))
    except LwgraphError as error:
        return _Trial(str(error), elements)
    seconds = time.process_time() - start
    empty = [value.size == 0 for value in flat(outputs).values()]
    if not nothing and empty and all(empty):
        return _Trial(f"its outputs are empty for {_describe(candidate.sizes)}", elements, seconds)
    return _Trial("", elements, seconds, _has_nan(outputs), not nothing and any(empty))


def _expected(trials: Iterable[_Trial], elements: int) -> float:
    """The seconds that inputs of so many elements will take, as a power of their number through the two largest trials
    that the model accepted and that are twice apart; 0 where there are none."""
    done = sorted((each.elements, each.seconds) for each in trials if not each.problem)
    if not done or done[-1][0] >= elements:
        return 0.0
    most, seconds = done[-1]
    power = 1.0
    if earlier := [(size, took) for size, took in done if 2 * size <= most and 0 < took < seconds]:
        size, took = earlier[-1]
        power = max(power, min(_MOST_POWER, math.log(seconds / took) / math.log(most / size)))
    return seconds * math.pow(min(elements, _MOST_ELEMENTS) / most, power)


def _elements(sizes: Sizes) -> int:
    return sum(map(math.prod, sizes.values()))


def _has_nan(outputs: Mapping[str, Array]) -> bool:
    arrays = flat(outputs).values()
    return any(array.dtype.kind == "f" and bool(np.isnan(array).any()) for array in arrays)


def _too_much(sizes: Sizes) -> str:
    """Why arrays of these sizes are not made, in words; "" when they can be."""
    for name, shape in sizes.items():
        if len(shape) > _MOST_AXES:
            return f"input '{name}' has {len(shape)} axes, at most {_MOST_AXES} are possible"
        if math.prod(shape) > _MOST_ELEMENTS:
            return f"input '{name}' has {math.prod(shape):.3g} elements, at most {_MOST_ELEMENTS:.3g} are made"
    return ""


def tried(feeds: Sequence[Mapping[str, Array]]) -> str:
    """Generated feeds in words: for each input its type and the range of its values."""
    words = []
    for name in feeds[0] if feeds else ():
        fed = [each[name] for each in feeds if name in each]
        arrays = [array for each in fed for array in (each if isinstance(each, list) else [np.asarray(each)])]
        filled = [array for array in arrays if array.size]
        kind = arrays[0].dtype
        if kind.kind == "O" and filled:
            different = len({text for array in filled for text in array.reshape(-1).tolist()})
            words.append(f"'{name}' {different} different text{'s' * (different != 1)}")
            continue
        if kind.kind not in "iufb" or not filled:
            words.append(f"'{name}' {kind.name}")
            continue
        low, high = min(a.min() for a in filled), max(a.max() for a in filled)
        text = f"{low:.3g}..{high:.3g}" if kind.kind == "f" else f"{low}..{high}"
        words.append(f"'{name}' {kind.name} {text}")
    return f"{len(feeds)} generated inputs: " + ", ".join(words)


def _sizes(inputs: Mapping[str, Input], stated: Sizes) -> Iterator[dict[str, tuple[int, ...]]]:
    """Candidate shapes for all inputs; one symbol has one size throughout, each shape is offered once."""
    seen: set[tuple[tuple[int, ...], ...]] = set()
    for channels in (3, 1):
        for image, sequence in itertools.zip_longest(IMAGE_SIZES, SEQUENCE_LENGTHS):
            symbols: dict[str, int] = {}
            for name, shape in stated.items():
                symbols |= {d: s for d, s in zip(inputs[name].shape or (), shape, strict=False) if isinstance(d, str)}
            made = {
                name: stated.get(name)
                or _shape(i, image or IMAGE_SIZES[0], sequence or SEQUENCE_LENGTHS[0], channels, symbols)
                for name, i in inputs.items()
            }
            key = tuple(made.values())
            if key not in seen:
                seen.add(key)
                yield made


def _shape(wanted: Input, image: int, sequence: int, channels: int, symbols: dict[str, int]) -> tuple[int, ...]:
    if wanted.shape is None:
        return (1, channels, image, image)
    rank = len(wanted.shape)
    # Of an image with one fixed side (text lines), the other is a few times as long.
    fixed_side = next((d for d in wanted.shape[2:] if isinstance(d, int)), None) if rank == 4 else None
    made: list[int] = []
    for axis, dim in enumerate(wanted.shape):
        if isinstance(dim, int):
            made.append(dim)
            continue
        if axis == 0 or (rank == 3 and axis == 1 and _fixed_state(wanted.shape)):
            size = 1
        elif rank == 4:
            last = wanted.shape[3] in (1, 3)
            side = image if fixed_side is None or last else max(image, 4 * fixed_side)
            size = channels if axis == 1 and not last else side
        else:
            size = sequence
        made.append(symbols.setdefault(dim, size) if isinstance(dim, str) else size)
    return tuple(made)


def _fixed_state(shape: Sequence[int | str | None]) -> bool:
    """Whether this looks like the state of a recurrent layer: [layers or directions, batch, hidden]."""
    return isinstance(shape[0], int) and shape[0] > 1 and isinstance(shape[2], int)


def _describe(sizes: Sizes) -> str:
    return ", ".join(f"'{name}' {list(shape)}" for name, shape in sizes.items())


__all__ = ["generate", "tried"]
