"""Designs the goods of the demo shop, and draws each one alone as an RGBA cut-out with its shadow.

Products come in lines of three that share shape, pattern and lettering and differ in colours; in a hard line
they differ only by dye lot, proportions and small print, as in a real shop.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from pipeline.images.silhouettes import CATEGORIES, N_SHAPE_NUMBERS, Silhouette, draw_silhouette
from pipeline.images.sketch import CANVAS_PX, Box

PRODUCTS_PER_LINE = 3
CUT_OUT_PX = 256

_HARD_SHARE = 0.25
_N_CACHED_CUT_OUTS = 16

Colour = tuple[int, int, int]
_Grid = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]

_BRANDS = (
    "NORDA", "Tallow", "OKTO", "Fennel", "LUMEN", "Maru", "KESTREL", "Piko", "VANTA", "Solis",
    "BRAMBLE", "Juno", "TERRA", "Wick", "HALDEN", "Ovo", "RIVET", "Sable", "QUILL", "Ember",
)  # fmt: skip
_SMALL_PRINT = ("classic", "fresh mint", "No. 7", "extra", "organic", "since 1962", "home", "travel", "new")
_GOODS: tuple[Colour, ...] = (
    (188, 44, 48), (120, 28, 52), (222, 96, 52), (234, 158, 52), (242, 206, 98), (152, 164, 82),
    (78, 128, 76), (38, 86, 72), (52, 146, 144), (132, 188, 210), (48, 96, 168), (30, 42, 84),
    (112, 88, 152), (200, 124, 160), (238, 192, 188), (116, 72, 50), (186, 140, 98), (234, 224, 204),
    (244, 244, 242), (150, 152, 154), (62, 64, 70),
)  # fmt: skip
_NEUTRALS: tuple[Colour, ...] = (
    (246, 244, 238), (44, 44, 50), (196, 160, 116), (124, 84, 58), (176, 178, 182), (228, 212, 180),
)  # fmt: skip
_PATTERN_OF: dict[str, Callable[[_Grid, _Grid], _Mask]] = {
    "plain": lambda x, _y: x < 0,
    "bars": lambda _x, y: y % 1 < 0.45,
    "pins": lambda x, _y: x % 0.8 < 0.18,
    "slant": lambda x, y: (x + y) % 1.2 < 0.5,
    "dots": lambda x, y: (x % 1 - 0.5) ** 2 + (y % 1 - 0.5) ** 2 < 0.09,
    "checks": lambda x, y: (np.floor(x) + np.floor(y)) % 2 == 0,
    "chevrons": lambda x, y: (y + np.abs(x % 2 - 1)) % 1 < 0.4,
    "blocks": lambda _x, y: y % 8 > 5,
}
_ALWAYS_PLAIN = ("plant", "clock")
_PATTERNS = ("plain", "plain", "plain", "plain", *tuple(_PATTERN_OF)[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Design:
    """What a product looks like before anybody photographs it."""

    category: str
    shape: tuple[float, ...]
    pattern: str
    pitch: float
    brand: str
    words: str
    body: Colour
    accent: Colour
    trim: Colour
    plate: Colour
    has_plate: bool


def category_of(product: int) -> str:
    """The kind of goods product number ``product`` (0 or more) is; the same for every seed."""
    return CATEGORIES[product // PRODUCTS_PER_LINE % len(CATEGORIES)]


def _design(product: int, seed: int) -> _Design:
    """The line decides shape, pattern and brand; the product decides colours and small print."""
    line, sibling = divmod(product, PRODUCTS_PER_LINE)
    of_line, own = np.random.default_rng((seed, 0, line)), np.random.default_rng((seed, 1, product))
    shape = of_line.random(N_SHAPE_NUMBERS)
    pattern, pitch, brand, base, trim, plate, hard = (float(u) for u in of_line.random(7))
    shape = np.clip(shape + (0.4 if hard < _HARD_SHARE else 0.1) * (own.random(N_SHAPE_NUMBERS) - 0.5), 0, 1)
    turn, words, accent = (float(u) for u in own.random(3))
    step = 0 if hard < _HARD_SHARE else (sibling + 0.7 * turn) / PRODUCTS_PER_LINE
    pattern_name = "plain" if category_of(product) in _ALWAYS_PLAIN else _pick(_PATTERNS, pattern)
    body = _shifted(_pick(_GOODS, base + step), own)
    return _Design(
        category=category_of(product),
        shape=tuple(float(x) for x in shape),
        pattern=pattern_name,
        pitch=0.05 + 0.09 * pitch,
        brand=_pick(_BRANDS, brand),
        words=_pick(_SMALL_PRINT, words),
        body=body,
        accent=_contrasting(body, _NEUTRALS if accent < 0.5 else _GOODS, 2 * accent),
        trim=_contrasting(body, _NEUTRALS if trim < 0.7 else _GOODS, trim),
        plate=_contrasting(body, ((250, 248, 240), (34, 36, 44), (232, 214, 170)), plate),
        has_plate=plate < 0.75 or pattern_name != "plain",
    )


_T = TypeVar("_T")


def _pick(choices: Sequence[_T], u: float) -> _T:
    """The choice at the share ``u`` (taken modulo 1) of the list."""
    return choices[int(u % 1 * len(choices))]


def _shifted(colour: Colour, rng: np.random.Generator) -> Colour:
    """A dye lot: each channel moves by up to 14 levels."""
    red, green, blue = (
        min(255, max(0, c + int(28 * u) - 14)) for c, u in zip(colour, rng.random(3), strict=True)
    )
    return red, green, blue


def _contrasting(ground: Colour, choices: Sequence[Colour], u: float) -> Colour:
    """The first choice from the share ``u`` onwards that can be told from ``ground``."""
    first = int(u % 1 * len(choices))
    for i in range(len(choices)):
        colour = choices[(first + i) % len(choices)]
        if sum(abs(a - b) for a, b in zip(colour, ground, strict=True)) > 150:
            return colour
    return choices[first]


@functools.lru_cache(maxsize=_N_CACHED_CUT_OUTS)
def cut_out_of(product: int, seed: int) -> Image.Image:
    """The product alone on a soft shadow: RGBA, ``CUT_OUT_PX`` squared. Cached, so do not draw on it."""
    design = _design(product, seed)
    outline = draw_silhouette(design.category, design.shape)
    paint = Image.new("RGB", outline.body.size, design.body)
    paint.paste(design.accent, (0, 0), _pattern_mask(design))
    if outline.label is not None:
        _write_label(paint, outline.label, design)
    paint.paste(design.trim, (0, 0), outline.trim)
    paint.paste(tuple(level // 3 for level in design.body), (0, 0), outline.seams)
    solid = Image.composite(outline.trim, outline.body, outline.trim)
    small = (CUT_OUT_PX, CUT_OUT_PX)
    shaded = _shade(paint.resize(small, Image.Resampling.BOX), outline)
    return _with_shadow(shaded, solid.resize(small, Image.Resampling.BOX))


def _pattern_mask(design: _Design) -> Image.Image:
    """Where the accent colour goes, over the whole canvas; what is outside of the body is never seen."""
    y, x = np.mgrid[0:CANVAS_PX, 0:CANVAS_PX] / (CANVAS_PX * design.pitch)
    return Image.fromarray(_PATTERN_OF[design.pattern](x, y).astype(np.uint8) * 255)


def _write_label(paint: Image.Image, box: Box, design: _Design) -> None:
    """Brand and small print in the label's box, on a plate or straight on the goods."""
    left, top, right, bottom = (side * CANVAS_PX for side in box)
    draw = ImageDraw.Draw(paint)
    under = design.plate if design.has_plate else design.body
    if design.has_plate:
        draw.rectangle((left, top, right, bottom), fill=under)
        draw.rectangle((left, bottom - 0.12 * (bottom - top), right, bottom), fill=design.accent)
    ink = (20, 20, 24) if sum(under) > 380 else (250, 250, 245)
    for text, place, share in ((design.brand, 0.34, 0.9), (design.words, 0.68, 0.6)):
        font = _font(text, width_px=share * (right - left), height_px=0.5 * share * (bottom - top))
        draw.text(((left + right) / 2, top + place * (bottom - top)), text, ink, font, anchor="mm")


