"""Generated inputs, for models that come without data: right in shape, dtype and range, images where fitting."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.calibrate.signature import Input, signature
from lwgraph.errors import DataError, LwgraphError, UsageError, did_you_mean
from lwgraph.flat import flat

if TYPE_CHECKING:
    from lwgraph.executor import Executor, Run

IMAGE_SIZES = (224, 320, 256, 640, 128, 64, 32, 28)
LENGTHS = (1, 0.5, 2, 0.25)  # of sentences, from feed to feed, in shares of the length that was found
SEQUENCE_LENGTHS = (32, 16, 64, 128, 512, 256, 8, 1)
_MOST_AXES = 32  # that every version of NumPy has
_MOST_ELEMENTS = 1 << 30
_SLOW = 2.0  # seconds of processors that one run may take where smaller sizes will do
_TRIALS = 24  # executions spent on finding sizes that the model accepts
_TEXTS = ("a", "B", "", "1.5", "two words", "ü")
_TEXT_ATTRIBUTES = {"cats_strings", "classes_strings", "keys_strings", "pool_strings", "string_vocabulary", "stopwords"}
_MOST_TEXTS = 64
_SMALL = {"positive": (1, 7), "few": (1, 2)}  # least and greatest integers
_INDEX_OPS = {"Gather", "GatherElements", "OneHot"}
_PASSING_OPS = ir.RESHAPES | {"Cast", "Identity", "Transpose", "Clip"}


# Where functions of floats are defined that are not so everywhere, by name.
DOMAINS: dict[str, Callable[[Array], Array]] = {
    "positive": lambda x: np.abs(x) + 0.05,
    "above one": lambda x: np.abs(x) + 1,
    "within one": lambda x: 0.95 * np.tanh(x),
}


@dataclass(frozen=True)
class Fill:
    """What feeds are made of: integers of unknown use (small, ones, zeros, or as _SMALL has them), floats of one of
    DOMAINS or of any, and texts, by input, that the graph knows."""

    integers: str = "small"
    floats: str = ""
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


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
    for, then others, too. A feed that the model refuses, or
    answers with NaN, is made from small numbers again. Where all sizes and fills give NaN, floats are made positive,
    above 1, or between -1 and 1 (logarithms, inverse functions); NaN is taken only where these give it, too.
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
    problem = "no size was tried"
    kinds = ("small", "ones", "zeros") if any(use.bound is None for use in uses.values()) else ("small",)
    texts = {name: known_texts(model, name) for name, i in inputs.items() if i.dtype.kind == "O"}
    fills = [Fill(kind, texts=texts) for kind in kinds]
    accepted: tuple[dict[str, tuple[int, ...]], Fill] | None = None
    slow = False
    nothing = any(0 in (shape or ()) for shape in ({n: i.shape for n, i in inputs.items()} | stated).values())
    for sizes, fill in itertools.islice(itertools.product(_sizes(inputs, stated), fills), _TRIALS):
        if too_much := _too_much(sizes):
            problem = too_much
            continue
        if slow and accepted is not None and _elements(sizes) >= _elements(accepted[0]):
            continue
        feeds = _feeds(inputs, sizes, uses, fill, seed, 0)
        start = time.process_time()
        try:
            outputs = run(feeds)
        except LwgraphError as error:
            problem = str(error)
            continue
        if not nothing and any(value.size == 0 for value in flat(outputs).values()):
            problem = f"its outputs are empty for {_describe(sizes)}"
            continue
        if not _has_nan(outputs) and not _nan_in_pictures(run, inputs, sizes, uses, fill, seed):
            accepted, slow = (sizes, fill), time.process_time() - start > _SLOW
            if not slow:
                break
            continue
        accepted = accepted or (sizes, fill)
    else:
        if accepted is not None and not slow:
            accepted = accepted[0], _without_nan(run, inputs, *accepted, uses, seed)
    if accepted is not None:
        sizes, fill = accepted
        first = _feeds(inputs, sizes, uses, fill, seed, 0)
        return [first, *(_next(run, inputs, sizes, uses, fill, seed, k) for k in range(1, count))]
    # Only sizes that are open can be given.
    opened = {
        name: "?" if i.shape is None else ",".join(str(d) if isinstance(d, int) else "?" for d in i.shape)
        for name, i in inputs.items()
        if i.shape is None or not all(isinstance(d, int) for d in i.shape)
    }
    sizes_too = "".join(f" --input-shape {name}:{text}" for name, text in opened.items())
    raise DataError(
        f"the model accepts no generated input ({problem}); give --data"
        + (f", or its sizes:{sizes_too}" if opened else "")
    )


def _elements(sizes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(map(math.prod, sizes.values()))


def _has_nan(outputs: Mapping[str, Array]) -> bool:
    arrays = flat(outputs).values()
    return any(array.dtype.kind == "f" and bool(np.isnan(array).any()) for array in arrays)


def _too_much(sizes: Mapping[str, tuple[int, ...]]) -> str:
    """Why arrays of these sizes are not made, in words; "" when they can be."""
    for name, shape in sizes.items():
        if len(shape) > _MOST_AXES:
            return f"input '{name}' has {len(shape)} axes, at most {_MOST_AXES} are possible"
        if math.prod(shape) > _MOST_ELEMENTS:
            return f"input '{name}' has {math.prod(shape):.3g} elements, at most {_MOST_ELEMENTS:.3g} are made"
    return ""


def _next(
    run: Run,
    inputs: Mapping[str, Input],
    sizes: Mapping[str, tuple[int, ...]],
    uses: Mapping[str, IntegerUse],
    fill: Fill,
    seed: int,
    index: int,
) -> dict[str, Array]:
    """A feed after the first. With integers, booleans or texts it is tried, made tamer when refused or answered by NaN.

    Where there are tokens, sentences differ in length from feed to feed, as far as the model accepts that.
    """
    other = _other_length(inputs, sizes, uses, index)
    if other is not None:
        varied = _feeds(inputs, other, uses, fill, seed, index)
        try:
            if not _has_nan(run(varied)):
                return varied
        except LwgraphError:
            pass
    feeds = _feeds(inputs, sizes, uses, fill, seed, index)
    if not any(
        i.dtype.kind in "bO" or (i.dtype.kind in "iu" and uses[name].bound is None) for name, i in inputs.items()
    ):
        return feeds
    tame = _feeds(inputs, sizes, uses, fill, seed, index, tame=True)
    # Integers that must be ones to be accepted together, such as counts, may often be others for a change.
    bolder = [
        _feeds(inputs, sizes, uses, replace(fill, integers=kind), seed, index)
        for kind in ("small", *_SMALL)
        if fill.integers not in ("small", kind)
    ]
    ones = _feeds(inputs, sizes, uses, replace(fill, integers="ones"), seed, index, tame=True)
    for each in (*bolder, feeds, tame, ones):
        try:
            if not _has_nan(run(each)):
                return each
        except LwgraphError:
            continue
    return tame


def _nan_in_pictures(
    run: Run,
    inputs: Mapping[str, Input],
    sizes: Mapping[str, tuple[int, ...]],
    uses: Mapping[str, IntegerUse],
    fill: Fill,
    seed: int,
) -> bool:
    """Whether the second feed gives NaN, where it has pictures: unlike those of the first, they have both signs."""
    if not any(i.dtype.kind not in "Obiu" and looks_like_image(sizes[name]) for name, i in inputs.items()):
        return False
    try:
        return _has_nan(run(_feeds(inputs, sizes, uses, fill, seed, 1)))
    except LwgraphError:
        return False


def _without_nan(
    run: Run,
    inputs: Mapping[str, Input],
    sizes: Mapping[str, tuple[int, ...]],
    fill: Fill,
    uses: Mapping[str, IntegerUse],
    seed: int,
) -> Fill:
    """The fill with the first domain of floats that gives no NaN; as it is where all do."""
    for floats in DOMAINS:
        other = replace(fill, floats=floats)
        try:
            if not _has_nan(run(_feeds(inputs, sizes, uses, other, seed, 0))) and not _nan_in_pictures(
                run, inputs, sizes, uses, other, seed
            ):
                return other
        except LwgraphError:
            continue
    return fill


def _other_length(
    inputs: Mapping[str, Input], sizes: Mapping[str, tuple[int, ...]], uses: Mapping[str, IntegerUse], index: int
) -> dict[str, tuple[int, ...]] | None:
    """The sizes with sentences of another length; None where no input has tokens along an axis that is open."""
    symbols = {
        (inputs[name].shape or ())[1]
        for name, use in uses.items()
        if (use.bound is not None or use.mask) and len(inputs[name].shape or ()) == 2
    }
    named = {symbol for symbol in symbols if isinstance(symbol, str)}
    share = LENGTHS[index % len(LENGTHS)]
    if not named or share == 1:
        return None
    return {
        name: tuple(
            max(2, round(share * size)) if symbol in named else size
            for size, symbol in zip(shape, inputs[name].shape or shape, strict=True)
        )
        for name, shape in sizes.items()
    }


def tried(feeds: Sequence[Mapping[str, Array]]) -> str:
    """Generated feeds in words: for each input its type and the range of its values."""
    words = []
    for name, first in feeds[0].items() if feeds else ():
        arrays = [np.asarray(each[name]) for each in feeds if name in each]
        filled = [array for array in arrays if array.size]
        kind = np.asarray(first).dtype
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


@dataclass(frozen=True)
class IntegerUse:
    """What an integer input may be, by what the graph does with it.

    Attributes:
        bound: the number of values that index a table; None: it indexes none that is known.
        mask: it is 0 or 1.
        ranges: the least and the greatest values of feeds, in turn.
    """

    bound: int | None = None
    mask: bool = False
    ranges: tuple[tuple[int, int], ...] = ((0, 7),)

    @property
    def varied(self) -> bool:
        """Whether feeds differ in kind."""
        return self.bound is None and (self.mask or len(self.ranges) > 1)


# (operator, first input) from which on integers say sizes, places, counts or divisors: any others could be refused,
# take all memory, or end the process.
STRUCTURAL = {
    "BitShift": 1, "Compress": 1, "ConstantOfShape": 0, "CumSum": 1, "DFT": 1, "Div": 1, "Expand": 1, "EyeLike": 0,
    "GRU": 4, "Gather": 1, "GatherElements": 1, "GatherND": 1, "If": 0, "LSTM": 4, "Loop": 0, "MaxUnpool": 1, "Mod": 1,
    "NegativeLogLikelihoodLoss": 1, "NonMaxSuppression": 2, "OneHot": 0, "Pad": 1, "Pow": 1, "RNN": 4, "Range": 0,
    "ReduceMax": 1, "ReduceMean": 1, "ReduceMin": 1, "ReduceProd": 1, "ReduceSum": 1, "Reshape": 1, "Resize": 1,
    "ReverseSequence": 1, "STFT": 1, "Scan": 0, "Scatter": 1, "ScatterElements": 1, "ScatterND": 1, "SequenceAt": 1,
    "SequenceErase": 1, "SequenceInsert": 2, "Slice": 1, "SoftmaxCrossEntropyLoss": 1, "Split": 1, "SplitToSequence": 1,
    "Squeeze": 1, "TfIdfVectorizer": 0, "Tile": 1, "TopK": 1, "Trilu": 1, "Unsqueeze": 1, "Upsample": 1,
}  # fmt: skip
_MODERATE = (-(1 << 15), (1 << 15) - 1)


def integer_use(model: ir.Model, name: str, dtype: np.dtype[Any]) -> IntegerUse:
    """What an integer input may be. O(nodes behind it)."""
    bound = index_bound(model, name)
    if bound is not None:
        return IntegerUse(bound)
    start = next(v for v in model.graph.inputs if v.name == name)
    rounded = False  # whether floats made of it become integers again, which is undefined for large ones
    structural = False
    seen, pending = {id(start)}, [start]
    while pending:
        for node, position in pending.pop().uses():
            if node.domain != "" or position >= STRUCTURAL.get(node.op_type, 1 << 10):
                structural = True  # a mask may be, too: the sum of one divides in a mean
                continue
            if node.op_type == "Sub" and position == 1 and _is_one(node.inputs[0]):
                return IntegerUse(mask=True)
            if node.op_type in ("Shape", "Size"):
                continue
            rounded |= node.op_type == "Cast" and ir.DataType(ir.attribute(node, "to")).is_integer()
            for out in node.outputs:
                if id(out) not in seen:
                    seen.add(id(out))
                    pending.append(out)
    if "mask" in name.lower():
        return IntegerUse(mask=True)
    if structural:
        return IntegerUse()
    limits: Any = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    least, most = int(limits.min), int(limits.max)
    whole = (max(least, _MODERATE[0]), min(most, _MODERATE[1])) if rounded else (least, most)
    both = (max(least, -128), min(most, 127 if least else 255))
    return IntegerUse(ranges=((0, min(most, 7)), both, whole))


def known_texts(model: ir.Model, name: str) -> tuple[str, ...]:
    """The texts that the graph looks for in an input: categories, keys, what it is compared with; numbers, where it
    becomes numbers. At most 64."""
    start = next(v for v in model.graph.inputs if v.name == name)
    found: dict[str, None] = {}
    seen, pending = {id(start)}, [start]
    while pending:
        for node, position in pending.pop().uses():
            if ir.operator(node) == "Cast" and ir.attribute(node, "to") != ir.DataType.STRING:
                return ("1", "0", "-2", "3")
            for key in _TEXT_ATTRIBUTES & set(node.attributes):
                found.update(dict.fromkeys(ir.attribute(node, key, ())))
            if ir.operator(node) == "Equal":
                other = ir.constant(node.inputs[1 - position])
                for text in () if other is None else other.reshape(-1)[:_MOST_TEXTS].tolist():
                    found[text.decode("utf8", "replace") if isinstance(text, bytes) else str(text)] = None
            elif ir.operator(node) in _PASSING_OPS | {"Concat"}:
                for out in node.outputs:
                    if id(out) not in seen:
                        seen.add(id(out))
                        pending.append(out)
    return tuple(found)[:_MOST_TEXTS]


def _is_one(value: ir.Value | None) -> bool:
    array = ir.constant(value)
    return array is not None and array.dtype.kind in "iuf" and bool((array == 1).all())


def index_bound(model: ir.Model, name: str) -> int | None:
    """The number of values that an integer input may take when it indexes constant tables, also after reshaping.

    That of the smallest table where it indexes several; None when it indexes none.
    """
    start = next(v for v in model.graph.inputs if v.name == name)
    bounds: list[int] = []
    seen, pending = {id(start)}, [start]
    while pending:
        value = pending.pop()
        for node, position in value.uses():
            if ir.operator(node) in _INDEX_OPS:
                bounds += _table_length(node, position)
            elif ir.operator(node) in _PASSING_OPS and position == 0:
                for out in node.outputs:
                    if id(out) not in seen:
                        seen.add(id(out))
                        pending.append(out)
    return min(bounds, default=None)


def _table_length(node: ir.Node, position: int) -> list[int]:
    if ir.operator(node) == "OneHot":
        depth = ir.constant(node.inputs[1]) if position == 0 else None
        return [] if depth is None else [int(np.asarray(depth).reshape(-1)[0])]
    table = node.inputs[0]
    shape = None if table is None else ir.constant_shape(table)
    if position != 1 or not shape:
        return []
    return [shape[ir.attribute(node, "axis", 0)]]


def _sizes(inputs: Mapping[str, Input], stated: Mapping[str, tuple[int, ...]]) -> Iterator[dict[str, tuple[int, ...]]]:
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


def _feeds(
    inputs: Mapping[str, Input],
    sizes: Mapping[str, tuple[int, ...]],
    uses: Mapping[str, IntegerUse],
    fill: Fill,
    seed: int,
    index: int,
    tame: bool = False,
) -> dict[str, Array]:
    feeds: dict[str, Array] = {}
    for position, (name, wanted) in enumerate(inputs.items()):
        rng = np.random.default_rng((seed, index, position))
        shape, kind = sizes[name], wanted.dtype.kind
        if kind == "O":
            known = fill.texts.get(name, ())
            pool = known or _TEXTS[:1] if tame or not index else (*known, *_TEXTS)
            feeds[name] = np.array([pool[k] for k in rng.integers(0, len(pool), math.prod(shape))], object).reshape(
                shape
            )
        elif kind == "b":
            feeds[name] = np.ones(shape, bool) if tame or not index else booleans(rng, shape, index)
        elif kind in "iu" and _image_axes(shape) is None:
            feeds[name] = integers(rng, shape, wanted.dtype, uses[name], fill.integers, 0 if tame else index)
        elif kind in "iu":
            feeds[name] = (picture(rng, shape) * 255).round().astype(wanted.dtype)
        elif _image_axes(shape) is not None:
            image = picture(rng, shape)
            feeds[name] = (image if index % 2 == 0 else (image - 0.45) / 0.225).astype(wanted.dtype)
        elif math.prod(shape) <= 4:  # a strength, a temperature, a scale
            feeds[name] = rng.uniform(0.05, 0.95, shape).astype(wanted.dtype)
        else:
            feeds[name] = rng.standard_normal(shape).astype(wanted.dtype)
        if fill.floats and kind not in "Obiu":
            feeds[name] = DOMAINS[fill.floats](feeds[name].astype(np.float64)).astype(wanted.dtype)
    return feeds


def booleans(rng: np.random.Generator, shape: tuple[int, ...], index: int) -> Array:
    """Both, true at the first place; a single one is false in every second feed."""
    made = rng.integers(0, 2, shape).astype(bool)
    made.reshape(-1)[:1] = made.size > 1 or index % 2 == 0
    return made


def integers(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any], use: IntegerUse, fill: str, index: int
) -> Array:
    """Integers as feed number `index` of `generate` has them; `fill` is what those of unknown use are: small,
    ones, zeros, or as _SMALL has them."""
    if use.bound is not None:
        made = rng.integers(0, use.bound, shape).astype(dtype)
        return np.sort(made, axis=-1) if use.bound == 2 and made.ndim else made  # the first sentence, then the second
    if fill not in ("small", *_SMALL) and (not use.varied or index == 0):
        return np.full(shape, 1 if fill == "ones" else 0).astype(dtype)
    if use.mask:
        if not index or not shape:
            return np.ones(shape, dtype)
        lengths = rng.integers(1, shape[-1] + 1, (*shape[:-1], 1))  # a row without anything has no mean
        return np.asarray(np.arange(shape[-1]) < lengths).astype(dtype)
    low, high = use.ranges[index % len(use.ranges)]
    if not use.varied:
        low, high = _SMALL.get(fill, (low, high))
    kind = np.uint64 if high >= 1 << 63 else np.int64
    made = rng.integers(low, high, shape, dtype=kind, endpoint=True)
    if index and use.varied:
        made.reshape(-1)[:2] = np.array([low, high], kind)[: made.size]
    return made.astype(dtype)


def looks_like_image(shape: tuple[int, ...]) -> bool:
    """Whether generated inputs of this shape are pictures."""
    return _image_axes(shape) is not None


def _image_axes(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The height and width axes of a shape that looks like images, or None."""
    if len(shape) != 4 or 0 in shape:
        return None
    if shape[1] in (1, 3, 4):
        return (2, 3)
    return (1, 2) if shape[3] in (1, 3, 4) else None


