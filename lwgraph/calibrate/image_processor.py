"""Reads the preprocessor_config.json that Transformers' image processors are saved as."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lwgraph.calibrate.preprocess import Preprocess
from lwgraph.errors import UsageError

NAME = "preprocessor_config.json"
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def read_processor(folders: Sequence[Path]) -> Preprocess:
    """The preprocessing that the first of these folders with a preprocessor_config.json states.

    Raises:
        UsageError: none of them has one; it is no JSON, is for no images, or asks for what is not known here.
    """
    path = next((folder / NAME for folder in folders if (folder / NAME).is_file()), None)
    if path is None:
        looked = " and ".join(f"'{folder}'" for folder in dict.fromkeys(folders)) or "no folder, as the model has none"
        raise UsageError(f"--preprocess auto reads a {NAME} beside the model; there is none in {looked}")
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"'{path}' cannot be read as JSON: {error}") from None
    if not isinstance(config, Mapping) or not {"image_mean", "size", "do_resize", "do_normalize"} & set(config):
        raise UsageError(f"'{path}' is not that of an image processor")
    return _preprocess(config, path)


def _preprocess(config: Mapping[str, Any], path: Path) -> Preprocess:
    resize = _size(config.get("size"), path) if config.get("do_resize", True) else None
    crop = _size(config.get("crop_size"), path) if config.get("do_center_crop", False) else None
    if resize is not None and len(resize) == 1 and crop is None and (share := config.get("crop_pct")):
        crop, resize = (resize[0], resize[0]), (int(resize[0] / share),)  # ConvNeXt's: the size is what is left
    number = config.get("resample", 2)
    if number not in _FILTERS:
        raise UsageError(f"'{path}' has resample {number}; allowed: {', '.join(map(str, _FILTERS))}")
    normalizes = config.get("do_normalize", True)
    scale = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    return Preprocess(
        resize=resize,
        crop=None if crop is None else (crop[0], crop[-1]),
        filter=_FILTERS[number],
        scale=scale,
        mean=_numbers(config.get("image_mean"), 0.0) if normalizes else (0.0,),
        std=_numbers(config.get("image_std"), 1.0) if normalizes else (1.0,),
    )


def _size(value: Any, path: Path) -> tuple[int, ...] | None:
    """(side,) of the shorter one, or (height, width)."""
    if value is None:
        return None
    if isinstance(value, int):
        return (value, value)
    if isinstance(value, Mapping):
        if "shortest_edge" in value:
            return (int(value["shortest_edge"]),)
        if {"height", "width"} <= set(value):
            return (int(value["height"]), int(value["width"]))
    raise UsageError(f"'{path}' has size {value}; known are a number, shortest_edge, and height with width")


def _numbers(value: Any, default: float) -> tuple[float, ...]:
    if value is None:
        return (default,)
    return tuple(map(float, value)) if isinstance(value, (list, tuple)) else (float(value),)


__all__ = ["NAME", "read_processor"]
