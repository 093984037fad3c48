"""The scores that published figures rest on, on cases small enough to check by hand."""

import numpy as np
import pytest

from benchmarks.zoo import pictures, scores
from benchmarks.zoo.case import planes


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_overlap_is_shared_area_over_joint_area() -> None:
    found = scores.overlaps(boxes((0, 0, 2, 2), (5, 5, 6, 6)), boxes((1, 0, 3, 2), (0, 0, 2, 2)))
    assert found == pytest.approx(np.array([[1 / 3, 1], [0, 0]]))


def test_suppression_keeps_the_best_of_each_heap() -> None:
    kept = scores.suppress(boxes((0, 0, 10, 10), (1, 0, 11, 10), (20, 0, 30, 10)), np.array([0.5, 0.9, 0.3]))
    assert kept.tolist() == [1, 2]
    assert scores.suppress(boxes(), np.zeros(0)).tolist() == []


def test_a_true_box_is_found_once() -> None:
    found = scores.hits(boxes((0, 0, 10, 10), (0, 0, 10, 9)), boxes((0, 0, 10, 10)))
    assert found.tolist() == [True, False]
    assert scores.hits(boxes((0, 0, 1, 1)), boxes()).tolist() == [False]


def test_average_precision_by_hand() -> None:
    # Ranked: right, wrong, right of 3 truths: precision 1 up to recall 1/3, then 2/3 up to 2/3.
    value = scores.average_precision(np.array([0.9, 0.7, 0.8]), np.array([True, True, False]), 3)
    assert value == pytest.approx(1 / 3 + 2 / 9)
    assert scores.average_precision(np.zeros(0), np.zeros(0, bool), 3) == 0


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)]
)
def test_edit_distance(a: str, b: str, distance: int) -> None:
    assert scores.edit_distance(a, b) == scores.edit_distance(b, a) == distance


def test_character_score_weighs_by_length() -> None:
    assert scores.character_score(iter([("abcd", "abcd"), ("x", "yy")])) == pytest.approx(1 - 2 / 6)


def test_ctc_merges_repeats_and_drops_blanks() -> None:
    assert scores.ctc_text(np.array([0, 1, 1, 0, 1, 2, 2, 0]), ["", "a", "b"]) == "aab"


def test_psnr_of_a_known_error() -> None:
    image = np.zeros((3, 4, 4), np.float32)
    assert scores.psnr(image, image + np.float32(0.1)) == pytest.approx(20, abs=1e-5)
    assert scores.psnr(image, image) == 100


def test_strips_come_apart_as_they_were() -> None:
    images = [pictures.Image.new("L", (width, 3), width) for width in (1, 4, 2)]
    parts = pictures.unstrip(*pictures.strip(images))
    assert [part.shape for part in parts] == [(3, 1), (3, 4), (3, 2)]
    assert [int(part[0, 0]) for part in parts] == [1, 4, 2]


def test_planes_put_channels_first_and_normalize() -> None:
    image = np.full((2, 5, 3), 51, np.uint8)
    assert planes(image, mean=(0.2, 0.1, 0), std=(1, 0.1, 0.5))[:, 0, 0] == pytest.approx([0, 1, 0.4], abs=1e-6)
