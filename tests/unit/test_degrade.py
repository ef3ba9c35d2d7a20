import io

import numpy as np
import pytest
from PIL import Image

from pipeline.images import degrade


@pytest.fixture
def photo() -> Image.Image:
    rng = np.random.default_rng(7)
    coarse = Image.fromarray(rng.integers(60, 200, (12, 16, 3), dtype=np.uint8))
    return coarse.resize((160, 120), Image.Resampling.BICUBIC)


def _levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(float)


@pytest.mark.parametrize("quality", degrade.JPEG_QUALITIES)
def test_recompress_any_quality_is_420_jpeg_and_stable(photo: Image.Image, quality: int) -> None:
    data = degrade.recompress_jpeg(photo, quality)
    assert data == degrade.recompress_jpeg(photo, quality)
    # The frame header names each component's sampling: 2x2 for luma and 1x1 for chroma is 4:2:0.
    frame = data[data.index(b"\xff\xc0") :]
    assert (frame[11], frame[14], frame[17]) == (0x22, 0x11, 0x11)
    assert Image.open(io.BytesIO(data)).size == photo.size


def test_recompress_lower_quality_is_smaller_and_further(photo: Image.Image) -> None:
    sizes, errors = [], []
    for quality in degrade.JPEG_QUALITIES:
        data = degrade.recompress_jpeg(photo, quality)
        sizes.append(len(data))
        errors.append(np.abs(_levels(Image.open(io.BytesIO(data))) - _levels(photo)).mean())
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)


def test_crop_shift_keeping_all_changes_nothing(photo: Image.Image) -> None:
    assert degrade.crop_shift(photo, keep=1.0, seed=3).tobytes() == photo.tobytes()


def test_crop_shift_seed_chooses_the_window(photo: Image.Image) -> None:
    first, again, other = (degrade.crop_shift(photo, keep=0.7, seed=s) for s in (1, 1, 2))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert first.size == photo.size


def test_relight_neutral_changes_nothing(photo: Image.Image) -> None:
    assert degrade.relight(photo).tobytes() == photo.tobytes()


def test_relight_warmth_moves_red_and_blue_by_its_gain() -> None:
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    assert degrade.relight(grey, warmth=1.0).getpixel((0, 0)) == (130, 100, 70)
    assert degrade.relight(grey, warmth=-0.5).getpixel((0, 0)) == (85, 100, 115)
    assert degrade.relight(grey, brightness=1.5).getpixel((0, 0)) == (150, 150, 150)


def test_relight_contrast_scales_the_spread(photo: Image.Image) -> None:
    ratio = _levels(degrade.relight(photo, contrast=0.5)).std() / _levels(photo).std()
    assert ratio == pytest.approx(0.5, abs=0.05)


def test_blur_larger_radius_leaves_less_detail(photo: Image.Image) -> None:
    spreads = [_levels(degrade.blur(photo, r)).std() for r in (0, 1, 3, 8)]
    assert spreads == sorted(spreads, reverse=True)
    assert degrade.blur(photo, 0).tobytes() == photo.tobytes()


@pytest.mark.parametrize("side_px", degrade.SIDES_PX)
def test_shrink_is_square(photo: Image.Image, side_px: int) -> None:
    assert degrade.shrink(photo, side_px).size == (side_px, side_px)


@pytest.mark.parametrize("style", list(degrade.WatermarkStyle))
@pytest.mark.parametrize("area", degrade.WATERMARK_AREAS)
@pytest.mark.parametrize("size", [(200, 160), (96, 224)])
def test_watermark_covers_about_the_area_it_says(
    style: degrade.WatermarkStyle, area: float, size: tuple[int, int]
) -> None:
    black, white = (Image.new("RGB", size, (v, v, v)) for v in (0, 255))
    shares = []
    for seed in range(8):
        over_black, over_white = (
            _levels(degrade.watermark(im, style, opacity=1.0, area=area, seed=seed)) for im in (black, white)
        )
        shares.append(1 - (over_white - over_black).mean() / 255)  # what no longer shows the background
    assert np.mean(shares) == pytest.approx(area, rel=0.3)


@pytest.mark.parametrize("style", list(degrade.WatermarkStyle))
def test_watermark_opacity_scales_the_change(photo: Image.Image, style: degrade.WatermarkStyle) -> None:
    changes = [
        np.abs(_levels(degrade.watermark(photo, style, opacity=o, seed=1)) - _levels(photo)).mean()
        for o in (0.0, *degrade.WATERMARK_OPACITIES)
    ]
    assert changes[0] == 0
    assert changes[-1] / changes[1] == pytest.approx(8, rel=0.1)


@pytest.mark.parametrize("style", list(degrade.WatermarkStyle))
def test_watermark_same_arguments_give_the_same_overlay(style: degrade.WatermarkStyle) -> None:
    dark, middle, light = (Image.new("RGB", (120, 120), (v, v, v)) for v in (0, 128, 255))
    first, between, last = (degrade.watermark(im, style, opacity=1.0, seed=9) for im in (dark, middle, light))
    # One overlay means the result is linear in what lies under it.
    np.testing.assert_allclose(_levels(between), (_levels(first) + _levels(last)) / 2, atol=2)
    assert first.tobytes() == degrade.watermark(dark, style, opacity=1.0, seed=9).tobytes()
    assert first.tobytes() != degrade.watermark(dark, style, opacity=1.0, seed=11).tobytes()


@pytest.mark.parametrize(
    "call",
    [
        lambda im: degrade.recompress_jpeg(im, 0),
        lambda im: degrade.crop_shift(im, keep=0.0),
        lambda im: degrade.relight(im, brightness=0.0),
        lambda im: degrade.relight(im, warmth=2.0),
        lambda im: degrade.blur(im, -1.0),
        lambda im: degrade.shrink(im, 0),
        lambda im: degrade.watermark(im, opacity=1.5),
        lambda im: degrade.watermark(im, area=0.0),
        lambda im: degrade.watermark(im, "sticker"),
        lambda im: degrade.blur(im.convert("L"), 1.0),
    ],
)
def test_degrade_impossible_argument_is_refused(photo: Image.Image, call: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the messages are for people
        call(photo)  # type: ignore[operator]
