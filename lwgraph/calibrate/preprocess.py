"""Turns the pixels of an image into an input array: resize, crop, scale, mean, std, layout, colour order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lwgraph import toml
from lwgraph.arrays import Array
from lwgraph.calibrate.signature import Input
from lwgraph.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from PIL import Image

_COLORS = {"rgb": 3, "bgr": 3, "gray": 1}
_LAYOUTS = ("nchw", "nhwc")
_FILTERS = ("bilinear", "bicubic", "nearest", "lanczos")


@dataclass(frozen=True)
class Preprocess:
    """Makes an input of an 8-bit image: geometry first, then (pixel * scale - mean) / std, channels ordered last.

    `resize` of one number sets the shorter side and keeps the aspect; of two, HxW, both. `letterbox` fits the whole
    image into HxW and fills the rest with `fill`. `crop` cuts HxW from the centre. `mean` and `std` have one number or
    one per channel, in the order of `color`. None means: as the model's input implies; 8-bit inputs take the pixels.
    """

    resize: tuple[int, ...] | None = None
    letterbox: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    fill: int = 0
    filter: str = "bilinear"
    color: str | None = None
    scale: float | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str | None = None

    @classmethod
    def parse(cls, source: str | Path | Mapping[str, Any]) -> Preprocess:
        """Parse `resize=256,crop=224,scale=1/255,mean=0.485:0.456:0.406`, a TOML file or a mapping with those keys.

        Raises:
            UsageError: an unknown key (with a near miss), a value that is not of its kind, a file that is not TOML.
        """
        if isinstance(source, Mapping):
            return cls._from(source)
        text = str(source)
        if text.endswith(".toml"):
            return cls._from(_read_toml(Path(text)))
        pairs: dict[str, str] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            key, equals, value = part.partition("=")
            if not equals:
                raise UsageError(f"--preprocess '{part}' is not key=value, e.g. resize=256,crop=224,scale=1/255")
            if key.strip() in pairs:
                raise UsageError(f"--preprocess gives '{key.strip()}' twice")
            pairs[key.strip()] = value.strip()
        return cls._from(pairs)

    @classmethod
    def _from(cls, pairs: Mapping[str, Any]) -> Preprocess:
        known = [f.name for f in fields(cls)]
        values: dict[str, Any] = {}
        for key, value in pairs.items():
            if key not in known:
                raise UsageError(f"--preprocess has no '{key}'{did_you_mean(key, known)}")
            values[key] = _READ[key](key, value)
        made = cls(**values)
        if made.resize is not None and made.letterbox is not None:
            raise UsageError("--preprocess has both resize and letterbox; one of them sets the size")
        channels = {len(v) for v in (made.mean, made.std) if len(v) > 1}
        if made.color is not None:
            channels.add(_COLORS[made.color]) if channels else None
        if len(channels) > 1:
            raise UsageError(
                f"--preprocess gives {len(made.mean)} mean and {len(made.std)} std values"
                f"{f' for {made.color}' if made.color else ''}; one, or one per channel"
            )
        return made

    def for_input(self, wanted: Input) -> Preprocess:
        """This with everything left open decided from the model's input: layout, colour, size, scale.

        Raises:
            UsageError: the input is not an image (not of rank 3 or 4 with 1 or 3 channels), or contradicts an option.
        """
        layout, channels, height, width = _image_geometry(wanted, self.layout)
        color = self.color or ("gray" if channels == 1 else "rgb")
        if channels is not None and _COLORS[color] != channels:
            raise UsageError(
                f"--preprocess color={color} has {_COLORS[color]} channels, input '{wanted.name}' wants "
                f"{channels} ({wanted})"
            )
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, _COLORS[color]):
                raise UsageError(
                    f"--preprocess {name} has {len(getattr(self, name))} values, {color} has {_COLORS[color]} channels"
                )
        if wanted.dtype.kind in "iu" and (self.scale is not None or self.mean != (0.0,) or self.std != (1.0,)):
            raise UsageError(f"--preprocess scales, but input '{wanted.name}' is {wanted.dtype.name}: it takes pixels")
        scale = self.scale if self.scale is not None or wanted.dtype.kind in "iu" else 1 / 255
        made = replace(self, layout=layout, color=color, scale=scale)
        size = made.crop or made.letterbox or (made.resize if made.resize and len(made.resize) == 2 else None)
        if height is not None and width is not None:
            if size is None and made.resize is None:
                return replace(made, resize=(height, width))
            if size is None:  # the shorter side was set; the model wants one size
                return replace(made, crop=(height, width))
            if tuple(size) != (height, width):
                raise UsageError(
                    f"--preprocess makes {size[0]}x{size[1]} images, input '{wanted.name}' wants {height}x{width}"
                )
        return made

    def image(self, image: Image.Image) -> Array:
        """One picture as a float32 or uint8 array without batch axis: (c, h, w) or (h, w, c)."""
        picture = image.convert("L" if self.color == "gray" else "RGB")
        return self.pixels(np.asarray(self._geometry(picture)))

    def array(self, sample: Array) -> Array:
        """One sample of an array file: 8-bit pixels (channels first or last, or none) as `image` does it; floats are
        scaled only when `scale` is given, and keep their size."""
        channels_first = sample.ndim == 3 and sample.shape[0] in (1, 3) and sample.shape[-1] not in (1, 3)
        x = np.moveaxis(sample, 0, -1) if channels_first else sample
        if sample.dtype != np.uint8:
            return self.pixels(x)
        from PIL import Image

        return self.image(Image.fromarray(np.ascontiguousarray(x[..., 0] if x.shape[-1] == 1 and x.ndim == 3 else x)))

    def pixels(self, pixels: Array) -> Array:
        """(h, w) or (h, w, c) uint8 pixels in RGB order, already of the right size, as `image` gives them."""
        x = pixels[..., None] if pixels.ndim == 2 else pixels
        if self.color == "bgr":
            x = x[..., ::-1]
        if (self.scale, self.mean, self.std) != (None, (0.0,), (1.0,)):
            scaled = x.astype(np.float32) * np.float32(1 if self.scale is None else self.scale)
            x = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        if self.layout == "nchw":
            x = np.moveaxis(x, -1, 0)
        return np.ascontiguousarray(x)

    def _geometry(self, picture: Image.Image) -> Image.Image:
        from PIL import Image

        filters = {
            "bilinear": Image.Resampling.BILINEAR,
            "bicubic": Image.Resampling.BICUBIC,
            "nearest": Image.Resampling.NEAREST,
            "lanczos": Image.Resampling.LANCZOS,
        }
        width, height = picture.size
        if self.resize is not None and len(self.resize) == 2:
            picture = picture.resize((self.resize[1], self.resize[0]), filters[self.filter])
        elif self.resize is not None:
            factor = self.resize[0] / min(width, height)
            wanted = (max(1, round(width * factor)), max(1, round(height * factor)))
            picture = picture.resize(wanted, filters[self.filter])
        elif self.letterbox is not None:
            high, wide = self.letterbox
            factor = min(wide / width, high / height)
            inner = picture.resize(
                (max(1, round(width * factor)), max(1, round(height * factor))), filters[self.filter]
            )
            picture = Image.new(picture.mode, (wide, high), self.fill if picture.mode == "L" else (self.fill,) * 3)
            picture.paste(inner, ((wide - inner.width) // 2, (high - inner.height) // 2))
        if self.crop is not None:
            high, wide = self.crop
            width, height = picture.size
            if width < wide or height < high:  # too small to cut from: enlarge just enough, aspect kept
                factor = max(wide / width, high / height)
                picture = picture.resize(
                    (max(wide, round(width * factor)), max(high, round(height * factor))), filters[self.filter]
                )
                width, height = picture.size
            left, top = (width - wide) // 2, (height - high) // 2
            picture = picture.crop((left, top, left + wide, top + high))
        return picture


def _image_geometry(wanted: Input, layout: str | None) -> tuple[str, int | None, int | None, int | None]:
    """Layout, channels, height and width (None where dynamic) of an input that takes images."""

    def fixed(d: int | str | None) -> int | None:
        return d if isinstance(d, int) else None

    shape = wanted.shape
    if shape is None or len(shape) != 4:
        raise UsageError(
            f"input '{wanted.name}' ({wanted}) does not take images, which have 4 dimensions; "
            "give its data as .npz or module:attribute"
        )
    if layout is None:
        layout = "nhwc" if shape[3] in (1, 3) and shape[1] not in (1, 3) else "nchw"
    channels, height, width = (shape[1], shape[2], shape[3]) if layout == "nchw" else (shape[3], shape[1], shape[2])
    if isinstance(channels, int) and channels not in (1, 3):
        raise UsageError(
            f"input '{wanted.name}' ({wanted}) has {channels} channels in layout {layout}; images have 1 or 3"
        )
    return layout, fixed(channels), fixed(height), fixed(width)


def _number(key: str, value: Any) -> float:
    text = str(value).strip()
    match = re.fullmatch(r"([-+]?[\d.]+(?:e[-+]?\d+)?)(?:\s*/\s*([\d.]+(?:e[-+]?\d+)?))?", text, re.IGNORECASE)
    try:
        assert match is not None
        number = float(match[1]) / float(match[2] or 1)
    except (AssertionError, ValueError, ZeroDivisionError):
        raise UsageError(f"--preprocess {key}={text} is not a number such as 0.5 or 1/255") from None
    return number


def _factor(key: str, value: Any) -> float:
    number = _number(key, value)
    if number == 0:
        raise UsageError(f"--preprocess {key}={value} must not be 0")
    return number


def _numbers(key: str, value: Any) -> tuple[float, ...]:
    parts = value if isinstance(value, (list, tuple)) else str(value).split(":")
    read = _factor if key == "std" else _number
    return tuple(read(key, part) for part in parts)


def _size(key: str, value: Any) -> tuple[int, ...]:
    parts = value if isinstance(value, (list, tuple)) else re.split(r"[x:]", str(value))
    if len(parts) not in (1, 2) or not all(str(p).strip().isdigit() and int(p) > 0 for p in parts):
        raise UsageError(f"--preprocess {key}={value} is not a size such as 224 or 48x320 (height x width)")
    return tuple(int(p) for p in parts)


def _square(key: str, value: Any) -> tuple[int, int]:
    size = _size(key, value)
    return (size[0], size[-1])


def _byte(key: str, value: Any) -> int:
    if not str(value).isdigit() or int(value) > 255:
        raise UsageError(f"--preprocess {key}={value} is not a grey level from 0 to 255")
    return int(value)


def _word(key: str, value: Any) -> str:
    allowed = {"color": list(_COLORS), "layout": list(_LAYOUTS), "filter": list(_FILTERS)}[key]
    word = str(value).lower()
    word = "gray" if word == "grey" else word
    if word not in allowed:
        raise UsageError(f"--preprocess {key}={value} is not one of {', '.join(allowed)}{did_you_mean(word, allowed)}")
    return word


_READ = {
    "resize": _size,
    "letterbox": _square,
    "crop": _square,
    "fill": _byte,
    "filter": _word,
    "color": _word,
    "scale": _factor,
    "mean": _numbers,
    "std": _numbers,
    "layout": _word,
}


def _read_toml(path: Path) -> Mapping[str, Any]:
    table = toml.read(path, "--preprocess")
    inner = table.get("preprocess", table)
    if not isinstance(inner, dict):
        raise UsageError(f"--preprocess '{path}': 'preprocess' is not a table")
    return inner