def _font(text: str, *, width_px: float, height_px: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font in about the largest size in which ``text`` fits."""
    return ImageFont.load_default(max(8, round(min(1.6 * width_px / max(3, len(text)), height_px))))


def _shade(paint: Image.Image, outline: Silhouette) -> Image.Image:
    """Light from the upper left: round goods darken to both sides, flat ones downwards."""
    box = outline.body.getbbox() or (0, 0, CANVAS_PX, CANVAS_PX)
    left, right = box[0] / CANVAS_PX, box[2] / CANVAS_PX
    y, x = (np.mgrid[0:CUT_OUT_PX, 0:CUT_OUT_PX] + 0.5) / CUT_OUT_PX
    across = np.clip((x - left) / max(right - left, 0.05), 0, 1)
    round_light = 1.12 - 0.9 * (across - 0.36) ** 2 * 1.6
    gleam = 0.22 * np.exp(-(((across - 0.27) / 0.06) ** 2))
    light = np.where(outline.is_round, round_light + gleam, 1.06 - 0.16 * y - 0.06 * across)
    lit = np.asarray(paint, np.float32) * light[..., None].astype(np.float32)
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def _with_shadow(goods: Image.Image, alpha: Image.Image) -> Image.Image:
    left, _top, right, bottom = alpha.getbbox() or (0, 0, 1, 1)
    ground = Image.new("L", alpha.size, 0)
    ImageDraw.Draw(ground).ellipse((left, bottom - 12, right, bottom + 6), fill=110)
    shadow = Image.merge("RGBA", (*Image.new("RGB", alpha.size, (20, 20, 30)).split(), _soft(ground)))
    return Image.alpha_composite(shadow, Image.merge("RGBA", (*goods.split(), alpha)))


def _soft(mask: Image.Image) -> Image.Image:
    return mask.filter(ImageFilter.GaussianBlur(5))
