"""Photos with one to four codes pasted on: QR codes and four kinds of bar codes, scaled, turned, blurred."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.zoo.data import Pictures
from benchmarks.zoo.generate import sources
from benchmarks.zoo.pictures import random_square

COUNTS, SEEDS, SIZE = {"eval": 40, "calib": 16}, {"eval": 3, "calib": 4}, 640
BAR_CODES = ("code128", "code39", "ean13", "itf")
RECIPE = f"barcodes 2 {COUNTS} {sources.PHOTOS}"


def _bars(kind: str, digits: str) -> Image.Image:
    """A bar code without its quiet zone, one pixel to a module."""
    import barcode

    pattern = barcode.get_barcode_class(kind)(digits).build()[0]
    bars = np.frombuffer(pattern.encode(), np.uint8) == ord("1")
    return Image.fromarray(np.where(bars, 0, 255).astype(np.uint8)[None].repeat(len(bars) // 2, axis=0))


def _code(rng: np.random.Generator) -> Image.Image:
    """A code on white, in grey, large enough to be read, without its quiet zone."""
    digits = "".join(str(d) for d in rng.integers(0, 10, 12))
    if rng.random() < 0.5:
        import qrcode

        code = qrcode.QRCode(border=0)
        code.add_data(digits * int(rng.integers(1, 5)))
        cells = np.array(code.get_matrix())
        return Image.fromarray(np.where(cells, 0, 255).astype(np.uint8))
    return _bars(BAR_CODES[int(rng.integers(len(BAR_CODES)))], digits)


def _overlap(box: tuple[int, ...], others: list[tuple[int, ...]]) -> bool:
    return any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in others)


def _scene(rng: np.random.Generator, part: str) -> tuple[Image.Image, list[tuple[int, ...]]]:
    """A photo and the boxes x0, y0, x1, y1 of the codes on it, in pixels."""
    shown = sources.photos(part)
    scene = random_square(shown[int(rng.integers(len(shown)))], rng, SIZE, 0.6)
    boxes: list[tuple[int, ...]] = []
    for _ in range(int(rng.integers(1, 5))):
        code = _code(rng)
        scale = rng.uniform(120, 280) / max(code.size)
        code = code.resize([max(8, round(n * scale)) for n in code.size], Image.Resampling.LANCZOS)
        margin = max(6, code.width // 12)
        label = Image.new("L", (code.width + 2 * margin, code.height + 2 * margin), 255)
        label.paste(code, (margin, margin))
        ink = Image.new("L", code.size, 255)
        area = Image.new("L", label.size)
        area.paste(ink, (margin, margin))
        angle = rng.uniform(-8, 8)
        turned = [i.rotate(angle, Image.Resampling.BICUBIC, expand=True) for i in (label, area)]
        stencil = Image.new("L", label.size, 255).rotate(angle, Image.Resampling.BICUBIC, expand=True)
        x, y = (int(rng.integers(0, SIZE - n)) for n in stencil.size)
        if _overlap((x, y, x + stencil.width, y + stencil.height), boxes):
            continue
        dark, light = int(rng.integers(0, 90)), int(rng.integers(150, 256))
        tone = turned[0].point([round(dark + (light - dark) * v / 255) for v in range(256)])
        scene.paste(tone.convert("RGB"), (x, y), stencil)
        inner = turned[1].point([255 if v > 127 else 0 for v in range(256)]).getbbox()
        if inner is None:
            raise ValueError("a pasted code left no pixel")
        boxes.append((x + inner[0], y + inner[1], x + inner[2], y + inner[3]))
    return sources.weather(scene, rng, 1.2, 12), boxes


def make() -> Pictures:
    """Parts "eval" and "calib", and per part the boxes: rows of the scene's index, x0, y0, x1, y1."""
    images: dict[str, list[Image.Image]] = {}
    boxes: dict[str, npt.NDArray[np.float32]] = {}
    for part, count in COUNTS.items():
        rng = np.random.default_rng(SEEDS[part])
        scenes = [_scene(rng, part) for _ in range(count)]
        images[part] = [scene for scene, _ in scenes]
        boxes[f"{part}_boxes"] = np.array([(i, *b) for i, (_, found) in enumerate(scenes) for b in found], np.float32)
    return Pictures(images, boxes)
