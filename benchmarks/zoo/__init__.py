"""Public models with real weights and scores. The repository keeps only the one that lwgraph trained itself."""

from __future__ import annotations

import importlib

from benchmarks.zoo.case import Case, Feeds, Run

NAMES = (
    "fmnist_resnet14",
    "orinet",
    "arbez_yolox_s",
    "ddddocr_common",
    "ppocrv5_rec",
    "ffdnet_rgb",
    "efficientnet_lite0",
)


def case(name: str) -> Case:
    """The case of that name; KeyError when there is none."""
    if name not in NAMES:
        raise KeyError(f"no case is named '{name}'; known: {', '.join(NAMES)}")
    found: Case = importlib.import_module(f"benchmarks.zoo.{name}").CASE
    return found


__all__ = ["NAMES", "Case", "Feeds", "Run", "case"]
