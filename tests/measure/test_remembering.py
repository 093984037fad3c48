"""Runs that keep what they gave."""

from __future__ import annotations

from typing import Any

import numpy as np

from lwgraph.executor import Feeds
from lwgraph.measure.remembering import remembering


class Doubling:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, feeds: Feeds) -> dict[str, Any]:
        self.calls += 1
        return {"y": 2 * feeds["x"]}


def feeds(value: float) -> Feeds:
    return {"x": np.full((1, 4), value, np.float32)}


def test_equal_inputs_are_computed_once() -> None:
    run = Doubling()
    remembered = remembering(run)
    for value in (1.0, 2.0, 1.0):
        np.testing.assert_array_equal(remembered(feeds(value))["y"], np.full((1, 4), 2 * value))
    assert run.calls == 2


def test_names_types_and_shapes_tell_inputs_apart() -> None:
    run = Doubling()
    remembered = remembering(run)
    x = np.zeros((2, 2), np.float32)
    assert remembered({"x": x})["y"].shape == (2, 2)
    assert remembered({"x": x.reshape(1, 4)})["y"].shape == (1, 4)
    assert remembered({"x": x.view(np.int32)})["y"].dtype == np.int32
    assert run.calls == 3


def test_what_does_not_fit_is_computed_each_time() -> None:
    run = Doubling()
    remembered = remembering(run, 16)  # the outputs of one input
    for value in (1.0, 2.0, 1.0, 2.0):
        remembered(feeds(value))
    assert run.calls == 3


def test_sequences_are_computed_each_time() -> None:
    calls: list[int] = []

    def run(given: Feeds) -> dict[str, Any]:
        calls.append(1)
        return {"y": [np.zeros(2), np.zeros(3)]}

    remembered = remembering(run)
    assert len(remembered(feeds(0))["y"]) == len(remembered(feeds(0))["y"]) == 2
    assert len(calls) == 2
