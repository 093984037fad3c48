"""Operators that move elements without computing: they return views where NumPy can."""

from __future__ import annotations

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime.ops.base import Function, Spec, Unsupported, integers, normalized, operator


@operator("Identity")
def identity(spec: Spec) -> Function:
    """Identity."""
    return lambda x: x


@operator("Optional")
def optional(spec: Spec) -> Function:
    """Optional-15: what it is given, or nothing."""
    return lambda x=None: x


@operator("Dropout")
def dropout(spec: Spec) -> Function:
    """Dropout-7 and 10, which pass their input on; nothing of it is marked in the mask, in its own type before 10."""
    if not 7 <= spec.version < 12:
        raise Unsupported
    old = spec.version < 10
    return lambda x: (x, np.zeros(x.shape, x.dtype if old else bool)) if spec.outputs > 1 else x


@operator("Constant")
def constant(spec: Spec) -> Function:
    """Constant holding a dense tensor or numbers."""
    names = {
        "value": None,
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    for name, dtype in names.items():
        if name in spec.attributes:
            value = spec.attributes[name]
            array = np.asarray(value) if dtype is None else np.asarray(value, dtype)
            return lambda: array
    raise Unsupported


@operator("Shape")
def shape(spec: Spec) -> Function:
    """Shape-1 to 25."""
    start, end = spec.get("start", 0), spec.get("end")
    return lambda x: np.array(x.shape[start:end], np.int64)


@operator("Reshape")
def reshape(spec: Spec) -> Function:
    """Reshape-5 to 25."""
    if spec.version < 5:
        raise Unsupported
    keep_zero = spec.get("allowzero", 0)

    def run(x: Array, target: Array) -> Array:
        sizes = integers(target)
        if not keep_zero:
            sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
        return x.reshape(sizes)

    return run


@operator("Flatten")
def flatten(spec: Spec) -> Function:
    """Flatten-1 to 25."""
    axis = spec.get("axis", 1)

    def run(x: Array) -> Array:
        at = axis if axis >= 0 else axis + x.ndim
        rows = int(np.prod(x.shape[:at], dtype=np.int64))
        return x.reshape(rows, int(np.prod(x.shape[at:], dtype=np.int64)))

    return run


@operator("Transpose")
def transpose(spec: Spec) -> Function:
    """Transpose-1 to 25."""
    order = spec.get("perm")
    return lambda x: x.transpose(order)


@operator("Squeeze")
def squeeze(spec: Spec) -> Function:
    """Squeeze-1, 11 (attribute), 13 (input)."""

    def run(x: Array, given: Array | None = None) -> Array:
        axes = spec.get("axes") if given is None else integers(given)
        return x.squeeze() if axes is None else x.squeeze(tuple(axes))

    return run


@operator("Unsqueeze")
def unsqueeze(spec: Spec) -> Function:
    """Unsqueeze-1, 11 (attribute), 13 (input)."""

    def run(x: Array, given: Array | None = None) -> Array:
        axes = spec.get("axes") if given is None else integers(given)
        return np.expand_dims(x, tuple(axes))

    return run


@operator("Concat")
def concat(spec: Spec) -> Function:
    """Concat-4 to 13."""
    if spec.version < 4:
        raise Unsupported
    axis = spec.get("axis")
    return lambda *parts: np.concatenate(parts, axis)


@operator("Split")
def split(spec: Spec) -> Function:
    """Split-2 (attribute), 11, 13 (input), 18 (num_outputs)."""
    if spec.version < 2:
        raise Unsupported
    axis, parts = spec.get("axis", 0), spec.get("num_outputs") or spec.outputs

    def run(x: Array, given: Array | None = None) -> tuple[Array, ...]:
        sizes = spec.get("split") if given is None else integers(given)
        length = x.shape[normalized(axis, x.ndim)]
        if sizes is None:
            each = -(-length // parts)
            sizes = [each] * (length // each if each else 0)
            sizes += [length - sum(sizes)] * (len(sizes) < parts)
        if sum(sizes) != length or len(sizes) != parts:
            raise ValueError(f"{length} elements along axis {axis} cannot be split into {list(sizes)}")
        return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))

    return run


@operator("Slice")
def slice_(spec: Spec) -> Function:
    """Slice-1 (attributes), 10, 11, 13 (inputs)."""

    def run(
        x: Array,
        starts: Array | None = None,
        ends: Array | None = None,
        axes: Array | None = None,
        steps: Array | None = None,
    ) -> Array:
        begin = spec.get("starts") if starts is None else integers(starts)
        end = spec.get("ends") if ends is None else integers(ends)
        along = spec.get("axes") if axes is None else integers(axes)
        step = [1] * len(begin) if steps is None else integers(steps)
        index = [slice(None)] * x.ndim
        for i, axis in enumerate(range(len(begin)) if along is None else along):
            stop: int | None = end[i]
            if step[i] < 0 and end[i] < -x.shape[axis]:
                stop = None  # past the first element
            index[normalized(axis, x.ndim)] = slice(begin[i], stop, step[i])
        return x[tuple(index)]

    return run


@operator("Gather")
def gather(spec: Spec) -> Function:
    """Gather-1, 11, 13."""
    axis = spec.get("axis", 0)

    def run(x: Array, indices: Array) -> Array:
        return np.asarray(np.take(x, indices, axis))

    return run


@operator("GatherElements")
def gather_elements(spec: Spec) -> Function:
    """GatherElements-11, 13; the indices may span less than the data where they do not gather, as in ONNX Runtime."""
    axis = spec.get("axis", 0)

    def run(x: Array, indices: Array) -> Array:
        at = normalized(axis, x.ndim)
        part = tuple(slice(None) if i == at else slice(size) for i, size in enumerate(indices.shape))
        return np.take_along_axis(x[part], indices, at)

    return run


@operator("Expand")
def expand(spec: Spec) -> Function:
    """Expand-8, 13."""

    def run(x: Array, target: Array) -> Array:
        return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(integers(target))))

    return run


