"""onnx's own backend tests of the operators that are ours: all of them pass, and ours computed them."""

import functools

import numpy as np
import pytest

from benchmarks import runtime_backend
from lwgraph import ir, registry
from lwgraph.runtime.ops import OURS


@functools.cache
def cases() -> dict[str, list]:
    found: dict[str, list] = {name: [] for name in OURS}
    for case in runtime_backend.node_cases([*OURS]):
        for name in runtime_backend.operators(case.model) & set(OURS):
            if len(case.model.graph.node) == 1:
                found[name].append(case)
    assert sum(map(len, found.values())) > 350
    return found


@pytest.mark.parametrize("operator", OURS)
def test_backend_suite(operator: str) -> None:
    for case in cases()[operator]:
        assert runtime_backend.failure(case, runtime_backend.by_lwgraph) is None, case.name


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose", "QLinearConv", "MatMul", "Gemm", "MaxPool", "Resize"])
def test_ours_does_the_work(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests of the hot operators do not fall back to onnx's operator."""
    from lwgraph.runtime.delegate import Delegates

    made = []
    monkeypatch.setattr(Delegates, "operator", lambda self, node: made.append(node.op_type) or (None, []))
    total = len(cases()[operator])
    for case in cases()[operator]:
        runtime_backend.failure(case, runtime_backend.by_lwgraph)
    assert total and len(made) <= (0.5 if operator == "Resize" else 0.15) * total


def test_the_comparison_can_fail() -> None:
    case = cases()["Relu"][0]
    assert "AssertionError" in str(
        runtime_backend.failure(case, lambda model, feeds: [next(iter(feeds.values())) + np.float32(1)])
    )


def test_executor_passes_where_onnx_fails() -> None:
    """Scatter has no implementation in onnx's evaluator under its old name."""
    case = next(c for c in runtime_backend.node_cases(["Scatter"]) if c.name == "test_scatter_with_axis")
    assert runtime_backend.failure(case, runtime_backend.by_lwgraph) is None
    assert isinstance(registry.executor("reference").prepare(ir.load(case.model)), object)
