"""Ranges of a network's values are observed once, and in variants only what these have besides."""

from __future__ import annotations

from lwgraph.calibrate.histogram import Histogram
from lwgraph.calibrate.known_ranges import KnownRanges
from lwgraph.calibrate.ranges import Observed


def seen(high: float) -> Observed:
    found = Observed(Histogram())
    found.histogram.extend(0.0, high)
    found.runs = 1
    return found


class Collecting:
    """Counts what is asked, and gives it a range of its own each time."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, names: list[str]) -> dict[str, Observed]:
        self.asked.append(names)
        return {name: seen(float(len(self.asked))) for name in names}


def test_only_what_is_not_known_is_observed() -> None:
    known, collect = KnownRanges(frozenset({"a", "b", "c"})), Collecting()
    known.observe(["a", "b"], 16, 0, {}, collect)
    found = known.observe(["b", "c", "new"], 16, 0, {}, collect)
    assert collect.asked == [["a", "b"], ["c", "new"]] and list(found) == ["b", "c", "new"]
    assert [found[n].histogram.high for n in found] == [1.0, 2.0, 2.0]
    known.observe(["a", "b", "c"], 16, 0, {}, collect)
    assert len(collect.asked) == 2


def test_names_that_only_a_variant_has_are_never_kept() -> None:
    """Another variant gives them to something else."""
    known, collect = KnownRanges(frozenset({"a"})), Collecting()
    for _ in range(2):
        known.observe(["a", "new"], 16, 0, {}, collect)
    assert collect.asked == [["a", "new"], ["new"]]


def test_what_lies_in_a_form_is_kept_where_it_stands_alone() -> None:
    known, collect = KnownRanges(frozenset({"a"}), learning=False), Collecting()
    lone = known.of_one_form()
    for _ in range(2):
        lone.observe(
            ["a", "inside", "new"], 16, 0, {}, collect, {"a": "low-rank{rank=2}", "inside": "low-rank{rank=2}"}
        )
    known.observe(["inside"], 16, 0, {}, collect, {"inside": "low-rank{rank=2}"})  # of any variant
    known.observe(["inside"], 16, 0, {}, collect, {"inside": "low-rank{rank=4}"})  # the name is of another form there
    assert collect.asked == [["a", "inside", "new"], ["a", "new"], ["inside"]]


def test_what_lies_in_an_unknown_form_is_not_kept() -> None:
    """Another form gives its name to something else."""
    known, collect = KnownRanges(frozenset({"a"}), learning=False), Collecting()
    lone = known.of_one_form()
    for _ in range(2):
        lone.observe(["inside"], 16, 0, {}, collect, {"inside": ""})
    assert collect.asked == [["inside"], ["inside"]]


def test_a_variant_teaches_nothing() -> None:
    known, collect = KnownRanges(frozenset({"a", "b"})), Collecting()
    known.observe(["a"], 16, 0, {}, collect)
    known.learning = False
    for _ in range(2):
        known.observe(["a", "b"], 16, 0, {}, collect)
    assert collect.asked == [["a"], ["b"], ["b"]]


def test_other_samples_and_channels_are_other_ranges() -> None:
    known, collect = KnownRanges(frozenset({"a"})), Collecting()
    for feeds, samples, axes in ((16, 0, {}), (32, 0, {}), (16, 1024, {}), (16, 0, {"a": 1})):
        known.observe(["a"], feeds, samples, axes, collect)
        known.observe(["a"], feeds, samples, axes, collect)
    assert len(collect.asked) == 4


def test_what_is_given_may_be_changed() -> None:
    known, collect = KnownRanges(frozenset({"a"})), Collecting()
    for _ in range(2):
        found = known.observe(["a"], 16, 0, {}, collect)
        assert found["a"].histogram.high == 1.0
        found["a"].merge(seen(9.0))