_CAST = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
}


_TEXT = 8  # onnx.TensorProto.STRING
_SPECIAL = {"nan": "NaN", "inf": "INF", "-inf": "-INF"}


def _to_texts(x: Array) -> Array:
    """Numbers as texts, in as many digits as tell them apart; booleans as 1 and 0."""
    if x.dtype.kind == "f":
        digits = 17 if x.dtype == np.float64 else 8
        texts = [f"{value:.{digits}g}" for value in x.ravel().tolist()]
        texts = [_SPECIAL.get(text, text) for text in texts]
    elif x.dtype.kind in "iub":
        texts = [str(int(value)) for value in x.ravel().tolist()]
    else:
        raise Unsupported
    return np.array(texts, object).reshape(x.shape)


@operator("Cast")
def cast(spec: Spec) -> Function:
    """Cast between the types that NumPy has, and to texts."""
    if spec.get("to") == _TEXT:
        return _to_texts
    target = _CAST.get(spec.get("to"))
    if target is None or spec.version < 6:
        raise Unsupported

    def run(x: Array) -> Array:
        if x.dtype.kind not in "fiub" or (x.dtype.kind == "f" and np.dtype(target).kind in "iu" and x.size > 64):
            raise Unsupported
        return x.astype(target)

    return run


@operator("ConstantOfShape")
def constant_of_shape(spec: Spec) -> Function:
    """ConstantOfShape-9 to 25."""
    value = np.asarray(spec.get("value", np.zeros(1, np.float32))).reshape(())
    return lambda sizes: np.full(tuple(integers(sizes)), value)


_PAD_MODES = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@operator("Pad")
def pad(spec: Spec) -> Function:
    """Pad-2 (attributes), 11, 13, 18, 19 (inputs)."""
    if spec.version < 2:
        raise Unsupported
    mode = spec.get("mode", "constant")

    def run(x: Array, given: Array | None = None, value: Array | None = None, axes: Array | None = None) -> Array:
        pads = list(spec.get("pads")) if given is None else integers(given)
        along = list(range(x.ndim)) if axes is None else [normalized(axis, x.ndim) for axis in integers(axes)]
        if len(pads) != 2 * len(along):
            raise ValueError(f"{len(pads)} pads for {len(along)} axes; twice as many are needed")
        before, after = [0] * x.ndim, [0] * x.ndim
        for i, axis in enumerate(along):
            before[axis], after[axis] = pads[i], pads[len(along) + i]
        crop = tuple(slice(max(-b, 0), max(n - max(-a, 0), 0)) for b, a, n in zip(before, after, x.shape, strict=True))
        x = x[crop]
        around = [(max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True)]
        if not any(b or a for b, a in around):
            return x
        if mode != "constant":
            return np.pad(x, around, _PAD_MODES[mode])  # type: ignore[call-overload, no-any-return]
        fill = spec.get("value", 0.0) if value is None or value.size == 0 else value.reshape(())
        y = np.empty([n + b + a for n, (b, a) in zip(x.shape, around, strict=True)], x.dtype)
        inner = y
        for axis, (b, a) in enumerate(around):  # each axis fills its border within what the axes before left
            head, size = (slice(None),) * axis, inner.shape[axis]
            inner[head + (slice(0, b),)] = fill  # noqa: RUF005 - unpacking in an index needs Python 3.11
            inner[head + (slice(size - a, None),)] = fill  # noqa: RUF005
            inner = inner[head + (slice(b, size - a),)]  # noqa: RUF005
        inner[...] = x
        return y

    return run


@operator("DepthToSpace")
def depth_to_space(spec: Spec) -> Function:
    """DepthToSpace-1, 11, 13."""
    block, by_column = spec.get("blocksize"), spec.get("mode", "DCR") == "DCR"

    def run(x: Array) -> Array:
        n, c, h, w = x.shape
        if by_column:
            y: Array = x.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
        else:
            y = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
        image: Array = y.reshape(n, c // block**2, h * block, w * block)
        return image

    return run
