"""What was freed goes back to the system, and sessions hold no more than they need."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from lwgraph import heap, ir
from lwgraph.check import verify
from lwgraph.contract import Contract
from lwgraph.executor import Feeds
from lwgraph.ir.inference import inferred_types
from lwgraph.optimizer.prove import same_in_both, same_outputs
from lwgraph.tasks import isolated
from tests.layers.chain import FEEDS, ORT, chain
from tests.runtime.models import model


@pytest.mark.skipif(heap._malloc_trim() is None, reason="the C library keeps what is freed")
def test_what_was_freed_goes_back_to_the_system() -> None:
    """Pieces below the size from which the allocator maps them, under one that stays."""
    heap.collect()
    pieces = [np.ones(8 << 10) for _ in range(2000)]
    kept = pieces[-1]
    before = heap.resident()
    del pieces
    heap.trim()
    assert before - heap.resident() > 64 << 20 and kept.any()


def test_free_pages_are_looked_for_only_where_the_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, size = list[int](), 100 << 20
    monkeypatch.setattr(heap, "_malloc_trim", lambda: looks.append)
    monkeypatch.setattr(heap, "resident", lambda: size)
    heap.collect()
    assert len(looks) == 1
    for size, wanted in ((100, 1), (163, 1), (164, 2), (170, 2), (60, 2), (123, 2), (124, 3)):
        size <<= 20
        heap.trim()
        assert len(looks) == wanted


def test_resident_counts_what_this_process_took() -> None:
    """An array of more than 32 MiB is always a mapping of its own, which every allocator returns."""
    before = heap.resident()
    kept = np.ones(16 << 20, np.float32)
    assert heap.resident() - before > kept.nbytes // 2


@pytest.mark.parametrize(
    "work",
    [
        lambda made, path: ir.load(ir.to_proto(made)),
        lambda made, path: verify(made),
        lambda made, path: ir.infer_shapes(made),
        lambda made, path: inferred_types(made),
        lambda made, path: ir.save(made, path / "saved.onnx"),
        lambda made, path: ORT.prepare(made),
    ],
    ids=["load", "verify", "infer_shapes", "inferred_types", "save", "prepare"],
)
def test_whoever_writes_a_model_out_gives_back_what_that_took(
    work: Callable[[ir.Model, Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, calls = chain(), list[int]()
    monkeypatch.setattr(heap, "trim", lambda: calls.append(1))
    work(made, tmp_path)
    assert calls


def test_a_worker_gives_back_what_it_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[int]()
    monkeypatch.setattr(heap, "collect", lambda: calls.append(1))
    monkeypatch.setattr(isolated, "loaded_runs", {1: None, 2: None})
    isolated._forget([])
    isolated._forget([7])
    assert not calls
    isolated._forget([1])
    assert len(calls) == 1 and isolated.loaded_runs == {2: None}


def test_a_session_does_not_keep_its_model() -> None:
    """A loaded ensemble of trees takes several times its bytes."""
    made = chain()
    run, graph = ORT.prepare(made), weakref.ref(made.graph)
    del made
    gc.collect()
    assert graph() is None and run(FEEDS)


def test_a_session_whose_divisions_are_checked_still_checks_them() -> None:
    nodes = [helper.make_node("Div", ["a", "b"], ["y"])]
    made = model(nodes, {"a": (TensorProto.INT64, [2]), "b": (TensorProto.INT64, [2])}, ["y"])
    run = ORT.prepare(made)
    del made
    gc.collect()
    with pytest.raises(Exception, match="divides"):
        run({"a": np.ones(2, np.int64), "b": np.zeros(2, np.int64)})


class Counting:
    """Counts how many of its sessions are there at once."""

    name = "counting"

    def __init__(self) -> None:
        self.alive, self.most = weakref.WeakSet[Any](), 0

    def prepare(self, of: ir.Model, outputs: Any = None) -> Any:
        run = ORT.prepare(of, outputs)
        self.alive.add(run)
        self.most = max(self.most, len(self.alive))
        return run


@pytest.mark.parametrize("twice", [False, True])
def test_a_proof_holds_one_session_at_a_time(twice: bool) -> None:
    executor, made = Counting(), chain()
    feeds: list[Feeds] = [FEEDS, {name: value + 1 for name, value in FEEDS.items()}]
    if twice:
        check = same_in_both(made, executor, executor, feeds, "both")  # type: ignore[arg-type]
    else:
        check = same_outputs(made, chain(), executor, feeds, Contract.EXACT, "outputs")  # type: ignore[arg-type]
    assert check.ok and executor.most == 1
