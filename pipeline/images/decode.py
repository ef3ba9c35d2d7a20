"""Turns the bytes of one image into RGB pixels, or says in one word why not.

1. Refuse by size in bytes; open by content, never by name, with a closed list of formats.
2. Refuse by width, height and pixels before a pixel is decoded; decode the first frame only.
3. Bring every pixel layout to 8-bit RGB by ``to_rgb``, then turn the image upright by its EXIF orientation.

Whatever a hostile file makes Pillow raise becomes an ``ImageRejected``; MemoryError alone passes, because it
speaks of the machine and not of the image. Embedded colour profiles are ignored, as in every reference
pipeline of the models. Pillow warns about odd metadata through ``warnings``; a process that decodes should
call ``quiet_decoder_warnings`` once.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import AvifImagePlugin, Image, ImageCms, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from pipeline.images.signature import ALLOWED, ends_early, recognise
from pipeline.values import DecodeLimits, RejectReason

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # else every image takes all cores: workers share them out
_PLUGINS = (AvifImagePlugin, TiffImagePlugin, WebPImagePlugin)  # else Pillow would load all of its plugins
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_RIGHT_GOES_LEFT = frozenset({2, 3, 6, 7})  # or bottom goes left: what was the far side is the near one
_BOTTOM_GOES_UP = frozenset({3, 4, 7, 8})
_RGB_BYTES = 8  # of a pixel while it is decoded: Pillow keeps RGB in 4, and turning upright makes a copy
_OTHER_BYTES = 16  # also RGBA, white below it, and the two laid over each other
_WITH_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_WITH_COLOUR_KEY = frozenset({"1", "L", "P", "RGB"})

_Box = tuple[float, float, float, float]
MakeRoom = Callable[[int], None]


class ImageRejected(Exception):
    """The image, not the machine, is at fault: ``reason`` decides what follows, ``detail`` is for people."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """An upright RGB image; the sides are those of the full picture, also where a draft was decoded.

    ``box`` is the part of ``image`` that shows the picture, as (left, top, right, bottom): a draft's sides
    are rounded up, so it ends within the last column and row.
    """

    image: Image.Image
    width_px: int
    height_px: int
    box: _Box


def quiet_decoder_warnings() -> None:
    """Silences Pillow's warnings about odd metadata in this process; what matters in them is checked here."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(data: bytes, limits: DecodeLimits) -> Image.Image:
    """The first frame of an image as upright RGB pixels without metadata.

    Raises:
        ImageRejected: if these bytes are not an image that may be indexed.
    """
    return decode_upright(data, limits).image


def decode_upright(
    data: bytes,
    limits: DecodeLimits,
    *,
    exif_transpose: bool = True,
    draft_px: int = 0,
    make_room: MakeRoom | None = None,
) -> Decoded:
    """As ``decode``, with the sides of the full picture.

    ``make_room``, if given, is called once before pixels are decoded, with at least the bytes they will take;
    it may wait.

    ``draft_px`` > 0 lets the JPEG decoder shrink by 2, 4 or 8 while both sides stay at least that long; other
    formats ignore it. TIFF files are turned upright by their decoder, whatever ``exif_transpose`` says.

    Raises:
        ImageRejected: if these bytes are not an image that may be indexed.
    """
    if not data:
        raise ImageRejected(RejectReason.EMPTY, "0 bytes")
    if len(data) > limits.max_bytes:
        raise ImageRejected(RejectReason.TOO_LARGE, f"{len(data)} bytes, at most {limits.max_bytes} allowed")
    try:
        with Image.open(io.BytesIO(data), formats=ALLOWED) as image:
            return _load(image, limits, draft_px, make_room, exif_transpose=exif_transpose)
    except (ImageRejected, MemoryError):
        raise
    except UnidentifiedImageError as exc:
        raise _unidentified(data) from exc
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ImageRejected(RejectReason.TOO_MANY_PIXELS, str(exc)) from exc
    except Exception as exc:  # Pillow raises nearly anything on hostile bytes: ten types seen on 8,548 files
        raise _broken(data, exc) from exc


