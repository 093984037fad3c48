"""What searches measured, on disk."""

import math

import numpy as np

from lwgraph.plan.search.kept import Kept, kept_path

FEEDS = [{"x": np.ones((1, 2), np.float32)}]


def test_what_is_put_is_there_for_the_next_run(tmp_path):
    path = tmp_path / "new" / "it.json"
    kept = Kept(path, "it is")
    assert kept.get("a") is None
    kept.put("a", (0.5, math.inf))
    assert Kept(path, "it is").get("a") == [0.5, math.inf]
    assert [each.name for each in path.parent.iterdir()] == ["it.json"]  # nothing is left beside it


def test_a_file_that_is_cut_off_is_empty_and_one_that_cannot_be_written_says_so(tmp_path):
    path = tmp_path / "it.json"
    for text in ('{"a": [0.1', "[1]"):
        path.write_text(text)
        kept = Kept(path, "it is")
        assert kept.get("a") is None and not kept.warning
    (tmp_path / "file").write_text("")
    bad = Kept(tmp_path / "file" / "it.json", "it is")
    bad.put("a", 1)
    assert bad.warning.startswith("it is not kept") and "LWGRAPH_CACHE" in bad.warning and bad.get("a") == 1
    nowhere = Kept(None, "it is")
    nowhere.put("a", 1)
    assert not nowhere.warning


def test_files_differ_by_facts_and_by_all_of_the_samples(tmp_path):
    def path(*facts, feeds=FEEDS, kind="kind-1"):
        return kept_path(kind, facts, feeds, folder=tmp_path)

    x = FEEDS[0]["x"]
    others = [
        path("a", 2), path("b", 1), path("a", 1, kind="kind-2"), path("a", 1, feeds=[{"y": x}]),
        path("a", 1, feeds=[{"x": x + 1}]), path("a", 1, feeds=[{"x": x.reshape(2, 1)}]),
        path("a", 1, feeds=[{"x": x.view(np.int32)}]), path("a", 1, feeds=FEEDS * 2), path("a", 1, feeds=[]),
    ]  # fmt: skip
    assert len({path("a", 1), *others}) == 1 + len(others)
    assert path("a", 1) == path("a", 1) and path("a", 1).parent == tmp_path / "kind-1"
