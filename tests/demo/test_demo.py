"""The embedded model and data are what their module says."""

import numpy as np
import pytest

from lwgraph import demo, ir, registry


def test_the_data_has_the_stated_shapes() -> None:
    calibration = np.concatenate([feed[demo.INPUT] for feed in demo.calibration()])
    feeds, labels = demo.evaluation()
    evaluation = np.concatenate([feed[demo.INPUT] for feed in feeds])
    assert calibration.shape == (512, 1, 28, 28)
    assert evaluation.shape == (2000, 1, 28, 28)
    assert calibration.dtype == evaluation.dtype == np.float32
    assert labels.shape == (2000,)
    assert sorted(set(labels.tolist())) == list(range(len(demo.CLASSES)))


def test_calibration_and_evaluation_share_no_image() -> None:
    def images(feeds: list[demo.Feeds]) -> set[bytes]:
        return {image.tobytes() for feed in feeds for image in feed[demo.INPUT]}

    assert not images(demo.calibration()) & images(demo.evaluation()[0])


@pytest.mark.parametrize("batch", [1, 7, 512])
def test_the_batch_size_changes_no_value(batch: int) -> None:
    whole = np.concatenate([feed[demo.INPUT] for feed in demo.calibration()])
    assert np.array_equal(np.concatenate([feed[demo.INPUT] for feed in demo.calibration(batch)]), whole)


def test_normalization_is_the_one_of_training() -> None:
    pixels = np.array([[[0, 255]]], np.uint8)
    assert demo.normalize(pixels)[0, 0, 0] == pytest.approx([-0.2860 / 0.3530, (1 - 0.2860) / 0.3530])


def test_the_model_has_the_stated_accuracy() -> None:
    run = registry.executor("ort").prepare(ir.load(demo.MODEL))
    assert demo.accuracy(run) == pytest.approx(0.9335, abs=0.0011)  # two images either way


def test_accuracy_falls_when_the_outputs_are_shuffled() -> None:
    run = registry.executor("ort").prepare(ir.load(demo.MODEL))
    assert demo.accuracy(lambda feeds: {"logits": np.roll(run(feeds)["logits"], 1, axis=1)}) < 0.1
