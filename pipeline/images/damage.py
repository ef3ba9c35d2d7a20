"""One image, damaged in one stated way, as bytes that go through the pipeline like any other.

The levels are those of the robustness report. What is damaged is the upright picture that the pipeline itself
decodes; it is written as BMP, which loses nothing, or as the JPEG that is the damage. Widths and radii follow
the picture's short side, so that a level means the same for pictures of any size.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from PIL import Image

from pipeline.images.decode import decode
from pipeline.images.degrade import (
    JPEG_QUALITIES,
    WATERMARK_AREAS,
    WATERMARK_OPACITIES,
    WatermarkStyle,
    blur,
    crop_shift,
    recompress_jpeg,
    relight,
    rotate,
    watermark,
)
from pipeline.values import DecodeLimits

PIXEL_SIDES = (20, 40, 80, 120, 160, 256)
BLUR_SHARES = (0.005, 0.01, 0.02, 0.04)
KEPT_SIDES = (0.95, 0.9, 0.8, 0.7)
ROTATIONS_DEGREES = (5.0, 10.0, 20.0, 45.0)
BRIGHTNESSES = (0.25, 0.5, 1.5, 2.0)
_USUAL_AREA = 0.15
_USUAL_OPACITY = 0.3


class DamageKind(StrEnum):
    """Ways to damage an image, and what their level is."""

    NONE = "none"  # decoded and written again: what the others are compared with must lose nothing
    JPEG = "jpeg"  # quality
    PIXELS = "pixels"  # short side in pixels
    WATERMARK = "watermark"  # opacity; style and area beside it
    BLUR = "blur"  # standard deviation as a share of the short side
    CROP = "crop"  # kept share of each side, stretched back
    ROTATION = "rotation"  # degrees, to a side that the seed chooses
    BRIGHTNESS = "brightness"  # factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A kind of damage and how much of it; ``style`` and ``area`` are of watermarks only."""

    kind: DamageKind
    level: float
    style: str = ""
    area: float = 0.0

    @property
    def name(self) -> str:
        """What is done to the image, in words."""
        words = {
            DamageKind.NONE: "decoded and written again",
            DamageKind.JPEG: f"JPEG quality {self.level:g}",
            DamageKind.PIXELS: f"{self.level:g} pixels on the short side",
            DamageKind.WATERMARK: f"{self.style} watermark, opacity {self.level:g}, area {self.area:g}",
            DamageKind.BLUR: f"blur of {100 * self.level:g} % of the short side",
            DamageKind.CROP: f"crop to {100 * self.level:g} % of each side",
            DamageKind.ROTATION: f"turned by {self.level:g} degrees",
            DamageKind.BRIGHTNESS: f"brightness times {self.level:g}",
        }
        return words[self.kind]


def usual_damages(kinds: frozenset[DamageKind], input_px: int) -> tuple[Damage, ...]:
    """Every level of some kinds, the harmless ones included; sides that the model's input exceeds only."""
    levels: dict[DamageKind, tuple[float, ...]] = {
        DamageKind.NONE: (0.0,),
        DamageKind.JPEG: JPEG_QUALITIES,
        DamageKind.PIXELS: tuple(side for side in PIXEL_SIDES if side < input_px),
        DamageKind.BLUR: BLUR_SHARES,
        DamageKind.CROP: KEPT_SIDES,
        DamageKind.ROTATION: ROTATIONS_DEGREES,
        DamageKind.BRIGHTNESS: BRIGHTNESSES,
    }
    damages = [
        Damage(kind=kind, level=level)
        for kind, those in levels.items()
        if kind in kinds or kind is DamageKind.NONE
        for level in those
    ]
    if DamageKind.WATERMARK in kinds:
        damages += [
            Damage(kind=DamageKind.WATERMARK, level=opacity, style=style.value, area=area)
            for style in WatermarkStyle
            for opacity, area in (
                *((opacity, _USUAL_AREA) for opacity in WATERMARK_OPACITIES),
                *((_USUAL_OPACITY, area) for area in WATERMARK_AREAS if area != _USUAL_AREA),
            )
        ]
    return tuple(damages)


def damaged(data: bytes, damage: Damage, *, seed: int) -> bytes:
    """The image in ``data``, damaged; the same bytes, damage and seed give the same bytes.

    Images of one size get the same watermark from the same seed.

    Raises:
        ImageRejected: if ``data`` is not an image that may be indexed.
    """
    image = decode(data, DecodeLimits())
    if damage.kind is DamageKind.JPEG:
        return recompress_jpeg(image, round(damage.level))
    out = io.BytesIO()
    _ACTS[damage.kind](image, damage, seed).save(out, "BMP")
    return out.getvalue()


def _fewer_pixels(image: Image.Image, damage: Damage, _seed: int) -> Image.Image:
    short = min(image.size)
    if short <= damage.level:
        return image
    size = (
        max(1, round(image.width * damage.level / short)),
        max(1, round(image.height * damage.level / short)),
    )
    return image.resize(size, Image.Resampling.BILINEAR)


def _watermarked(image: Image.Image, damage: Damage, seed: int) -> Image.Image:
    return watermark(image, damage.style, opacity=damage.level, area=damage.area, seed=seed)


def _blurred(image: Image.Image, damage: Damage, _seed: int) -> Image.Image:
    return blur(image, damage.level * min(image.size))


_Act = Callable[[Image.Image, Damage, int], Image.Image]
_ACTS: dict[DamageKind, _Act] = {
    DamageKind.NONE: lambda image, _damage, _seed: image,
    DamageKind.PIXELS: _fewer_pixels,
    DamageKind.WATERMARK: _watermarked,
    DamageKind.BLUR: _blurred,
    DamageKind.CROP: lambda image, damage, seed: crop_shift(image, keep=damage.level, seed=seed),
    DamageKind.ROTATION: lambda image, damage, seed: rotate(image, damage.level * (1 if seed % 2 else -1)),
    DamageKind.BRIGHTNESS: lambda image, damage, _seed: relight(image, brightness=damage.level),
}
