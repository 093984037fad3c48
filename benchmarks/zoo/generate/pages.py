"""Fragments of printed pages, some with a picture, all upright: the case itself turns them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.zoo.data import Pictures
from benchmarks.zoo.generate import sources
from benchmarks.zoo.pictures import centre

COUNTS, SEEDS = {"eval": 100, "calib": 24}, {"eval": 1, "calib": 2}
RECIPE = f"pages 1 {COUNTS} {sources.FONT_FILES}"


def fragment(rng: np.random.Generator, part: str) -> Image.Image:
    """One fragment: a few short, faint, blurred lines, so that the task is not too easy."""
    width, height = (int(rng.integers(160, 420)) for _ in range(2))
    paper, ink = int(rng.integers(190, 256)), int(rng.integers(0, 120))
    page = Image.new("RGB", (width, height), (paper, paper, int(paper * rng.uniform(0.85, 1))))
    draw = ImageDraw.Draw(page)
    size = int(rng.integers(8, 22))
    font = sources.font(int(rng.integers(100)), size)
    left, y = int(rng.integers(-30, 30)), int(rng.integers(-size, size))
    while y < height:
        if rng.random() < 0.06 and width > 200:
            shown = sources.photos(part)
            side = int(rng.integers(60, 140))
            page.paste(centre(shown[int(rng.integers(len(shown)))], side), (int(rng.integers(0, width - side)), y))
            y += side
        elif rng.random() > 0.15:
            draw.text((left, y), sources.phrase(rng, part, 1, 8), fill=(ink, ink, ink), font=font)
        y += int(size * rng.uniform(1.1, 2))
    page = page.rotate(rng.uniform(-6, 6), Image.Resampling.BICUBIC, fillcolor=(paper, paper, paper))
    return sources.weather(page, rng, 1.5, 12)


def make() -> Pictures:
    """Parts "eval" and "calib"."""
    images = {}
    for part, count in COUNTS.items():
        rng = np.random.default_rng(SEEDS[part])
        images[part] = [fragment(rng, part) for _ in range(count)]
    return Pictures(images, {})
