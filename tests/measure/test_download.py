"""Bytes after compression: what is told, by what is installed, and when."""

from __future__ import annotations

import sys
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lwgraph import ir
from lwgraph.measure import download
from lwgraph.measure.download import download_bytes
from lwgraph.optimizer import deliver
from lwgraph.report import words
from tests.passes.quantize.quantize_models import Net


def network(weight: float | None = None) -> ir.Model:
    """A layer of random weights, or of equal ones."""
    n = Net(17)
    made = n.rng.normal(size=(64, 64)) if weight is None else np.full((64, 64), weight)
    return n.model(n.op("MatMul", n.input("x", [1, 64]), n.constant(made.astype(np.float32))))


def test_the_standard_librarys_way_is_always_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("zstandard", "brotli"):
        monkeypatch.setitem(sys.modules, name, None)
    model = network()
    found = download_bytes({"input": model, "result": network(0.5)})
    assert found["input"] == {"zlib": len(zlib.compress(ir.to_proto(model).SerializeToString(), 9))}
    assert found["result"]["zlib"] < 0.1 * found["input"]["zlib"]


def test_others_count_where_they_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    compressor = SimpleNamespace(compress=lambda data: b"z" * 7)
    monkeypatch.setitem(sys.modules, "zstandard", SimpleNamespace(ZstdCompressor=lambda level: compressor))
    monkeypatch.setitem(sys.modules, "brotli", SimpleNamespace(compress=lambda data, quality: b"b" * 5))
    found = download_bytes({"input": network()})["input"]
    assert (found["zstd"], found["brotli"]) == (7, 5)


def test_the_real_ones() -> None:
    pytest.importorskip("zstandard")
    pytest.importorskip("brotli")
    found = download_bytes({"input": network(0.5)})["input"]
    assert set(found) == {"zlib", "zstd", "brotli"} and max(found.values()) < 2000


def test_large_models_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "LARGEST", 10)
    assert download_bytes({"input": network()}) == {}


@pytest.mark.parametrize(
    ("objective", "limit", "budget", "told"),
    [
        ("latency", None, None, False),
        ("bytes", None, None, True),
        ("latency", 10, None, True),
        ("bytes", None, 1.5, False),
    ],
)
def test_it_is_told_where_bytes_are_asked_for_and_there_is_time(
    objective: str, limit: int | None, budget: float | None, told: bool
) -> None:
    model = network()
    setting: Any = SimpleNamespace(
        request=SimpleNamespace(objective=objective, max_bytes=limit),
        clock=SimpleNamespace(budget=budget, spent=1.0),
        original=model,
        bytes=ir.size(model),
    )
    assert bool(deliver._download(setting, model)) == told


def test_the_words() -> None:
    details = {"download": {"input": {"zlib": 2_580_000}, "result": {"zlib": 310_000}}}
    assert words.download(details) == "Compressed, as for a download: 2.58 MB before, 310 kB after (zlib)."
    assert words.download({}) == ""
