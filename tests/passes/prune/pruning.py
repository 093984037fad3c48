"""Cutting channels in tests: zeroed beforehand, then removed, the outputs must not change."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.check import verify
from lwgraph.passes.prune.remove_channels import remove_channels
from lwgraph.rewrite.base import Context
from lwgraph.views.coupling import Group, couple_channels

Choice = Mapping[int, np.ndarray]  # group number -> channels


def with_zeros(model: ir.Model, choice: Choice) -> ir.Model:
    """A copy in which everything that the model's constants hold of the chosen channels is zero."""
    copy = ir.clone(model)
    arrays: dict[ir.Value, np.ndarray] = {}
    for group in couple_channels(copy).groups:
        if group.number not in choice:
            continue
        for each in group.weights():
            value = each.axis.value
            if not value.is_initializer():
                continue
            array = arrays.setdefault(value, np.array(ir.constant(value)))
            where = [slice(None)] * array.ndim
            where[each.axis.axis] = each.indices[choice[group.number]].reshape(-1)
            array[tuple(where)] = 0
    for value, array in arrays.items():
        ir.set_constant(value, array)
    return copy


def cut(model: ir.Model, choice: Choice) -> ir.Model:
    """A verified copy without the chosen channels."""
    copy = ir.clone(model)
    coupling = couple_channels(copy)
    by_number = {group.number: group for group in coupling.groups}
    removed = remove_channels(copy, coupling, {by_number[number]: channels for number, channels in choice.items()})
    assert removed == sum(len(channels) for channels in choice.values())
    verify(copy)
    return copy


def some(group: Group, rng: np.random.Generator, share: float = 0.5) -> np.ndarray:
    """A random share of a group's channels, at least one left."""
    return np.sort(rng.permutation(group.width)[: min(int(group.width * share), group.width - 1)])


def feeds(model: ir.Model, batch: int = 2, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        value.name: rng.standard_normal([size if isinstance(size, int) else batch for size in value.shape]).astype(
            np.float32
        )
        for value in model.graph.inputs
    }


def run(model: ir.Model, data: dict[str, np.ndarray], executor: str = "ort") -> list[np.ndarray]:
    options = {"optimize": False} if executor == "ort" else {}
    return list(registry.executor(executor, **options).prepare(model)(data).values())


def parameters(model: ir.Model) -> int:
    return sum(value.const_value.size for value in model.graph.initializers.values())


def assert_same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * max(1.0, float(np.abs(b).max())))


def context(model: ir.Model, samples: int = 64, seed: int = 5, rows: int = 6) -> Context:
    executor = registry.executor("ort")
    data = [feeds(model, batch=64, seed=seed + i) for i in range(samples // 64)]
    return Context(executor=executor, data=data, statistics=Statistics(model, data, executor, rows_per_unknown=rows))
