"""Lines of English and Chinese text, 48 pixels high, in turn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from benchmarks.zoo.data import Pictures
from benchmarks.zoo.generate import sources

COUNTS, SEEDS, HEIGHT = {"eval": 240, "calib": 96}, {"eval": 7, "calib": 8}, 48
RECIPE = f"lines 1 {COUNTS} {sources.FONT_FILES} {sources.CHINESE}"


def _text(rng: np.random.Generator, part: str, chinese: bool) -> tuple[str, ImageFont.FreeTypeFont]:
    """A text and a font that has its characters."""
    size = int(rng.integers(26, 34))
    if not chinese:
        return sources.phrase(rng, part, 1, 4), sources.font(int(rng.integers(100)), size)
    known = sources.CHINESE_TEXT[part]
    return "".join(rng.choice(list(known), int(rng.integers(4, 12)))), sources.chinese_font(size)


def _line(rng: np.random.Generator, part: str, chinese: bool) -> tuple[Image.Image, str]:
    """One picture and its text."""
    text, font = _text(rng, part, chinese)
    paper, ink = (int(rng.integers(low, high)) for low, high in ((150, 256), (0, 100)))
    left, top, right, bottom = font.getbbox(text)
    width = int(right - left) + 2 * int(rng.integers(4, 12))
    image = Image.new("RGB", (width, HEIGHT), (paper, int(paper * rng.uniform(0.9, 1)), paper))
    at = ((width - (right - left)) / 2 - left, (HEIGHT - (bottom - top)) / 2 - top + rng.uniform(-2, 2))
    ImageDraw.Draw(image).text(at, text, fill=(ink, ink, int(rng.integers(0, 100))), font=font)
    return sources.weather(image, rng, 1.2, 20), text


def make() -> Pictures:
    """Parts "eval" and "calib", and per part the texts."""
    images: dict[str, list[Image.Image]] = {}
    texts: dict[str, npt.NDArray[np.str_]] = {}
    for part, count in COUNTS.items():
        rng = np.random.default_rng(SEEDS[part])
        made = [_line(rng, part, chinese=bool(i % 2)) for i in range(count)]
        images[part] = [image for image, _ in made]
        texts[f"{part}_text"] = np.array([text for _, text in made])
    return Pictures(images, texts)
