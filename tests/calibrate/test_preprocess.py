"""From pixels to inputs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lwgraph.calibrate.preprocess import Preprocess
from lwgraph.calibrate.readers import open_data
from lwgraph.calibrate.signature import Input
from lwgraph.errors import DataError, UsageError


def image_input(*shape, dtype="float32"):
    return Input("x", np.dtype(dtype), shape)


NCHW = image_input("n", 3, 4, 6)


def random_image(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_values_follow_scale_mean_std_layout_and_color():
    stated = Preprocess.parse("scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,layout=nchw,color=bgr")
    picture = random_image(4, 6)
    out = stated.for_input(NCHW).image(picture)
    rgb = np.asarray(picture).astype(np.float64)
    expected = (rgb[..., ::-1] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected.transpose(2, 0, 1), atol=1e-5)


def test_layout_channels_and_size_come_from_the_input_when_open():
    made = Preprocess().for_input(image_input("n", 4, 6, 1))
    assert (made.layout, made.color, made.resize) == ("nhwc", "gray", (4, 6))
    assert made.image(random_image(9, 9)).shape == (4, 6, 1)
    raw = Preprocess().for_input(image_input(1, 3, "h", "w", dtype="uint8"))
    assert raw.image(random_image(5, 7)).dtype == np.uint8
    assert raw.image(random_image(5, 7)).shape == (3, 5, 7)


def test_a_shorter_side_keeps_the_aspect_and_the_crop_is_central():
    stated = Preprocess.parse("resize=8,crop=4x6,scale=1").for_input(NCHW)
    picture = random_image(16, 24)
    resized = np.asarray(picture.resize((12, 8), Image.Resampling.BILINEAR)).astype(np.float32)
    np.testing.assert_array_equal(stated.image(picture), resized[2:6, 3:9].transpose(2, 0, 1))


def test_a_shorter_side_alone_is_cropped_to_what_the_model_takes():
    assert Preprocess.parse("resize=8").for_input(NCHW).crop == (4, 6)


def test_a_crop_larger_than_the_picture_enlarges_it():
    assert Preprocess.parse("crop=4x6").for_input(NCHW).image(random_image(2, 3)).shape == (3, 4, 6)


def test_letterbox_keeps_the_aspect_and_fills():
    out = Preprocess.parse("letterbox=4x6,fill=255,scale=1").for_input(NCHW).image(Image.new("RGB", (2, 4), (0, 0, 0)))
    assert (out[:, :, 2:4] == 0).all()
    assert (out[:, :, :2] == 255).all()
    assert (out[:, :, 4:] == 255).all()


def test_toml_equals_text(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text('[preprocess]\nresize = [4, 6]\nscale = "1/255"\nmean = [0.1, 0.2, 0.3]\ncolor = "bgr"\n')
    assert Preprocess.parse(path) == Preprocess.parse("resize=4x6,scale=1/255,mean=0.1:0.2:0.3,color=bgr")
    assert Preprocess.parse({"scale": 2}) == Preprocess.parse("scale=2")


@pytest.mark.parametrize(
    "text, message",
    [
        ("resise=4", "no 'resise'; did you mean 'resize'"),
        ("resize", "not key=value"),
        ("resize=4,resize=5", "twice"),
        ("resize=big", "not a size"),
        ("resize=0", "not a size"),
        ("crop=1x2x3", "not a size"),
        ("scale=1/0", "not a number"),
        ("scale=x", "not a number"),
        ("std=0", "must not be 0"),
        ("layout=nwhc", "did you mean 'n"),
        ("color=grb", "did you mean 'rgb'|did you mean 'bgr'"),
        ("mean=1:2:3,std=1:2", "3 mean and 2 std"),
        ("mean=1:2:3,color=gray", "for gray"),
        ("resize=4,letterbox=4", "one of them"),
        ("fill=256", "grey level"),
        ("absent.toml", "cannot be read"),
    ],
)
def test_wrong_options_are_named(text, message):
    with pytest.raises(UsageError, match=message):
        Preprocess.parse(text)


def test_a_file_that_is_not_toml(tmp_path):
    (tmp_path / "p.toml").write_text("= 3")
    with pytest.raises(UsageError, match="is not TOML"):
        Preprocess.parse(tmp_path / "p.toml")


@pytest.mark.parametrize(
    "text, wanted, message",
    [
        ("color=gray", NCHW, "wants 3"),
        ("crop=5", NCHW, "makes 5x5 images, input 'x' wants 4x6"),
        ("scale=1/255", image_input(1, 3, 4, 4, dtype="uint8"), "it takes pixels"),
        ("", image_input("n", 10), "does not take images"),
        ("", image_input("n", 64, 4, 4), "64 channels"),
        ("mean=1:2", NCHW, "mean has 2 values"),
    ],
)
def test_options_that_contradict_the_input(text, wanted, message):
    with pytest.raises(UsageError, match=message):
        Preprocess.parse(text).for_input(wanted)


def test_arrays_of_pixels_are_preprocessed_wherever_their_channels_are():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    stated = "scale=1/255,mean=0.5,std=0.25"
    expected = ((pixels / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2)
    for array in (pixels, pixels.transpose(0, 3, 1, 2)):
        feeds = [f["x"][0] for f in open_data(array, {"x": NCHW}, preprocess=stated)]
        np.testing.assert_allclose(np.stack(feeds), expected, atol=1e-5)
    grey = image_input("n", 1, 4, 6)
    feeds = [f["x"] for f in open_data(pixels[..., 0], {"x": grey}, preprocess="scale=1")]
    np.testing.assert_array_equal(np.concatenate(feeds)[:, 0], pixels[..., 0])


def test_float_arrays_are_scaled_only_when_told():
    x = np.random.default_rng(0).random((2, 4, 6, 3), np.float32)
    moved = np.concatenate([f["x"] for f in open_data(x, {"x": NCHW}, preprocess="layout=nchw")])
    np.testing.assert_array_equal(moved, x.transpose(0, 3, 1, 2))
    doubled = np.concatenate([f["x"] for f in open_data(x, {"x": NCHW}, preprocess="scale=2")])
    np.testing.assert_allclose(doubled, 2 * moved)


def test_channels_last_data_without_preprocessing_says_what_to_do():
    with pytest.raises(DataError, match="layout=nchw"):
        open_data(np.zeros((2, 4, 6, 3), np.float32), {"x": NCHW})


def test_preprocessing_of_what_is_not_images_is_refused(tmp_path):
    vector = {"x": Input("x", np.dtype(np.float32), ("n", 4))}
    with pytest.raises(UsageError, match="is for images"):
        open_data(np.zeros((2, 4), np.float32), vector, preprocess="scale=2")
    with pytest.raises(UsageError, match="finished samples"):
        open_data([{"x": np.zeros((1, 4))}], vector, preprocess="scale=2")
