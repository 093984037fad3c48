"""onnx's backend tests through the reference executor and through onnx's own evaluator: who passes what.

    python -m benchmarks.runtime_backend            counts, and the tests that fail with their reasons
    python -m benchmarks.runtime_backend Conv ...   only the node tests of these operators
    python -m benchmarks.runtime_backend --executor openvino   what another executor passes, refuses, gets wrong

Training and ML-domain tests are left out, and those whose models must be downloaded.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.reference import ReferenceEvaluator

from lwgraph import ir, registry
from lwgraph.tasks.isolated import Isolated

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
_OUTSIDE = ("ai.onnx.ml", "ai.onnx.preview.training")


def cases() -> Iterator[Any]:
    """Every backend test that comes with its model."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = list(itertools.chain.from_iterable(load_model_tests(kind=kind) for kind in KINDS))
    for case in found:
        if case.model is None:
            case.model = onnx.load(str(Path(case.model_dir) / "model.onnx"))
        if not any(entry.domain in _OUTSIDE for entry in case.model.opset_import):
            yield case


def node_cases(names: Collection[str]) -> list[Any]:
    """The node tests in the modules named after some operators: much quicker to make than all."""
    package = importlib.import_module("onnx.backend.test.case.node")
    made: list[Any] | None = getattr(package, "_NodeTestCases", None)
    if made is None:
        return list(cases())
    wanted = {name.lower() for name in names}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(package.__path__):
            if module.name.replace("_", "") in wanted:
                importlib.import_module(f"{package.__name__}.{module.name}")
    return list(made)


def operators(model: onnx.ModelProto) -> set[str]:
    """Operators of the main graph."""
    return {node.op_type for node in model.graph.node if node.domain in ("", "ai.onnx")}


def _plain(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _read(path: Path, kind: onnx.TypeProto) -> Any:
    raw = path.read_bytes()
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(raw))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(raw))
    return numpy_helper.to_array(onnx.TensorProto.FromString(raw))


def data_sets(case: Any) -> Iterator[tuple[list[Any], list[Any]]]:
    """Inputs and expected outputs."""
    for data in case.data_sets or ():
        yield [_plain(value) for value in data[0]], [_plain(value) for value in data[1]]
    if case.model_dir is None:
        return
    graph = case.model.graph
    stored = {tensor.name for tensor in graph.initializer}
    fed = [value for value in graph.input if value.name not in stored]
    for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
        yield (
            [_read(folder / f"input_{i}.pb", value.type) for i, value in enumerate(fed)],
            [_read(folder / f"output_{i}.pb", value.type) for i, value in enumerate(graph.output)],
        )


def _same(got: Any, want: Any, rtol: float, atol: float) -> None:
    """AssertionError unless equal within the test's own tolerance."""
    if want is None or got is None:
        assert got is None and want is None, f"{got} is not {want}"
    elif isinstance(want, list):
        assert isinstance(got, list) and len(got) == len(want), "not a sequence of the same length"
        for g, w in zip(got, want, strict=True):
            _same(g, w, rtol, atol)
    else:
        got, want = np.asarray(got), np.asarray(want)
        assert got.shape == want.shape, f"shape {got.shape}, not {want.shape}"
        if want.dtype.kind in "OUST":
            assert got.astype(str).tolist() == want.astype(str).tolist(), "other strings"
            return
        assert got.dtype == want.dtype, f"type {got.dtype}, not {want.dtype}"
        if want.dtype.kind not in "fiubc":
            got, want = got.astype(np.float64), want.astype(np.float64)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


Runner = Callable[[onnx.ModelProto, dict[str, Any]], list[Any]]


def by_lwgraph(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """The reference executor."""
    return list(registry.executor("reference").prepare(ir.load(model))(feeds).values())


def by_onnx(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """onnx's evaluator."""
    return list(ReferenceEvaluator(model).run(None, feeds))


def failure(case: Any, runner: Runner) -> str | None:
    """Why a test fails, on one line, or None."""
    stored = {tensor.name for tensor in case.model.graph.initializer}
    names = [value.name for value in case.model.graph.input if value.name not in stored]
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            for inputs, wanted in data_sets(case):
                results = runner(case.model, dict(zip(names, inputs, strict=False)))
                assert len(results) == len(wanted), f"{len(results)} outputs, not {len(wanted)}"
                for got, want in zip(results, wanted, strict=True):
                    _same(got, want, case.rtol, case.atol)
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None


def of_executor(name: str) -> None:
    """Print what another executor passes, refuses to load or run, and computes otherwise, in a process apart."""
    executor = Isolated(registry.executor(name), timeout=60)

    def runner(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
        return list(executor.prepare(ir.load(model))(feeds).values())

    found: dict[str, dict[str, list[str]]] = {kind: {} for kind in ("passes", "refuses", "computes otherwise")}
    for case in cases():
        why = failure(case, runner)
        kind = (
            "passes"
            if why is None
            else "refuses"
            if why.startswith(("ModelError", "DataError"))
            else "computes otherwise"
        )
        for operator in operators(case.model) if len(operators(case.model)) == 1 else ["several operators"]:
            found[kind].setdefault(operator, []).append(case.name)
        if kind == "computes otherwise":
            print(f"- `{case.name}`: {why}")
    for kind, tests in found.items():
        names = ", ".join(f"{operator} {len(tests[operator])}" for operator in sorted(tests) if tests[operator])
        print(f"\n{executor.name} {kind} {sum(map(len, tests.values()))} tests: {names}")


def main(chosen: set[str]) -> None:
    """Print the counts and what fails."""
    counts = {"lwgraph": 0, "onnx": 0}
    total = 0
    for case in cases():
        if chosen and not (operators(case.model) & chosen and len(operators(case.model)) == 1):
            continue
        total += 1
        ours, theirs = failure(case, by_lwgraph), failure(case, by_onnx)
        counts["lwgraph"] += ours is None
        counts["onnx"] += theirs is None
        if ours:
            print(f"- `{case.name}`: {ours}" + (" (onnx's evaluator fails, too)" if theirs else ""))
    print(f"{total} tests: lwgraph's reference executor passes {counts['lwgraph']}, onnx's evaluator {counts['onnx']}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--executor"]:
        of_executor(*sys.argv[2:])
    else:
        main(set(sys.argv[1:]))
