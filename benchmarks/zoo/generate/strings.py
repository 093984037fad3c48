"""Noisy strings of four to six letters and digits, 64 pixels high, as captchas draw them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from benchmarks.zoo.data import Pictures
from benchmarks.zoo.generate import sources

COUNTS, SEEDS, HEIGHT = {"eval": 300, "calib": 96}, {"eval": 5, "calib": 6}, 64
CHARACTERS = "abdefghijkmnpqrtyABDEFGHJKLMNQRTY23456789"  # without those that look alike in both cases or as digits
RECIPE = f"strings 1 {COUNTS} {sources.FONT_FILES}"


def _string(rng: np.random.Generator) -> tuple[Image.Image, str]:
    """One picture and its text."""
    text = "".join(rng.choice(list(CHARACTERS), int(rng.integers(4, 7))))
    paper = int(rng.integers(180, 256))
    image = Image.new("L", (40 * len(text) + 20, HEIGHT), paper)
    x = int(rng.integers(6, 18))
    for character in text:
        glyph = Image.new("L", (64, HEIGHT))
        ImageDraw.Draw(glyph).text((16, 6), character, fill=255, font=sources.font(int(rng.integers(100)), 40))
        glyph = glyph.rotate(rng.uniform(-22, 22), Image.Resampling.BICUBIC)
        box = glyph.getbbox() or (0, 0, 1, 1)
        image.paste(int(rng.integers(0, 110)), (x - box[0], int(rng.integers(-4, 5))), glyph)
        x += box[2] - box[0] + int(rng.integers(0, 9))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 4))):
        ends = [(int(rng.integers(0, image.width)), int(rng.integers(0, HEIGHT))) for _ in range(2)]
        draw.line(ends, fill=int(rng.integers(60, 180)), width=1)
    image = image.crop((0, 0, min(image.width, x + 8), HEIGHT))
    return sources.weather(image, rng, 1.0, 25), text


def make() -> Pictures:
    """Parts "eval" and "calib", and per part the texts."""
    images: dict[str, list[Image.Image]] = {}
    texts: dict[str, npt.NDArray[np.str_]] = {}
    for part, count in COUNTS.items():
        rng = np.random.default_rng(SEEDS[part])
        made = [_string(rng) for _ in range(count)]
        images[part] = [image for image, _ in made]
        texts[f"{part}_text"] = np.array([text for _, text in made])
    return Pictures(images, texts)
