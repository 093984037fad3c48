"""Ensembles of decision trees (domain ai.onnx.ml): all rows walk down all trees at once.

onnx's own operators walk in Python, one row and one tree at a time, and take fifty times the bytes of the model.
"""

from __future__ import annotations

import operator as compare
from typing import Any

import numpy as np

from lwgraph.arrays import Array
from lwgraph.runtime.ops.base import Function, Spec, Unsupported, operator

_RULES = {
    "BRANCH_LEQ": compare.le,
    "BRANCH_LT": compare.lt,
    "BRANCH_GTE": compare.ge,
    "BRANCH_GT": compare.gt,
    "BRANCH_EQ": compare.eq,
    "BRANCH_NEQ": compare.ne,
}
_AT_ONCE = 1 << 20  # rows times trees that walk together


def _numbers(spec: Spec, name: str) -> Array | None:
    """Floats that are a list or, since version 3, a tensor."""
    found = spec.get(f"{name}_as_tensor")
    return np.array(spec.get(name), np.float32) if found is None and spec.get(name) else found


class _Trees:
    """The nodes of all trees, by their place in the attributes.

    Args:
        spec: the node.
        prefix: of the attributes that say what leaves give: "target" or "class".

    Raises:
        Unsupported: something that onnx's own operator is to tell.
    """

    def __init__(self, spec: Spec, prefix: str) -> None:
        trees = np.array(spec.get("nodes_treeids", ()), np.int64)
        nodes = np.array(spec.get("nodes_nodeids", ()), np.int64)
        values = _numbers(spec, "nodes_values")
        if not trees.size or values is None:
            raise Unsupported
        self._trees, first = np.unique(trees, return_index=True)
        self._span = int(nodes.max()) + 1
        self._order = np.argsort(keys := self._keys(trees, nodes), kind="stable")
        self._keys_in_order = keys[self._order]
        modes = np.array(spec.get("nodes_modes", ()))
        self._leaf = modes == "LEAF"
        self._rules = {rule: modes == rule for rule in np.unique(modes) if rule != "LEAF"}
        if not self._rules.keys() <= _RULES.keys():
            raise Unsupported
        self.roots, self._values, here = first, values, np.arange(len(trees))
        self._features = np.array(spec.get("nodes_featureids"), np.int64)
        self._missing = np.array(spec.get("nodes_missing_value_tracks_true") or [0] * len(trees), bool)
        branches = ~self._leaf
        self._next = {}
        for yes, name in ((True, "nodes_truenodeids"), (False, "nodes_falsenodeids")):
            children = np.array(spec.get(name), np.int64)
            self._next[yes] = here.copy()
            self._next[yes][branches] = self._place(trees[branches], children[branches])
        places = self._place(*(np.array(spec.get(f"{prefix}_{name}ids"), np.int64) for name in ("tree", "node")))
        order = np.argsort(places, kind="stable")
        weights = _numbers(spec, f"{prefix}_weights")
        if weights is None:
            raise Unsupported
        self._given = np.array(spec.get(f"{prefix}_ids"), np.int64)[order]
        self._weights = weights[order]
        self._start = np.searchsorted(places[order], here)
        self._count = np.bincount(places, minlength=len(trees))

    def _keys(self, trees: Array, nodes: Array) -> Array:
        keys: Array = np.searchsorted(self._trees, trees) * self._span + nodes
        return keys

    def _place(self, trees: Array, nodes: Array) -> Array:
        """Where nodes stand in the attributes, by their tree and their number in it."""
        keys = self._keys(trees, nodes)
        found = np.searchsorted(self._keys_in_order, keys).clip(max=len(self._order) - 1)
        if (self._keys_in_order[found] != keys).any() or not np.isin(trees, self._trees).all():
            raise Unsupported
        places: Array = self._order[found]
        return places

    def gather(self, x: Array, into: Array, function: Any) -> None:
        """Join what the leaves of each row give, (n, features), into (n, targets) by a ufunc."""
        step = max(1, _AT_ONCE // len(self.roots))
        for start in range(0, len(x), step):
            leaves = self._leaves(x[start : start + step])
            rows = np.broadcast_to(np.arange(start, start + len(leaves))[:, None], leaves.shape).ravel()
            leaves = leaves.ravel()
            for index in range(int(self._count[leaves].max(initial=0))):
                more = self._count[leaves] > index
                given = self._start[leaves[more]] + index
                function.at(into, (rows[more], self._given[given]), self._weights[given])

    def _leaves(self, x: Array) -> Array:
        """(n, trees): the leaf of each row in each tree."""
        at = np.tile(self.roots, (len(x), 1))
        rows, column = np.nonzero(~self._leaf[at])
        for _ in range(len(self._leaf)):
            if not len(rows):
                return at
            here = at[rows, column]
            value, threshold = x[rows, self._features[here]], self._values[here]
            yes = np.zeros(len(here), bool)
            for rule, those in self._rules.items():
                picked = those[here]
                yes[picked] = _RULES[rule](value[picked], threshold[picked])
            yes = np.where(np.isnan(value), self._missing[here], yes)
            at[rows, column] = here = np.where(yes, self._next[True][here], self._next[False][here])
            further = ~self._leaf[here]
            rows, column = rows[further], column[further]
        raise Unsupported  # a circle


def _rows(x: Array) -> Array:
    x = x.reshape(1, -1) if x.ndim == 1 else x
    return x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)


@operator("ai.onnx.ml::TreeEnsembleRegressor")
def regressor(spec: Spec) -> Function:
    """TreeEnsembleRegressor-1, 3: sums (or the mean, least or greatest) of what leaves give, in float64."""
    how, targets = spec.get("aggregate_function", "SUM"), spec.get("n_targets", 1)
    if how not in ("SUM", "AVERAGE", "MIN", "MAX") or spec.get("post_transform", "NONE") != "NONE":
        raise Unsupported
    trees, base = _Trees(spec, "target"), _numbers(spec, "base_values")
    function, start = {"MIN": (np.minimum, np.inf), "MAX": (np.maximum, -np.inf)}.get(how, (np.add, 0.0))

    def run(x: Array) -> Array:
        x = _rows(x)
        found = np.full((len(x), targets), start)
        trees.gather(x, found, function)
        if not np.isfinite(found).all():  # no leaf says anything of a target
            raise Unsupported
        found = found / len(trees.roots) if how == "AVERAGE" else found
        return (found if base is None else found + base).astype(np.float32)

    return run


@operator("ai.onnx.ml::TreeEnsembleClassifier")
def classifier(spec: Spec) -> Function:
    """TreeEnsembleClassifier-1, 3, of scores for two classes or more, as they are, by softmax or logistic."""
    numbers = spec.get("classlabels_int64s")
    labels = np.array(numbers or spec.get("classlabels_strings") or (), None if numbers else object)
    how, ids = spec.get("post_transform", "NONE"), set(spec.get("class_ids", ()))
    if len(labels) < 2 or len(ids) < 2 or how not in ("NONE", "SOFTMAX", "LOGISTIC"):
        raise Unsupported
    trees, base = _Trees(spec, "class"), _numbers(spec, "base_values")

    def run(x: Array) -> tuple[Array, Array]:
        x = _rows(x)
        scores = np.zeros((len(x), len(labels))) if base is None else np.tile(base.astype(np.float64), (len(x), 1))
        trees.gather(x, scores, np.add)
        if how == "LOGISTIC":
            scores = 1 / (1 + np.exp(-scores))
        elif how == "SOFTMAX":
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
        return labels[scores.argmax(axis=1)], scores.astype(np.float32)

    return run