def picture(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Image-like values in 0..1: bilinearly enlarged noise whose strength falls with its frequency, a few flat
    rectangles for edges, a common luminance over the channels, and a little white noise. float64, like `shape`."""
    axes = _image_axes(shape)
    assert axes is not None
    channel = 1 if axes == (2, 3) else 3
    batch, channels, height, width = shape[0], shape[channel], shape[axes[0]], shape[axes[1]]
    image = np.zeros((batch, channels, height, width))
    cells = 2
    while cells <= max(height, width):
        grid = (min(cells, height), min(cells, width))
        common = rng.standard_normal((batch, 1, *grid)) + 0.5 * rng.standard_normal((batch, channels, *grid))
        image += _enlarge(common, height, width) * (2 / cells) ** 0.7
        cells *= 2
    for _ in range(4):
        top, bottom = np.sort(rng.integers(0, height + 1, 2))
        left, right = np.sort(rng.integers(0, width + 1, 2))
        image[:, :, top:bottom, left:right] += 1.5 * rng.standard_normal((batch, channels, 1, 1))
    image += 0.1 * rng.standard_normal(image.shape)
    low, high = np.quantile(image, (0.01, 0.99))
    image = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    return np.moveaxis(image, 1, channel)


def _enlarge(grid: Array, height: int, width: int) -> Array:
    """Bilinear interpolation of the last two axes."""
    for axis, size in ((-2, height), (-1, width)):
        at = np.linspace(0, grid.shape[axis] - 1, size)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, grid.shape[axis] - 1)
        share = (at - low).reshape((-1, 1) if axis == -2 else (-1,))
        grid = np.take(grid, low, axis) * (1 - share) + np.take(grid, high, axis) * share
    return grid


def _describe(sizes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"'{name}' {list(shape)}" for name, shape in sizes.items())