def to_rgb(image: Image.Image) -> Image.Image:
    """``image``, loaded, as 8-bit RGB: the one place that decides what every pixel layout means.

    RGB stays as it is. Alpha of every kind (LA, PA, RGBA, premultiplied, a transparent palette entry or
    colour) is laid over white. Grey, 1-bit, palette, YCbCr, HSV and CMYK convert as Pillow does; a JPEG
    that Adobe's marker calls inverted was already turned round by the decoder. CIELAB converts to sRGB by
    Little CMS. 16-bit grey keeps its high byte, also where it came as 32-bit integers that all fit 16 bits.

    Raises:
        ImageRejected: MODE_UNSUPPORTED for floating point, and for integers beyond 16 bits.
    """
    mode = image.mode
    if mode in _WITH_ALPHA or ("transparency" in image.info and mode in _WITH_COLOUR_KEY):
        return _over_white(image)
    if mode == "RGB":
        return image
    if mode.startswith("I"):
        return _high_byte(image)
    if mode == "F":
        raise ImageRejected(RejectReason.MODE_UNSUPPORTED, "floating point pixels have no agreed range")
    if mode == "LAB":
        return _from_lab(image)
    return image.convert("RGB")


def _load(
    image: Image.Image,
    limits: DecodeLimits,
    draft_px: int,
    make_room: MakeRoom | None,
    *,
    exif_transpose: bool,
) -> Decoded:
    full_px = image.size
    _check_sides(full_px, limits)
    draft = image.draft("", (draft_px, draft_px)) if draft_px else None
    if make_room is not None:
        make_room(image.width * image.height * (_RGB_BYTES if image.mode == "RGB" else _OTHER_BYTES))
    image.load()
    orientation = _orientation(image) if exif_transpose else 1
    rgb = to_rgb(image)
    rgb.info = {}
    turn = _TURNS.get(orientation)
    if turn is not None:
        rgb = rgb.transpose(turn)
    was_turned = orientation >= 5 or (image.format == "TIFF" and image.size != full_px)
    width_px, height_px = reversed(full_px) if was_turned else full_px
    shown_px = (0, 0, *rgb.size) if draft is None else _turned_box(draft[1], orientation, rgb.size)
    return Decoded(image=rgb, width_px=width_px, height_px=height_px, box=shown_px)


def _turned_box(box: tuple[float, ...], orientation: int, size_px: tuple[int, int]) -> _Box:
    """Where the upper left ``box`` of a stored picture lies after turning it to ``size_px``."""
    width, height = (box[3], box[2]) if orientation >= 5 else (box[2], box[3])
    left = size_px[0] - width if orientation in _RIGHT_GOES_LEFT else 0.0
    top = size_px[1] - height if orientation in _BOTTOM_GOES_UP else 0.0
    return left, top, left + width, top + height


def _check_sides(size_px: tuple[int, int], limits: DecodeLimits) -> None:
    width_px, height_px = size_px
    shown = f"{width_px} x {height_px} px"
    if width_px * height_px > limits.max_pixels:
        raise ImageRejected(RejectReason.TOO_MANY_PIXELS, f"{shown}, at most {limits.max_pixels} allowed")
    if max(size_px) > limits.max_side_px:
        raise ImageRejected(RejectReason.BAD_DIMENSIONS, f"{shown}, sides at most {limits.max_side_px} px")
    if min(size_px) < max(1, limits.min_side_px):
        raise ImageRejected(RejectReason.BAD_DIMENSIONS, f"{shown}, sides at least {limits.min_side_px} px")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except MemoryError:
        raise
    except Exception:  # broken EXIF: the pixels are what counts
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    values_HW = np.asarray(image)
    low, high = int(values_HW.min()), int(values_HW.max())
    if low < 0 or high > 0xFFFF:
        raise ImageRejected(RejectReason.MODE_UNSUPPORTED, f"{image.mode} with values {low} to {high}")
    return Image.fromarray((values_HW >> 8).astype(np.uint8)).convert("RGB")


def _from_lab(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    if converted is None:
        raise ImageRejected(RejectReason.MODE_UNSUPPORTED, "CIELAB could not be converted")
    return converted


def _unidentified(data: bytes) -> ImageRejected:
    name = recognise(data)
    if name and name not in ALLOWED:
        return ImageRejected(RejectReason.FORMAT_NOT_ALLOWED, f"{name}; allowed: {', '.join(ALLOWED)}")
    if ends_early(data):
        return ImageRejected(
            RejectReason.TRUNCATED, f"{name} of {len(data)} bytes ends before its image does"
        )
    begins = data[:8].hex(" ")
    return ImageRejected(RejectReason.UNIDENTIFIED, f"begins with {begins}{f', like {name}' if name else ''}")


def _broken(data: bytes, exc: Exception) -> ImageRejected:
    detail = f"{recognise(data) or 'image'}: {type(exc).__name__}: {exc}"[:500]
    if isinstance(exc, EOFError) or "truncated" in str(exc).lower() or ends_early(data):
        return ImageRejected(RejectReason.TRUNCATED, detail)
    return ImageRejected(RejectReason.CORRUPT, detail)
