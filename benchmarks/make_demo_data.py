"""Writes lwgraph/demo/fashion_mnist.npz: the images that `lwgraph demo` calibrates and evaluates on.

    python -m benchmarks.make_demo_data

The calibration images come from the training set and the evaluation images from the test set, both by a
seeded choice, so the two are disjoint and the file is the same every time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.zoo import fashion

CALIBRATION, EVALUATION, SEED = 512, 2000, 20
TO = Path(__file__).resolve().parents[1] / "lwgraph" / "demo" / "fashion_mnist.npz"


def main() -> None:
    """Choose the images and write the file."""
    rng = np.random.default_rng(SEED)
    train, test = fashion.images("train"), fashion.images("t10k")
    calibration = np.sort(rng.choice(len(train), CALIBRATION, replace=False))
    evaluation = np.sort(rng.choice(len(test), EVALUATION, replace=False))
    np.savez_compressed(
        TO, calibration=train[calibration], evaluation=test[evaluation], labels=fashion.labels("t10k")[evaluation]
    )
    print(f"{CALIBRATION} calibration and {EVALUATION} evaluation images in {TO} ({TO.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
