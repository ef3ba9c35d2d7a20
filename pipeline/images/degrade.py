"""Damages an image the way shops, phones and the web do, by a stated amount, the same way every time.

Which damage does a nearest-neighbour search survive? The robustness report asks that with the ranges below
(science page, section 3); the demo catalog uses the same functions to make its views. Every function is pure:
the same image, numbers and seed give the same pixels. Images are ``RGB`` in and out; other modes are refused.
"""

import io
import math
from collections.abc import Callable
from enum import StrEnum

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

JPEG_QUALITIES = (10, 20, 30, 50, 70, 90)
SIDES_PX = (40, 80, 120, 160, 256)
WATERMARK_OPACITIES = (0.1, 0.3, 0.5, 0.8)
WATERMARK_AREAS = (0.05, 0.15, 0.30)

_SUBSAMPLING_420 = 2  # Pillow's number for 4:2:0
_INK = (96, 96, 96)  # darker than white backgrounds, lighter than dark goods: visible on both
_PLATE = (24, 44, 92)
_TEXT = "SHOP PHOTO"


class WatermarkStyle(StrEnum):
    """Where a watermark sits: words all over, a plate in a corner, or a band across."""

    TILED = "tiled"
    LOGO = "logo"
    BAND = "band"


def recompress_jpeg(image: Image.Image, quality: int) -> bytes:
    """``image`` as baseline JPEG bytes at ``quality`` 1..95 with 4:2:0 chroma, without metadata.

    Raises:
        ValueError: if the image is not RGB or the quality is out of range.
    """
    _require_rgb(image)
    _require(1 <= quality <= 95, f"JPEG quality must be in 1..95, got {quality}")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=_SUBSAMPLING_420)
    return buffer.getvalue()


def crop_shift(image: Image.Image, *, keep: float = 0.85, seed: int = 0) -> Image.Image:
    """A window of ``keep`` of each side, at a seeded place, stretched back to the size of ``image``.

    Raises:
        ValueError: if the image is not RGB, or ``keep`` is not in (0, 1].
    """
    _require_rgb(image)
    _require(0 < keep <= 1, f"keep must be in (0, 1], got {keep}")
    width_px, height_px = image.size
    right, down = np.random.default_rng(seed).random(2) * (1 - keep)
    left_px, top_px = float(right) * width_px, float(down) * height_px
    box = (left_px, top_px, left_px + keep * width_px, top_px + keep * height_px)
    return image.resize(image.size, Image.Resampling.BILINEAR, box=box)


def relight(
    image: Image.Image, *, brightness: float = 1.0, contrast: float = 1.0, warmth: float = 0.0
) -> Image.Image:
    """Other light: factors of brightness and contrast, and a white balance from -1 (blue) to 1 (orange).

    ``warmth`` moves red up and blue down by 30 % at 1; green stays. All ones and zero returns equal pixels.

    Raises:
        ValueError: if the image is not RGB, a factor is not positive, or ``warmth`` leaves -1..1.
    """
    _require_rgb(image)
    _require(brightness > 0 and contrast > 0, f"factors must be positive, got {brightness} and {contrast}")
    _require(-1 <= warmth <= 1, f"warmth must be in -1..1, got {warmth}")
    if warmth:
        gains = (1 + 0.3 * warmth, 1.0, 1 - 0.3 * warmth)
        levels = np.minimum(np.rint(np.outer(gains, np.arange(256))), 255)
        image = image.point(levels.astype(int).ravel().tolist())
    if brightness != 1.0:
        image = ImageEnhance.Brightness(image).enhance(brightness)
    return ImageEnhance.Contrast(image).enhance(contrast) if contrast != 1.0 else image


def blur(image: Image.Image, radius_px: float) -> Image.Image:
    """A Gaussian blur with a standard deviation of ``radius_px`` pixels; 0 changes nothing.

    Raises:
        ValueError: if the image is not RGB or the radius is negative.
    """
    _require_rgb(image)
    _require(radius_px >= 0, f"radius must not be negative, got {radius_px}")
    return image.filter(ImageFilter.GaussianBlur(radius_px)) if radius_px else image


def rotate(image: Image.Image, degrees: float) -> Image.Image:
    """``image`` turned about its centre, at the same size; the corners get its mean colour.

    Positive is counter-clockwise.

    Raises:
        ValueError: if the image is not RGB.
    """
    _require_rgb(image)
    red, green, blue = np.asarray(image).reshape(-1, 3).mean(axis=0).round().astype(int).tolist()
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(red, green, blue))


def shrink(image: Image.Image, side_px: int) -> Image.Image:
    """``image`` squashed to ``side_px`` x ``side_px`` (bilinear, antialiased), also where it was smaller.

    Raises:
        ValueError: if the image is not RGB or the side is under one pixel.
    """
    _require_rgb(image)
    _require(side_px >= 1, f"side must be at least 1 px, got {side_px}")
    return image.resize((side_px, side_px), Image.Resampling.BILINEAR)


