"""A family of models along the front: what is written, shared, loaded and chosen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import lwgraph
from lwgraph import family, ir
from lwgraph.errors import CheckError, DataError, ModelError, UsageError
from lwgraph.family import Family, Member, load_family, parse_members, write_family
from lwgraph.optimizer import front
from lwgraph.optimizer.front import FrontRow
from tests.passes.quantize.quantize_models import Net


def network(scale: float = 1.0) -> ir.Model:
    """Two layers; the first is the same for every `scale`."""
    n = Net(17)
    h = n.op("Relu", n.conv(n.input("x", [1, 8, 8, 8]), 8, 32, name="first"))
    other = n.constant((scale * n.rng.normal(size=(32, 32, 3, 3))).astype(np.float32))
    return n.model(n.op("Conv", h, other, pads=[1] * 4, name="second"))


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[FrontRow]:
    """A front of four plans, the last of which keeps no promise; the slower, the less is lost."""
    rows = [FrontRow(n, 0.04 - 0.01 * n, None, 0, n == 1, "broken" if n == 4 else "kept") for n in range(1, 5)]
    monkeypatch.setattr(front, "numbers", lambda source: range(1, 5))
    monkeypatch.setattr(front, "read", lambda source, number: (rows[number - 1], network(number)))
    monkeypatch.setattr(front, "prove", lambda source, number, *rest: None)
    times = {str(n): 1.0 * n for n in range(1, 5)} | {"small": 1.0, "medium": 2.0, "large": 3.0}
    monkeypatch.setattr(family, "_milliseconds", lambda models, *rest: {name: times[name] for name in models})
    return rows


def test_members_share_their_weights(plans: list[FrontRow], tmp_path: Path) -> None:
    made = write_family(network(), tmp_path / "family", 3)
    assert [(m.name, m.plan) for m in made.members] == [("small", 1), ("medium", 2), ("large", 3)]
    weights = (tmp_path / "family/weights.bin").stat().st_size
    first, second = 32 * 8 * 9 * 4, 32 * 32 * 9 * 4
    assert first + 3 * second <= weights <= first + 3 * second + 4096 * 4
    x = {"x": np.random.default_rng(0).standard_normal((1, 8, 8, 8)).astype(np.float32)}
    read = load_family(tmp_path / "family")
    assert read.members == made.members
    for member in read.members:
        expected = onnxruntime.InferenceSession(ir.to_proto(network(member.plan)).SerializeToString())
        np.testing.assert_array_equal(read.session(member.name).run(None, x)[0], expected.run(None, x)[0])


def test_the_member_that_loses_least_within_a_time_is_chosen(plans: list[FrontRow], tmp_path: Path) -> None:
    made = write_family(network(), tmp_path / "family", 3)
    assert made.choose(1.5).name == "small" and made.choose(2.5).name == "medium" and made.choose(9).name == "large"
    assert isinstance(made.within(2.0), onnxruntime.InferenceSession)
    with pytest.raises(UsageError, match=r"no member runs in 0.5 ms here; the fastest, 'small', takes 1 ms"):
        made.within(milliseconds=0.5)
    with pytest.raises(UsageError, match="there is no member 'tiny'; allowed: small, medium, large"):
        made.session("tiny")


@pytest.mark.parametrize(
    ("members", "numbers"), [(1, [1]), (2, [1, 3]), (8, [1, 2, 3]), ([2.5], [2]), ([1.0, 3.5, 3.6], [1, 3])]
)
def test_which_plans(plans: list[FrontRow], members: Any, numbers: list[int], tmp_path: Path) -> None:
    """A plan that is known to break the promise is no member."""
    assert [m.plan for m in write_family(network(), tmp_path / "f", members).members] == numbers


def test_a_family_begins_with_the_plan_that_was_delivered(plans: list[FrontRow], tmp_path: Path) -> None:
    plans[:] = [replace(row, chosen=row.number == 2) for row in plans]
    assert [m.plan for m in write_family(network(), tmp_path / "two", 2).members] == [2, 3]
    assert [m.plan for m in write_family(network(), tmp_path / "three", 3).members] == [1, 2, 3]


@pytest.mark.parametrize(
    ("times", "numbers"),
    [
        ([1.0, 1.9, 4.0, 4.05, 4.1], [1, 2, 5]),  # plans 3 to 5 are as fast: the last of them loses least
        ([1.0, 1.1, 1.2, 2.2, 4.0], [1, 4, 5]),  # the middle of the times, not of the places
        ([1.0, 3.0, 3.95, 4.0, 8.0], [3, 4, 5]),  # the delivered plan, 3, stays beside one that is as fast
    ],
)
def test_members_are_spread_by_their_times(
    times: list[float], numbers: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = numbers[0]
    rows = [FrontRow(n, 0.06 - 0.01 * n, None, 0, n == chosen, "kept") for n in range(1, 6)]
    monkeypatch.setattr(front, "numbers", lambda source: range(1, 6))
    monkeypatch.setattr(front, "read", lambda source, number: (rows[number - 1], network(number)))
    monkeypatch.setattr(front, "prove", lambda source, number, *rest: None)
    known = {str(n): time for n, time in enumerate(times, 1)}
    monkeypatch.setattr(family, "_milliseconds", lambda models, *rest: {name: known[name] for name in models})
    assert [m.plan for m in write_family(network(), tmp_path / "f", 3).members] == numbers


@pytest.mark.parametrize(("members", "numbers"), [(2, [1, 3]), ([2.5], [2])])
def test_only_members_are_proved(
    plans: list[FrontRow], members: Any, numbers: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that does not hold leaves no folder behind."""
    proved: list[int] = []

    def prove(source: ir.Model, number: int, *rest: Any) -> None:
        proved.append(number)
        if len(proved) > len(numbers):
            raise CheckError("planted")

    monkeypatch.setattr(front, "prove", prove)
    write_family(network(), tmp_path / "f", members)
    assert proved == numbers
    with pytest.raises(CheckError, match="planted"):
        write_family(network(), tmp_path / "g", members)
    assert not (tmp_path / "g").exists()


def test_errors(plans: list[FrontRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"no plan runs in 0\.5 ms here; the fastest takes 1 ms"):
        write_family(network(), tmp_path / "f", [0.5])
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists; name a new folder"):
        write_family(network(), tmp_path / "there")
    with pytest.raises(ModelError, match="cannot be written"):
        write_family(network(), tmp_path / "no/where")
    with pytest.raises(UsageError, match="holds no family"):
        load_family(tmp_path)
    (tmp_path / "family.json").write_text('{"lwgraph_family": 9, "members": [], "threads": 1}')
    with pytest.raises(DataError, match="version 9"):
        load_family(tmp_path)
    (tmp_path / "family.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        load_family(tmp_path)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="run lwgraph optimize with --data first"):
        write_family(network(5.0), tmp_path / "f")


@pytest.mark.parametrize("text", ["0", "9", "2s", "", "1ms,,2ms", "-1ms"])
def test_what_is_no_number_of_members(text: str) -> None:
    with pytest.raises(UsageError, match="--family is"):
        parse_members(text)


def test_numbers_and_latencies() -> None:
    assert parse_members("3") == 3 and parse_members("2ms, 5.5ms") == [2.0, 5.5]


def test_the_manifest_is_plain(tmp_path: Path) -> None:
    told = Family(tmp_path, [Member("only", "only.onnx", 1, 0.0, 2.0, 10, "kept")], 1)
    assert "only 2 ms" in repr(told)
    assert json.loads(json.dumps([m.__dict__ for m in told.members]))[0]["plan"] == 1
    assert lwgraph.load_family is load_family
