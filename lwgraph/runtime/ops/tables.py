"""Operators on features of tables (domain ai.onnx.ml) that onnx's evaluator lacks, or has otherwise than specified."""

from __future__ import annotations

from typing import Any

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime.ops.base import Function, Spec, Unsupported, operator

_NUMBERS = {"int64s": np.int64, "floats": np.float32}


def _mapped(table: dict[Any, Any], default: Any, dtype: Any, x: Array) -> Array:
    """Each element by a table."""
    return np.array([table.get(key, default) for key in x.ravel().tolist()], dtype).reshape(x.shape)


@operator("ai.onnx.ml::LabelEncoder")
def label_encoder(spec: Spec) -> Function:
    """LabelEncoder-1 (texts to their place and back) and 2 (keys to values)."""
    if spec.version > 2:  # tensors of keys, of which one may be NaN
        raise Unsupported
    if spec.version == 1:
        classes = spec.get("classes_strings") or ()
        place, back = {name: k for k, name in enumerate(classes)}, dict(enumerate(classes))
        number, text = spec.get("default_int64", -1), spec.get("default_string", "_Unused")

        def first(x: Array) -> Array:
            if x.dtype.kind in "iu":
                return _mapped(back, text, object, x)
            return _mapped(place, number, np.int64, x)

        return first
    keys = next(
        (spec.attributes[f"keys_{kind}"] for kind in (*_NUMBERS, "strings") if f"keys_{kind}" in spec.attributes), None
    )
    kind = next((kind for kind in (*_NUMBERS, "strings") if f"values_{kind}" in spec.attributes), None)
    if keys is None or kind is None:
        raise Unsupported
    defaults = {
        "int64s": ("default_int64", -1),
        "floats": ("default_float", -0.0),
        "strings": ("default_string", "_Unused"),
    }
    default, dtype = spec.get(*defaults[kind]), _NUMBERS.get(kind, object)
    table = dict(zip(keys, spec.attributes[f"values_{kind}"], strict=True))

    def second(x: Array) -> Array:
        return _mapped(table, default, dtype, x)

    return second


@operator("ai.onnx.ml::CategoryMapper")
def category_mapper(spec: Spec) -> Function:
    """CategoryMapper-1: texts to whole numbers and back."""
    texts, numbers = spec.get("cats_strings") or (), spec.get("cats_int64s") or ()
    there, back = dict(zip(texts, numbers, strict=True)), dict(zip(numbers, texts, strict=True))

    def run(x: Array) -> Array:
        if x.dtype.kind in "iu":
            return _mapped(back, spec.get("default_string", "_Unused"), object, x)
        return _mapped(there, spec.get("default_int64", -1), np.int64, x)

    return run


@operator("ai.onnx.ml::Scaler")
def scaler(spec: Spec) -> Function:
    """Scaler-1: (x - offset) * scale, in float32 whatever the type of x."""
    offset, scale = (
        np.array(spec.get(name) or (default,), np.float32) for name, default in (("offset", 0), ("scale", 1))
    )
    return lambda x: (x.astype(np.float32) - offset) * scale


@operator("ai.onnx.ml::FeatureVectorizer")
def feature_vectorizer(spec: Spec) -> Function:
    """FeatureVectorizer-1: columns side by side in float32, each input cut or filled with zeros to its stated width."""
    widths = spec.get("inputdimensions") or ()

    def run(*inputs: Array) -> Array:
        parts = []
        for x, width in zip(inputs, widths, strict=True):
            part = x.reshape(len(x), -1)[:, :width].astype(np.float32)
            parts.append(np.pad(part, ((0, 0), (0, width - part.shape[1]))))
        return np.concatenate(parts, axis=1)

    return run


@operator("ai.onnx.ml::Normalizer")
def normalizer(spec: Spec) -> Function:
    """Normalizer-1: each row by its highest value, the sum of absolute values, or its length."""
    norm = spec.get("norm", "MAX")

    def run(x: Array) -> Array:
        rows = x.astype(np.float32)
        if norm == "MAX":
            size = rows.max(-1, keepdims=True)
        elif norm == "L1":
            size = np.abs(rows).sum(-1, keepdims=True)
        else:
            size = np.sqrt(np.square(rows).sum(-1, keepdims=True))
        return rows / np.where(size == 0, 1, size).astype(np.float32)

    return run
