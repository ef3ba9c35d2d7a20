"""Preprocessing against hand-made arrays and an independent resampler: rounding, order, arithmetic, dtype."""

import base64
import io
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.images.decode import ImageRejected
from pipeline.images.preprocess import load_pixels, preprocess, resized_px
from pipeline.images.thumbnail import thumbnail_data_uri
from pipeline.values import DecodeLimits, Preprocess, RejectReason

PLAIN = Preprocess(size=(4, 4), resize="squash", scale=1, mean=(0, 0, 0), std=(1, 1, 1))
FIXED = replace(PLAIN, resize="none")


def ramp(height: int, width: int) -> Image.Image:
    values = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    return Image.fromarray(values)


def cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2  # Keys 1981, a = -1/2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


KERNELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # how much a pixel counts that lies x to the right
    "box": lambda x: np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0),
    "bilinear": lambda x: np.maximum(0, 1 - np.abs(x)),
    "hamming": lambda x: np.where(np.abs(x) < 1, np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0),
    "bicubic": cubic,
    "lanczos": lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0),
}


def resample(line: np.ndarray, length: int, interpolation: str) -> np.ndarray:
    """One axis of an antialiased resize in float64, written from its definition."""
    kernel = KERNELS[interpolation]
    scale = len(line) / length
    widened = max(scale, 1.0)
    out = []
    for at in range(length):
        centre = (at + 0.5) * scale
        weights = kernel((np.arange(len(line)) + 0.5 - centre) / widened)
        out.append((weights[:, None] * line).sum(0) / weights.sum())
    clipped: np.ndarray = np.clip(np.array(out), 0, 255)
    return clipped


def test_preprocess_size_that_fits_is_the_picture_itself() -> None:
    pixels = preprocess(ramp(4, 4), PLAIN)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, np.asarray(ramp(4, 4)).transpose(2, 0, 1))


