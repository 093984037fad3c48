"""Ensembles of trees, against ONNX Runtime."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from lwgraph import ir, registry
from lwgraph.runtime.ops import trees

ML, FEATURES = "ai.onnx.ml", 5
MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]


def nodes(count: int, depth: int, modes: list[str], seed: int = 0) -> dict[str, Any]:
    """The attributes of complete trees, their nodes in any order, roots first; with a map of leaves."""
    rng, size, inner = np.random.default_rng(seed), 2 ** (depth + 1) - 1, 2**depth - 1
    found: dict[str, list[Any]] = {"trees": [], "nodes": [], "leaves": []}
    rows = []
    for tree in rng.permutation(count).tolist():
        for node in [0, *(1 + rng.permutation(size - 1)).tolist()]:
            leaf = node >= inner
            rows.append(
                (
                    tree,
                    node,
                    0 if leaf else int(rng.integers(FEATURES)),
                    0.0 if leaf else float(rng.integers(-2, 3)),
                    "LEAF" if leaf else str(rng.choice(modes)),
                    0 if leaf else 2 * node + 1,
                    0 if leaf else 2 * node + 2,
                    0 if leaf else int(rng.integers(2)),
                )
            )
            if leaf:
                found["leaves"].append((tree, node))
    names = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    given = {f"nodes_{name}": list(column) for name, column in zip(names, zip(*rows, strict=True), strict=False)}
    given["nodes_missing_value_tracks_true"] = [row[-1] for row in rows]
    return given | {"leaves": found["leaves"]}


def ensemble(op: str, outputs: int, modes: list[str], count: int = 7, depth: int = 4, **more: Any) -> ir.Model:
    given = nodes(count, depth, modes)
    leaves = [leaf for leaf in given.pop("leaves") for _ in range(2 if outputs > 1 else 1)]  # two targets each
    rng, prefix = np.random.default_rng(1), "class" if "Classifier" in op else "target"
    given |= {
        f"{prefix}_treeids": [tree for tree, _ in leaves],
        f"{prefix}_nodeids": [node for _, node in leaves],
        f"{prefix}_ids": [index % outputs for index in range(len(leaves))],
        f"{prefix}_weights": rng.normal(size=len(leaves)).round(2).tolist(),
    }
    names = ["label", "y"] if prefix == "class" else ["y"]
    node = helper.make_node(op, ["x"], names, domain=ML, **given, **more)
    labels = TensorProto.STRING if "classlabels_strings" in more else TensorProto.INT64
    declared = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])]
    if prefix == "class":
        declared.insert(0, helper.make_tensor_value_info("label", labels, ["n"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", FEATURES])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)]
    graph = helper.make_graph([node], "trees", [x], declared)
    return ir.load(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def inputs(count: int = 60, missing: bool = True) -> np.ndarray:
    """Values on and between the thresholds, some of them missing where `missing`."""
    rng = np.random.default_rng(2)
    x = rng.integers(-5, 6, (count, FEATURES)).astype(np.float32) / 2
    x[(rng.random(x.shape) < 0.1) & missing] = np.nan
    return x


REGRESSORS = [
    {"n_targets": 1},
    {"n_targets": 3, "base_values": [1.0, 2.0, 3.0]},
    {"n_targets": 2, "aggregate_function": "AVERAGE"},
    {"n_targets": 1, "aggregate_function": "MIN"},
    {"n_targets": 1, "aggregate_function": "MAX"},
]
CLASSIFIERS = [
    {"classlabels_int64s": [3, 1, 2]},
    {"classlabels_strings": ["a", "b", "c"], "post_transform": "SOFTMAX"},
    {"classlabels_int64s": [0, 1, 2], "post_transform": "LOGISTIC", "base_values": [0.5, 0.0, -0.5]},
]


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is left to onnx's own operators fails."""

    def refuse(*words: Any, **more: Any) -> Any:
        raise AssertionError("left to onnx")

    monkeypatch.setattr("lwgraph.runtime.delegate._load", refuse, raising=False)
    monkeypatch.setattr("onnx.reference.ops.aionnxml.op_tree_ensemble_helper.TreeEnsemble.leave_index_tree", refuse)


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("modes", [MODES[:1], MODES[:-1], MODES], ids=["one rule", "five rules", "all rules"])
@pytest.mark.parametrize(
    ("op", "more"),
    [("TreeEnsembleRegressor", each) for each in REGRESSORS]
    + [("TreeEnsembleClassifier", each) for each in CLASSIFIERS],
)
def test_trees_say_what_they_say_in_onnx_runtime(
    op: str, more: dict[str, Any], modes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "_AT_ONCE", 100)  # rows in several parts
    model = ensemble(op, more.get("n_targets", 3), modes, **more)
    x = inputs(missing="BRANCH_NEQ" not in modes)  # ONNX Runtime takes NaN for unequal, whatever the node says of it
    theirs = registry.executor("ort").prepare(model)({"x": x})
    mine = registry.executor("reference").prepare(model)({"x": x})
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        if name == "label":
            assert mine[name].tolist() == value.tolist()
        else:
            assert mine[name].dtype == value.dtype
            np.testing.assert_allclose(mine[name], value, rtol=1e-5, atol=1e-6)


def test_what_is_not_ours_is_left_to_onnx() -> None:
    """Two classes from the score of one."""
    more = {"classlabels_int64s": [0, 1], "post_transform": "LOGISTIC"}
    model = ensemble("TreeEnsembleClassifier", 1, MODES[:1], **more)
    found = registry.executor("reference").prepare(model)({"x": inputs(3, missing=False)})
    assert found["y"].shape == (3, 2)


def test_large_ensembles_take_a_few_times_their_bytes() -> None:
    model = ensemble("TreeEnsembleRegressor", 1, MODES[:1], count=20, depth=10, n_targets=1)
    size = ir.size(model)
    run = registry.executor("reference").prepare(model)
    tracemalloc.start()
    try:
        run({"x": inputs(2)})
        assert tracemalloc.get_traced_memory()[1] < 8 * size
    finally:
        tracemalloc.stop()


def test_equal_members_of_long_attributes_are_one_object() -> None:
    node = ensemble("TreeEnsembleRegressor", 1, MODES[:1], count=20, depth=6, n_targets=1).graph[0]
    for name in ("nodes_modes", "nodes_treeids", "nodes_values"):
        members = node.attributes[name].value
        assert len({id(each) for each in members}) == len(set(members)) < len(members)
