"""Photos: unlabelled ones from scikit-image, labelled ones from foolbox."""

from __future__ import annotations

import numpy as np

from benchmarks.zoo.data import Pictures
from benchmarks.zoo.generate import sources

RECIPE = f"photos 2 {sources.PHOTOS} {sources.LABELLED}"


def make() -> Pictures:
    """Parts "eval", "calib" and "labelled", and the labels of the last."""
    labelled, labels = sources.labelled_photos()
    images = {"eval": sources.photos("eval"), "calib": sources.photos("calib"), "labelled": labelled}
    return Pictures(images, {"labels": np.array(labels)})