def test_preprocess_scale_mean_std_follow_the_formula() -> None:
    spec = replace(PLAIN, scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    values = np.asarray(ramp(4, 4)).astype(np.float64)
    wanted = (values / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(preprocess(ramp(4, 4), spec), wanted.transpose(2, 0, 1), rtol=0, atol=1e-6)


def test_preprocess_bgr_reverses_channels_but_not_the_meaning_of_mean() -> None:
    spec = replace(PLAIN, channel_order="BGR", mean=(1, 2, 3), std=(1, 2, 4))
    values = (np.asarray(ramp(4, 4)).astype(np.float64) - [1, 2, 3]) / [1, 2, 4]
    np.testing.assert_allclose(preprocess(ramp(4, 4), spec), values[..., ::-1].transpose(2, 0, 1), rtol=1e-6)


def test_preprocess_layout_and_dtype_follow_the_card() -> None:
    values = np.asarray(ramp(4, 4))
    as_bytes = preprocess(ramp(4, 4), replace(PLAIN, layout="NHWC", dtype="uint8"))
    assert as_bytes.dtype == np.uint8
    np.testing.assert_array_equal(as_bytes, values)
    halves = preprocess(ramp(4, 4), replace(PLAIN, layout="NHWC", dtype="float16"))
    assert halves.dtype == np.float16
    np.testing.assert_array_equal(halves, values)


def test_preprocess_crop_starts_at_the_floor_of_half_the_excess() -> None:
    spec = replace(FIXED, size=(2, 2), layout="NHWC", dtype="uint8")
    pixels = preprocess(ramp(3, 5), spec)  # (3-2)//2 = 0 rows above, (5-2)//2 = 1 column to the left
    np.testing.assert_array_equal(pixels, np.asarray(ramp(3, 5))[0:2, 1:3])


def test_preprocess_pad_puts_the_floor_before() -> None:
    spec = replace(FIXED, size=(4, 4), layout="NHWC", dtype="uint8", pad_value=7)
    wanted = np.full((4, 4, 3), 7)
    pixels = preprocess(ramp(3, 1), spec)
    wanted[0:3, 1:2] = np.asarray(ramp(3, 1))  # (4-3)//2 = 0 rows above, (4-1)//2 = 1 column to the left
    np.testing.assert_array_equal(pixels, wanted)


def test_preprocess_no_crop_refuses_another_size() -> None:
    spec = replace(FIXED, crop="none")
    preprocess(ramp(4, 4), spec)
    with pytest.raises(ImageRejected) as caught:
        preprocess(ramp(4, 5), spec)
    assert caught.value.reason is RejectReason.BAD_DIMENSIONS


@pytest.mark.parametrize(
    ("resize", "sides", "wanted"),
    [
        ("shortest", (640, 480), (298, 224)),  # floor(640 * 224 / 480) = 298
        ("shortest", (480, 640), (224, 298)),
        ("shortest", (5, 3), (373, 224)),
        ("longest", (640, 480), (224, 168)),
        ("longest", (1000, 1), (224, 1)),
        ("squash", (640, 480), (224, 224)),
        ("none", (640, 480), (640, 480)),
    ],
)
def test_resized_px_rounds_down(resize: str, sides: tuple[int, int], wanted: tuple[int, int]) -> None:
    spec = Preprocess(size=(224, 224), resize=resize, scale=1, mean=(0, 0, 0), std=(1, 1, 1))  # type: ignore[arg-type]
    assert resized_px(*sides, spec) == wanted


def test_preprocess_crop_pct_enlarges_the_resize() -> None:
    spec = replace(PLAIN, size=(224, 224), resize="shortest", crop_pct=0.875)
    assert spec.resize_to == 256
    assert preprocess(ramp(30, 40), spec).shape == (3, 224, 224)


@pytest.mark.parametrize("size", [(2, 3), (7, 9), (4, 4)])
@pytest.mark.parametrize("interpolation", list(KERNELS))
def test_preprocess_resize_agrees_with_the_definition(interpolation: str, size: tuple[int, int]) -> None:
    source = np.random.default_rng(0).integers(0, 256, (10, 11, 3), dtype=np.uint8)
    rows = np.stack([resample(line, size[1], interpolation) for line in source.astype(np.float64)])
    wanted = np.stack([resample(rows[:, x], size[0], interpolation) for x in range(size[1])], axis=1)
    spec = replace(PLAIN, size=size, layout="NHWC", interpolation=interpolation)  # type: ignore[arg-type]
    np.testing.assert_allclose(preprocess(Image.fromarray(source), spec), wanted, rtol=0, atol=1.3)


def test_preprocess_without_antialias_samples_points() -> None:
    source = np.zeros((8, 8, 3), dtype=np.uint8)
    source[3:5, 3:5] = 200  # the four pixels around the centre
    spec = replace(PLAIN, size=(1, 1), layout="NHWC", antialias=False)
    assert preprocess(Image.fromarray(source), spec)[0, 0].tolist() == [200, 200, 200]
    smooth = preprocess(Image.fromarray(source), replace(spec, antialias=True))
    assert smooth[0, 0, 0] < 60


def test_preprocess_extreme_strip_is_refused_not_blown_up() -> None:
    spec = replace(PLAIN, size=(224, 224), resize="shortest")
    with pytest.raises(ImageRejected) as caught:
        preprocess(Image.new("RGB", (16384, 1)), spec)
    assert caught.value.reason is RejectReason.BAD_DIMENSIONS


def test_preprocess_other_mode_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="RGB"):
        preprocess(Image.new("L", (4, 4)), PLAIN)


def test_load_pixels_draft_keeps_twice_the_resize() -> None:
    buffer = io.BytesIO()
    Image.effect_noise((640, 480), 60).convert("RGB").save(buffer, "JPEG")
    spec = replace(PLAIN, size=(64, 64), resize="shortest")
    exact = load_pixels(buffer.getvalue(), spec, DecodeLimits())
    drafted = load_pixels(buffer.getvalue(), replace(spec, draft=2), DecodeLimits())
    assert (drafted.width_px, drafted.height_px) == (exact.width_px, exact.height_px) == (640, 480)
    difference = np.abs(drafted.pixels.astype(float) - exact.pixels)
    assert 0 < difference.mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("antialias", [True, False])
def test_load_pixels_draft_keeps_the_geometry_where_sides_round_up(orientation: int, antialias: bool) -> None:
    y, x = np.mgrid[0:49, 0:65]
    gradient = np.stack([x * 3, y * 4, x + y], axis=2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(gradient).save(buffer, "JPEG", quality=97, subsampling=0, exif=exif)
    spec = replace(PLAIN, layout="NHWC", antialias=antialias)
    exact = load_pixels(buffer.getvalue(), spec, DecodeLimits())
    drafted = load_pixels(buffer.getvalue(), replace(spec, draft=1), DecodeLimits())  # 65 x 49 / 8 = 9 x 7
    assert (drafted.width_px, drafted.height_px) == (exact.width_px, exact.height_px)
    assert 0 < np.abs(drafted.pixels - exact.pixels).max() <= 6  # 20 and more if the rounded sides were all


def test_load_pixels_draft_is_resized_to_the_size_of_the_full_picture() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (65, 17), (9, 9, 9)).save(buffer, "JPEG")
    spec = replace(PLAIN, size=(2, 16), resize="shortest", resize_to=2, layout="NHWC", crop="center")
    row = load_pixels(buffer.getvalue(), replace(spec, draft=1), DecodeLimits()).pixels[0, :, 0]
    exact = load_pixels(buffer.getvalue(), spec, DecodeLimits()).pixels[0, :, 0]
    np.testing.assert_array_equal(row > 0, exact > 0)  # the same columns are padding


@pytest.mark.parametrize(
    "change",
    [
        {"std": (1, 0, 1)},
        {"scale": math.nan},
        {"dtype": "uint8", "scale": 2},
        {"size": (0, 4)},
        {"resize": "shortest", "crop": "none"},
        {"resize_to": 5},
        {"antialias": False, "interpolation": "lanczos"},
        {"pad_value": 256},
        {"crop_pct": 0},
    ],
)
def test_preprocess_card_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|needs|belongs|takes|without|exists"):
        replace(PLAIN, **change)  # type: ignore[arg-type]


def test_thumbnail_is_re_encoded_small_and_free_of_metadata() -> None:
    buffer = io.BytesIO()
    ramp(9, 9).resize((300, 100)).save(buffer, "JPEG", comment=b"<script>alert(1)</script>")
    uri = thumbnail_data_uri(buffer.getvalue(), 96)
    head, _, payload = uri.partition(",")
    again = base64.b64decode(payload)
    assert head == "data:image/jpeg;base64"
    assert b"script" not in again
    assert Image.open(io.BytesIO(again)).size == (96, 32)
    assert uri == thumbnail_data_uri(buffer.getvalue(), 96)
    with pytest.raises(ImageRejected):
        thumbnail_data_uri(b"", 96)
