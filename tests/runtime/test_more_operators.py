"""Operators that onnx's own evaluator lacks or has in part only: linear models, the places of maxima, MaxRoiPool."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.runtime.ops import OURS

POSTS = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"]
ML = "ai.onnx.ml"
PROBIT = 2e-3  # ONNX Runtime inverts the error function by a formula of two logarithms, whose error is this large


def of_one_node(node: NodeProto, feeds: dict[str, Array], kinds: dict[str, int]) -> ir.Model:
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 1)]
    return ir.load(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def shares(node: NodeProto, kinds: dict[str, int]) -> bool:
    """Whether the scores that ONNX Runtime gives are shares, as those of LOGISTIC are."""
    scores = registry.executor("ort").prepare(of_one_node(node, rows(8.0), kinds))(rows(8.0))["y"]
    return bool(((scores >= 0) & (scores <= 1)).all())


def agree(node: NodeProto, feeds: dict[str, Array], kinds: dict[str, int], atol: float = 2e-5) -> None:
    """Both executors give the same."""
    model = of_one_node(node, feeds, kinds)
    ours, theirs = (registry.executor(name).prepare(model)(feeds) for name in ("reference", "ort"))
    for name in kinds:
        assert ours[name].shape == theirs[name].shape and ours[name].dtype == theirs[name].dtype
        if ours[name].dtype.kind == "f":
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-5, atol=atol)
        else:
            np.testing.assert_array_equal(ours[name], theirs[name])
    assert f"{node.domain}::{node.op_type}".removeprefix("::") in OURS


def rows(spread: float) -> dict[str, Array]:
    return {"x": (spread * np.random.default_rng(0).standard_normal((9, 4))).astype(np.float32)}


def weights(count: int, zero: bool) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    matrix = 0.1 * rng.standard_normal((count, 4)) * (0 if zero else 1)
    return {"coefficients": matrix.ravel().tolist(), "intercepts": [0.0 if zero and k else 0.5 for k in range(count)]}


@pytest.mark.parametrize("post", POSTS)
@pytest.mark.parametrize(("targets", "zero"), [(1, False), (3, False), (3, True)])
def test_linear_regressor(targets: int, zero: bool, post: str) -> None:
    if (post == "PROBIT" and zero) or (targets == 1 and post not in ("NONE", "PROBIT")):
        return  # infinite; ONNX Runtime leaves one score as it is
    node = helper.make_node(
        "LinearRegressor", ["x"], ["y"], domain=ML, targets=targets, post_transform=post, **weights(targets, zero)
    )
    agree(node, rows(1.0), {"y": TensorProto.FLOAT}, PROBIT if post == "PROBIT" else 2e-5)


@pytest.mark.parametrize("post", POSTS)
@pytest.mark.parametrize(("scores", "labels"), [(1, [3, 7]), (2, [3, 7]), (3, ["a", "b", "c"])])
def test_linear_classifier(scores: int, labels: list[Any], post: str) -> None:
    if scores == 1 and post == "PROBIT":
        return  # ONNX Runtime leaves half of the output unwritten
    kind = "strings" if isinstance(labels[0], str) else "ints"
    given = {f"classlabels_{kind}": labels, "post_transform": post, **weights(scores, False)}
    node = helper.make_node("LinearClassifier", ["x"], ["label", "y"], domain=ML, **given)
    label = TensorProto.STRING if kind == "strings" else TensorProto.INT64
    kinds = {"label": label, "y": TensorProto.FLOAT}
    if post == "LOGISTIC" and not shares(node, kinds):
        pytest.skip("this ONNX Runtime leaves one score as it is")
    agree(node, rows(1.0), kinds, PROBIT) if post == "PROBIT" else agree(node, rows(8.0), kinds)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((2, 3, 7, 6), {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
        ((1, 2, 9, 8), {"kernel_shape": [2, 3], "dilations": [2, 2], "ceil_mode": 1, "strides": [2, 2]}),
        ((1, 2, 5, 4, 6), {"kernel_shape": [2, 2, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2, 2]}),
        ((2, 2, 11), {"kernel_shape": [3], "strides": [3], "ceil_mode": 1}),
    ],
)
def test_places_of_maxima(shape: tuple[int, ...], attributes: dict[str, Any], order: int) -> None:
    rng = np.random.default_rng(2)
    node = helper.make_node("MaxPool", ["x"], ["y", "at"], storage_order=order, **attributes)
    for x in (rng.standard_normal(shape).astype(np.float32), rng.integers(-9, 9, shape).astype(np.int8)):
        agree(node, {"x": x}, {"y": helper.np_dtype_to_tensor_dtype(x.dtype), "at": TensorProto.INT64})


def test_max_roi_pool() -> None:
    rng = np.random.default_rng(3)
    rois = np.array([[0, 1, 2, 9, 7], [1, 0, 0, 15, 11], [1, 5, 5, 4, 4], [0, 12, 9, 30, 30]], np.float32)
    node = helper.make_node("MaxRoiPool", ["x", "rois"], ["y"], pooled_shape=[3, 2], spatial_scale=0.75)
    agree(node, {"x": rng.standard_normal((2, 3, 12, 16)).astype(np.float32), "rois": rois}, {"y": TensorProto.FLOAT})
