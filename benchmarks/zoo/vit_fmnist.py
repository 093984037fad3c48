"""A vision transformer of DeiT-Tiny's width on Fashion-MNIST, trained here as no package has one: some 7 minutes."""

from __future__ import annotations

from pathlib import Path

from benchmarks.zoo import cache
from benchmarks.zoo.case import Case
from benchmarks.zoo.fmnist_resnet14 import calibration, evaluation, example, metric


def model() -> Path:
    """The network, trained once into the cache; needs the extra [torch]."""
    path = cache.folder("models") / "vit_fmnist.onnx"
    if not path.exists():
        from benchmarks.train_vit import export, train

        net = train(epochs=3)
        with cache.replacing(path) as new:
            export(net, new)
    return path


CASE = Case("vit_fmnist", "vision transformer, four layers", model, calibration, metric, example, "top-1", 0.88)
__all__ = ["CASE", "calibration", "evaluation", "example", "metric", "model"]
