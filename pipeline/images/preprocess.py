"""Turns the bytes of an image into the array a model wants, exactly as the model's card says.

1. Decode (``decode``). 2. Resize. 3. Cut or pad to size, both around the centre. 4. Order channels and axes,
scale to ``(value * scale - mean) / std``.

Rounding, where pipelines differ: the other side of a resize is ``floor(long * resize_to / short)`` and at
least 1; a cut starts at ``floor((w - W) / 2)``, a pad puts ``floor((W - w) / 2)`` before. Resampling is
Pillow's, 8 bits in and out. Arithmetic is float32: one product, one sum, with factors rounded once from
float64; so the same image gives the same bytes on every machine with the same decoder.

Shapes: H, W the card's size; C = 3 in the card's order.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.images.decode import Decoded, ImageRejected, MakeRoom, decode_upright
from pipeline.values import DecodeLimits, Preprocess, RejectReason

_MAX_RESIZED_PIXELS = 80_000_000  # a 16384 x 1 strip scaled to a short side of 224 would need 2.4 GB

Pixels = NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedImage:
    """What a model sees of one image, and the sides of the upright picture it came from."""

    pixels: Pixels
    width_px: int
    height_px: int


def load_pixels(
    data: bytes, spec: Preprocess, limits: DecodeLimits, make_room: MakeRoom | None = None
) -> LoadedImage:
    """Decodes one image and prepares it: C-contiguous [3, H, W] or [H, W, 3] of the card's dtype.

    ``make_room`` is called with the bytes that decoding will take, as soon as the header says them.

    Raises:
        ImageRejected: if these bytes are not an image that may be indexed, or cannot take the card's shape.
    """
    decoded = decode_upright(
        data, limits, exif_transpose=spec.exif_transpose, draft_px=_draft_px(spec), make_room=make_room
    )
    pixels = _prepare(decoded, spec)
    return LoadedImage(pixels=pixels, width_px=decoded.width_px, height_px=decoded.height_px)


def preprocess(image: Image.Image, spec: Preprocess) -> Pixels:
    """One upright RGB image as the model's input, C-contiguous [3, H, W] or [H, W, 3].

    Raises:
        ValueError: if the image is not RGB.
        ImageRejected: BAD_DIMENSIONS if its shape is too extreme, or fixed and not the card's.
    """
    if image.mode != "RGB":
        raise ValueError(f"preprocessing wants an RGB image, got {image.mode}")
    width, height = image.size
    return _prepare(Decoded(image=image, width_px=width, height_px=height, box=(0, 0, width, height)), spec)


def _prepare(decoded: Decoded, spec: Preprocess) -> Pixels:
    resized = _resize(decoded, spec)
    pixels_HWC = _fit(np.asarray(resized), spec)
    if spec.channel_order == "BGR":
        pixels_HWC = pixels_HWC[:, :, ::-1]
    ordered = pixels_HWC.transpose(2, 0, 1) if spec.layout == "NCHW" else pixels_HWC
    return _scale(ordered, spec)


def resized_px(width_px: int, height_px: int, spec: Preprocess) -> tuple[int, int]:
    """The (width, height) an image of these sides has after the resize, before cut or pad."""
    if spec.resize == "none":
        return width_px, height_px
    if spec.resize == "squash":
        height, width = (math.floor(side / spec.crop_pct) for side in spec.size)
        return width, height
    anchor = min(width_px, height_px) if spec.resize == "shortest" else max(width_px, height_px)
    target = spec.resize_to or anchor
    return max(1, width_px * target // anchor), max(1, height_px * target // anchor)


def _resize(decoded: Decoded, spec: Preprocess) -> Image.Image:
    """The picture at the size that its full sides decide, whether or not a draft was decoded."""
    image, box = decoded.image, decoded.box
    size_px = resized_px(decoded.width_px, decoded.height_px, spec)
    if size_px == image.size and box == (0, 0, *image.size):
        return image
    if size_px[0] * size_px[1] > _MAX_RESIZED_PIXELS:
        full = f"{decoded.width_px} x {decoded.height_px} px"
        shown = f"{full} would become {size_px[0]} x {size_px[1]}"
        raise ImageRejected(RejectReason.BAD_DIMENSIONS, shown)
    if spec.antialias:
        return image.resize(size_px, Image.Resampling[spec.interpolation.upper()], box=box)
    point = {
        "nearest": Image.Resampling.NEAREST,
        "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
    }[spec.interpolation]
    return image.transform(size_px, Image.Transform.EXTENT, box, point)


def _fit(pixels_hwC: NDArray[np.uint8], spec: Preprocess) -> NDArray[np.uint8]:
    height, width = spec.size
    h, w, _ = pixels_hwC.shape
    if (h, w) == (height, width):
        return pixels_hwC
    if spec.crop == "none" and (h > height or w > width or spec.resize == "none"):
        shown = f"{w} x {h} px, the model takes {width} x {height} and its card allows no crop"
        raise ImageRejected(RejectReason.BAD_DIMENSIONS, shown)
    top, left = max(0, h - height) // 2, max(0, w - width) // 2
    cut_hwC = pixels_hwC[top : top + height, left : left + width]
    h, w, _ = cut_hwC.shape
    if (h, w) == (height, width):
        return cut_hwC
    padded_HWC = np.full((height, width, 3), spec.pad_value, dtype=np.uint8)
    top, left = (height - h) // 2, (width - w) // 2
    padded_HWC[top : top + h, left : left + w] = cut_hwC
    return padded_HWC


def _scale(pixels: NDArray[np.uint8], spec: Preprocess) -> Pixels:
    if spec.dtype == "uint8":
        return np.ascontiguousarray(pixels)
    if spec.is_identity:
        return pixels.astype(spec.dtype, order="C")
    factor, offset = _affine(spec)
    scaled = np.empty(pixels.shape, dtype=np.float32)
    np.multiply(pixels, factor, out=scaled)
    scaled += offset
    return scaled if spec.dtype == "float32" else scaled.astype(np.float16)


@lru_cache(maxsize=64)
def _affine(spec: Preprocess) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    std_C = np.array(spec.std)
    factor_C, offset_C = spec.scale / std_C, -np.array(spec.mean) / std_C
    if spec.channel_order == "BGR":
        factor_C, offset_C = factor_C[::-1], offset_C[::-1]
    shape = (3, 1, 1) if spec.layout == "NCHW" else (1, 1, 3)
    return factor_C.astype(np.float32).reshape(shape), offset_C.astype(np.float32).reshape(shape)


def _draft_px(spec: Preprocess) -> int:
    if spec.resize == "none":
        return 0
    return spec.draft * max(spec.resize_to or 0, *(math.ceil(side / spec.crop_pct) for side in spec.size))
