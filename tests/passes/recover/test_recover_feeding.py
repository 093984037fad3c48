"""What training is fed: each row once per round, the teacher once per version, and nothing but the step's number."""

import itertools
from typing import Any

import numpy as np
import pytest

from tests.passes.recover.nets import convnet, inputs

torch = pytest.importorskip("torch")

from lwgraph.calibrate.signature import signature  # noqa: E402
from lwgraph.passes.recover import feeding  # noqa: E402
from lwgraph.passes.recover.feeding import Feeder  # noqa: E402
from lwgraph.passes.recover.sample_pool import SamplePool  # noqa: E402


def feeder(
    versions: int, augmentations: tuple[str, ...] = (), rows: int = 20, fixed: int = 0, together: bool = False
) -> Feeder:
    """Steps of eight rows; the teacher answers the sum of each image, and with `together` of the whole batch, too."""
    model = convnet()
    described: Any = signature(model)
    pool = SamplePool(inputs(rows), described, np.arange(rows))
    if fixed:
        pool.fixed = fixed

    def teacher(feeds: Any) -> Any:
        return {"sum": feeds["x"].sum((1, 2, 3)), **({"total": feeds["x"].sum()[None]} if together else {})}

    return Feeder(pool, 8, versions, augmentations, ["x"], teacher, (0, 0))


def taken(source: Feeder, start: int, count: int) -> list[list[feeding.Fed]]:
    return [list(step) for step in itertools.islice(source.steps(start), count)]


def test_each_row_comes_once_per_round() -> None:
    for number in range(3):
        steps = taken(feeder(2), 3 * number, 3)
        rows = np.concatenate([fed.labels for step in steps for fed in step])
        assert sorted(rows) == list(range(20))


def test_where_nothing_is_varied_the_teacher_is_asked_once_per_row() -> None:
    source = feeder(8)
    steps = taken(source, 0, 12)
    for (fed,) in steps:
        assert torch.allclose(fed.targets["sum"], fed.feeds["x"].sum((1, 2, 3)), rtol=1e-4, atol=1e-4)
    assert source.asked == 3
    batches = [{tuple(sorted(s[0].labels.tolist())) for s in steps[3 * r : 3 * r + 3]} for r in range(4)]
    assert len({frozenset(b) for b in batches}) == 4  # every round has its own division into batches


def test_answers_of_a_whole_batch_are_kept_by_version() -> None:
    source = feeder(2, together=True)
    for (fed,) in taken(source, 0, 12):
        assert torch.equal(fed.targets["total"], fed.feeds["x"].sum()[None])
    assert source.asked == 6


def test_rounds_and_versions_differ() -> None:
    source = feeder(2, ("flip",))
    first, second, third = (np.concatenate([s[0].labels for s in taken(source, 3 * r, 3)]) for r in range(3))
    assert not np.array_equal(first, second) and not np.array_equal(first, third)
    batches = [{tuple(s[0].labels.tolist()) for s in taken(source, 3 * r, 3)} for r in range(4)]
    assert batches[0] == batches[2] != batches[1] == batches[3]  # the same division into batches, in another order


@pytest.mark.parametrize(("versions", "asked"), [(1, 3), (2, 6), (0, 12)])
def test_the_teacher_is_asked_once_per_version(versions: int, asked: int) -> None:
    source = feeder(versions, ("flip", "shift", "mixup"))
    for (fed,) in taken(source, 0, 12):
        assert torch.equal(fed.targets["sum"], fed.feeds["x"].sum((1, 2, 3)))  # the answer to this very variation
    assert source.asked == asked


def test_answers_that_do_not_fit_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "MOST_BYTES", 4 * 8)  # of one batch of eight
    source = feeder(1, ("shift",))
    for (fed,) in taken(source, 0, 6):
        assert torch.equal(fed.targets["sum"], fed.feeds["x"].sum((1, 2, 3)))
    assert source.bytes <= 32 and source.asked == 5
    source = feeder(1)
    for (fed,) in taken(source, 0, 6):
        assert torch.allclose(fed.targets["sum"], fed.feeds["x"].sum((1, 2, 3)), rtol=1e-4, atol=1e-4)
    assert source.bytes <= 32 and source.asked > 3


def test_a_step_depends_on_its_number_alone() -> None:
    through = taken(feeder(2, ("flip", "shift", "mixup")), 0, 8)
    resumed = taken(feeder(2, ("flip", "shift", "mixup")), 5, 3)
    for (a,), (b,) in zip(through[5:], resumed, strict=True):
        assert torch.equal(a.feeds["x"], b.feeds["x"]) and torch.equal(a.targets["sum"], b.targets["sum"])


def test_fixed_batches_are_grouped_into_steps() -> None:
    steps = taken(feeder(1, fixed=4), 0, 3)
    assert sorted(len(step) for step in steps) == [1, 2, 2]
    assert all(fed.feeds["x"].shape[0] == 4 for step in steps for fed in step)


def test_answers_that_there_is_no_room_for_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the rows' answers fit: four bytes each."""
    source = feeder(8)
    monkeypatch.setattr(source, "_most", 4 * 7)
    taken(source, 0, 12)
    assert source.bytes == 4 * 7 and source.asked > 3
    assert Feeder(source._pool, 8, 0, (), ["x"], source._teacher, (0, 0), most=10)._most == 10
