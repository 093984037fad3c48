"""What was measured and made before, on disk."""

import math
import os
import sys

import numpy as np
import platformdirs
import pytest

from lwgraph import cache, ir
from lwgraph.cache import Models, Rows, cache_folder, cache_path
from lwgraph.testing.layers import make_layer

FEEDS = [{"x": np.ones((1, 2), np.float32)}]


def test_what_is_put_is_there_for_the_next_run(tmp_path):
    path = tmp_path / "new" / "it.json"
    kept = Rows(path, "it is")
    assert kept.get("a") is None
    kept.put("a", (0.5, math.inf))
    assert Rows(path, "it is").get("a") == [0.5, math.inf]
    assert [each.name for each in path.parent.iterdir()] == ["it.json"]  # nothing is left beside it


def test_a_file_that_is_cut_off_is_empty_and_one_that_cannot_be_written_says_so(tmp_path):
    path = tmp_path / "it.json"
    for text in ('{"a": [0.1', "[1]"):
        path.write_text(text)
        kept = Rows(path, "it is")
        assert kept.get("a") is None and not kept.warning
    (tmp_path / "file").write_text("")
    bad = Rows(tmp_path / "file" / "it.json", "it is")
    bad.put("a", 1)
    assert bad.warning.startswith("it is not kept") and "LWGRAPH_CACHE" in bad.warning and bad.get("a") == 1
    nowhere = Rows(None, "it is")
    nowhere.put("a", 1)
    assert not nowhere.warning


def test_files_differ_by_facts_and_by_all_of_the_samples(tmp_path):
    def path(*facts, feeds=FEEDS, kind="kind-1"):
        return cache_path(kind, facts, feeds, folder=tmp_path)

    x = FEEDS[0]["x"]
    others = [
        path("a", 2), path("b", 1), path("a", 1, kind="kind-2"), path("a", 1, feeds=[{"y": x}]),
        path("a", 1, feeds=[{"x": x + 1}]), path("a", 1, feeds=[{"x": x.reshape(2, 1)}]),
        path("a", 1, feeds=[{"x": x.view(np.int32)}]), path("a", 1, feeds=FEEDS * 2), path("a", 1, feeds=[]),
    ]  # fmt: skip
    assert len({path("a", 1), *others}) == 1 + len(others)
    assert path("a", 1) == path("a", 1) and path("a", 1).parent == tmp_path / "kind-1"


def test_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("LWGRAPH_CACHE")
    assert cache_folder() == platformdirs.user_cache_path("lwgraph", appauthor=False)
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_folder() == tmp_path / "lwgraph"


def test_the_models_kept_do_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    model = make_layer("Gemm", (3, 4), (4, 4))
    monkeypatch.setattr(cache, "MOST_TOTAL", 2 * len(ir.to_proto(model).SerializeToString()) + 100)
    on = Models(("facts",), [])
    for age, key in enumerate("abc"):
        on.put(key, model, {"number": age})
        os.utime(on._path(key), (age, age))
    assert [on.get(key) is not None for key in "abc"] == [False, True, True]
    assert on.get("c")[1] == {"number": 2} and Models(("others",), []).get("c") is None
    monkeypatch.setattr(cache, "MOST_BYTES", 1)
    on.put("a", model, {})
    assert on.get("a") is None  # one that is too large


def test_a_write_that_is_interrupted_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "it"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), cache.write_beside(path) as beside:
        beside.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