def watermark(
    image: Image.Image,
    style: WatermarkStyle | str = WatermarkStyle.TILED,
    *,
    opacity: float = 0.3,
    area: float = 0.15,
    seed: int = 0,
) -> Image.Image:
    """``image`` under a watermark; two images of one size get the very same overlay from the same arguments.

    Args:
        image: RGB, any size.
        style: ``tiled`` (slanted words all over), ``logo`` (corner plate) or ``band`` (slanted stripe).
        opacity: 0..1 of the overlay.
        area: share of the image the marks cover: letters for ``tiled``, plate or stripe for the others.
            Met on average over seeds; a small image holds few words, so single overlays differ.
        seed: chooses corner, angle and phase.

    Raises:
        ValueError: if the image is not RGB, the style is unknown, or a share is out of range.
    """
    _require_rgb(image)
    _require(0 <= opacity <= 1, f"opacity must be in 0..1, got {opacity}")
    _require(0 < area <= 0.5, f"area must be in (0, 0.5], got {area}")
    paint = _STYLES[WatermarkStyle(style)]
    colour = Image.new("RGB", image.size, _INK)
    mask = Image.new("L", image.size, 0)
    paint(colour, mask, area, np.random.default_rng(seed))
    return Image.composite(colour, image, mask.point([round(level * opacity) for level in range(256)]))


def _paint_tiles(_colour: Image.Image, mask: Image.Image, area: float, rng: np.random.Generator) -> None:
    """Letters cover ``area`` of ``mask``: one word's ink, divided by the area, is the cell that it gets."""
    width_px, height_px = mask.size
    font = _font(max(8, min(width_px, height_px) // 13))
    left, top, right, bottom = font.getbbox(_TEXT, stroke_width=1)
    word = Image.new("L", (round(right - left), round(bottom - top)), 0)
    ImageDraw.Draw(word).text((-left, -top), _TEXT, 255, font, stroke_width=1)
    ink_px = float(np.asarray(word).sum()) / 255
    pitch_x = round(max(word.width * 1.15, math.sqrt(1.5 * ink_px / area)))
    pitch_y = max(3, round(ink_px / area / pitch_x))
    side_px = math.ceil(math.hypot(width_px, height_px))
    sheet = Image.new("L", (side_px, side_px), 0)
    for row, y in enumerate(range(-round(float(rng.random()) * pitch_y), side_px, pitch_y)):
        for x in range(-pitch_x + (row % 2) * pitch_x // 2, side_px, pitch_x):
            sheet.paste(255, (x, y), word)
    sheet = sheet.rotate(20 + 20 * float(rng.random()), Image.Resampling.BILINEAR)
    mask.paste(sheet, ((width_px - side_px) // 2, (height_px - side_px) // 2))


def _paint_logo(colour: Image.Image, mask: Image.Image, area: float, rng: np.random.Generator) -> None:
    """A plate twice as wide as high in one of the four corners."""
    width_px, height_px = mask.size
    plate_w = min(width_px, round(math.sqrt(2 * area * width_px * height_px)))
    plate_h = min(height_px, round(area * width_px * height_px / plate_w))
    corner = int(rng.random() * 4)
    x = (width_px - plate_w) * (corner % 2)
    y = (height_px - plate_h) * (corner // 2)
    box = (x, y, x + plate_w - 1, y + plate_h - 1)
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    draw = ImageDraw.Draw(colour)
    draw.rectangle(box, fill=_PLATE)
    _write(draw, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), plate_w)


def _paint_band(colour: Image.Image, mask: Image.Image, area: float, rng: np.random.Generator) -> None:
    """A stripe through the middle, near one of the two diagonals."""
    width_px, height_px = mask.size
    side_px = math.ceil(math.hypot(width_px, height_px))
    angle = (30 + 20 * float(rng.random())) * (1 if rng.random() < 0.5 else -1)
    length_px = min(width_px / math.cos(math.radians(angle)), height_px / abs(math.sin(math.radians(angle))))
    band_h = area * width_px * height_px / length_px
    middle = side_px / 2
    stripe = Image.new("L", (side_px, side_px), 0)
    ImageDraw.Draw(stripe).rectangle((0, middle - band_h / 2, side_px, middle + band_h / 2), fill=255)
    paint = Image.new("RGB", (side_px, side_px), _PLATE)
    _write(ImageDraw.Draw(paint), (middle, middle), min(round(6 * band_h), round(length_px)))
    corner = ((width_px - side_px) // 2, (height_px - side_px) // 2)
    mask.paste(stripe.rotate(angle, Image.Resampling.BILINEAR), corner)
    colour.paste(paint.rotate(angle, Image.Resampling.BILINEAR, fillcolor=_PLATE), corner)


_Painter = Callable[[Image.Image, Image.Image, float, np.random.Generator], None]
_STYLES: dict[WatermarkStyle, _Painter] = {
    WatermarkStyle.TILED: _paint_tiles,
    WatermarkStyle.LOGO: _paint_logo,
    WatermarkStyle.BAND: _paint_band,
}


def _write(draw: ImageDraw.ImageDraw, centre: tuple[float, float], width_px: int) -> None:
    draw.text(centre, _TEXT, (255, 255, 255), _font(max(6, round(width_px / 8))), anchor="mm")


def _font(size_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("this Pillow was built without FreeType, so it cannot draw text of a chosen size")
    return font


def _require_rgb(image: Image.Image) -> None:
    _require(image.mode == "RGB", f"expected an RGB image, got mode {image.mode}")


def _require(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as the sentence it is
    if not condition:
        raise ValueError(message)
