"""Variations of images: each does what it says, to each image by itself, and leaves everything else alone."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from lwgraph.calibrate.augmentations import AUGMENTATIONS  # noqa: E402
from lwgraph.passes.recover.augment import augment  # noqa: E402


def images(rows: int = 32, height: int = 12, width: int = 12) -> torch.Tensor:
    return torch.rand(rows, 2, height, width, generator=torch.Generator().manual_seed(1))


def varied(x: torch.Tensor, *which: str, seed: int = 0) -> torch.Tensor:
    return augment({"x": x}, which, {"x"}, torch.Generator().manual_seed(seed))["x"]


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_every_kind_keeps_shape_and_varies_by_seed_alone(kind: str) -> None:
    x = images()
    once, again, other = varied(x, kind), varied(x, kind), varied(x, kind, seed=1)
    assert once.shape == x.shape and once.dtype == x.dtype
    assert torch.equal(once, again) and not torch.equal(once, other)
    shared = augment({"x": x}, (kind,), (), torch.Generator().manual_seed(0))["x"]
    assert torch.equal(shared, x)  # not batched: not an image per sample


@pytest.mark.parametrize(("width", "quarters"), [(12, {0, 1, 2, 3}), (8, {0, 2})])
def test_turns_are_quarters_and_halves_where_images_are_not_square(width: int, quarters: set[int]) -> None:
    x = images(width=width)
    seen = set()
    for before, after in zip(x, varied(x, "turn"), strict=True):
        turned = [k for k in sorted(quarters) if torch.equal(before.rot90(k, (1, 2)), after)]
        assert len(turned) == 1
        seen.add(turned[0])
    assert seen == quarters


def test_zoom_shows_a_part_of_the_image_scaled_to_the_whole() -> None:
    ramp = torch.linspace(0, 1, 64).expand(256, 1, 48, 64)  # grows along the width
    found = varied(torch.cat([ramp, ramp], 1), "zoom")[:, 0]
    assert (found.diff(dim=2) >= -1e-6).all() and (found.diff(dim=1).abs() < 1e-6).all()
    span = found[:, 0, -1] - found[:, 0, 0]
    assert 0.48 < span.min() < 0.6 and 0.9 < span.max() <= 1
    assert found[:, 0, 0].max() > 0.3 and found[:, 0, 0].min() < 0.05  # at various places


def test_tone_changes_mean_and_contrast_of_the_whole_image_only() -> None:
    x = images(256)
    found = varied(x, "tone")
    ratio = found.std((1, 2, 3)) / x.std((1, 2, 3))
    assert 1 / 1.5 - 1e-3 < ratio.min() < 0.75 and 1.35 < ratio.max() < 1.5 + 1e-3
    moved = (found.mean((1, 2, 3)) - x.mean((1, 2, 3))) / x.std((1, 2, 3))
    assert -0.251 < moved.min() < -0.2 and 0.2 < moved.max() < 0.251
    mean = x.mean((1, 2, 3), keepdim=True)
    again = (found - found.mean((1, 2, 3), keepdim=True)) / ratio[:, None, None, None] + mean
    assert torch.allclose(again, x, atol=1e-5)
