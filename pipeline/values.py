"""Small values that several rooms share: why images are refused, and how embedding is computed."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Literal

Provider = Literal["cpu", "cuda", "tensorrt"]
Precision = Literal["float32", "tf32", "float16"]
SearchDevice = Literal["cpu", "cuda", "auto"]


class RejectReason(StrEnum):
    """Why an image is not in the index. A closed set: reports, gates and retries are written against it.

    Each value names a fact about the image itself. A failure of the infrastructure (credentials, throttling,
    disk, memory of the node, network) is an error of the run and never one of these.
    """

    EMPTY = "empty"  # zero bytes
    TOO_LARGE = "too_large"  # more encoded bytes than the limit
    UNIDENTIFIED = "unidentified"  # no known image format begins like this
    FORMAT_NOT_ALLOWED = "format_not_allowed"  # an image, but of a format we do not open
    DECODE_TIMEOUT = "decode_timeout"  # decoding took longer than the limit
    DECODE_MEMORY = "decode_memory"  # decoding needs more memory than the limit
    DECODER_CRASH = "decoder_crash"  # the decoder killed its process
    TRUNCATED = "truncated"  # the data ends before the image does
    CORRUPT = "corrupt"  # the decoder gave up for another reason
    TOO_MANY_PIXELS = "too_many_pixels"  # refused before decoding
    BAD_DIMENSIONS = "bad_dimensions"  # a side is zero, or above the limit
    MODE_UNSUPPORTED = "mode_unsupported"  # a pixel layout we cannot turn into RGB
    NONFINITE_EMBEDDING = "nonfinite_embedding"  # the model answered NaN, infinity or a zero vector
    DUPLICATE_ID = "duplicate_id"  # the id was seen before in plan order; the first one wins
    AMBIGUOUS_SAMPLE = "ambiguous_sample"  # two images in one tar sample
    NOT_REGULAR = "not_regular"  # a link, device or sparse member of a tar
    BAD_ID = "bad_id"  # no usable id: null, empty, or not text
    SOURCE_NOT_ALLOWED = "source_not_allowed"  # a key that leads out of the source: a URL, .., another bucket
    SOURCE_MISSING = "source_missing"  # listed, but gone when it was to be read
    SOURCE_CHANGED = "source_changed"  # other bytes than were listed


SOURCE_REASONS = frozenset({RejectReason.SOURCE_MISSING, RejectReason.SOURCE_CHANGED})
"""Facts about a moment of the source: tried again every night, it costs one read."""
COSTLY_REASONS = frozenset(
    {RejectReason.DECODE_TIMEOUT, RejectReason.DECODE_MEMORY, RejectReason.DECODER_CRASH}
)
"""What may pass but costs a worker: tried on a few nights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """One image that was refused: the reason decides what happens next, the detail is for people."""

    image_id: str
    version: str
    reason: RejectReason
    detail: str
    locator: str = ""
    content_digest: str = ""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What an image may be at most, or must be at least; part of the embed configuration and its keys."""

    max_bytes: int = 64 * 1024 * 1024
    max_side_px: int = 16_384
    max_pixels: int = 80_000_000
    min_side_px: int = 1
    max_seconds: float = 20.0
    max_memory_bytes: int = 3 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """How a model wants its input: the metadata key ``bitsieve.preprocess``, schema 1.

    An image becomes RGB with its EXIF orientation applied and any alpha over white, is resized, then cropped
    or padded at its centre to ``size``, and each value 0..255 becomes ``(value * scale - mean) / std``. Pairs
    are (height, width); ``mean`` and ``std`` are in the order R, G, B whatever ``channel_order`` says. The
    values are *resolved*: a ``resize_to`` left out is worked out once, here, from ``size`` and ``crop_pct``,
    so that equal work means equal values.

    ``draft`` n > 0 lets the JPEG decoder shrink by 2, 4 or 8 while both sides stay at least n times the
    longest side of the resize; it changes pixels, so it is part of the model's identity. ``align`` states
    that images must already be aligned that way; nothing here aligns them.

    Raises:
        ValueError: for sizes, factors or combinations that describe no fixed-size input.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    schema: Literal[1] = 1
    size: tuple[int, int]
    resize: Literal["shortest", "longest", "squash", "none"]
    resize_to: int | None = None
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"
    antialias: bool = True
    crop: Literal["center", "none"] = "center"
    crop_pct: float = 1.0
    pad_value: int = 0
    exif_transpose: bool = True
    alpha: Literal["white"] = "white"
    channel_order: Literal["RGB", "BGR"] = "RGB"
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    draft: int = 0
    align: Literal["arcface5"] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", float(self.scale))
        object.__setattr__(self, "crop_pct", float(self.crop_pct))
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        self._check_numbers()
        self._check_geometry()
        if self.resize_to is None and self.resize in ("shortest", "longest"):
            side_px = min(self.size) if self.resize == "shortest" else max(self.size)
            object.__setattr__(self, "resize_to", math.floor(side_px / self.crop_pct))

    @property
    def is_identity(self) -> bool:
        """Whether pixels enter the model with the values 0..255 that they have."""
        return self.scale == 1 and self.mean == (0, 0, 0) and self.std == (1, 1, 1)

    def _check_numbers(self) -> None:
        numbers = (self.scale, *self.mean, *self.std)
        if not all(math.isfinite(value) for value in numbers) or self.scale == 0 or 0 in self.std:
            raise ValueError(
                f"scale and std must be finite and not 0, got {self.scale}, {self.std}; mean {self.mean}"
            )
        if self.dtype == "uint8" and not self.is_identity:
            raise ValueError("a uint8 input takes values 0..255 as they are: scale 1, mean 0,0,0, std 1,1,1")
        if not 0 <= self.pad_value <= 255 or not 0 <= self.draft <= 8:
            raise ValueError(
                f"pad_value must be 0..255 and draft 0..8, got {self.pad_value} and {self.draft}"
            )

    def _check_geometry(self) -> None:
        if not all(1 <= side <= 8192 for side in self.size) or not 0.1 <= self.crop_pct <= 1:
            raise ValueError(f"size must be 1..8192 and crop_pct .1..1, got {self.size} and {self.crop_pct}")
        if self.resize_to is not None and not 1 <= self.resize_to <= 16384:
            raise ValueError(f"resize_to must be 1..16384, got {self.resize_to}")
        if self.resize_to is not None and self.resize not in ("shortest", "longest"):
            raise ValueError(f"resize_to belongs to resize shortest or longest, not to {self.resize}")
        if self.crop == "none" and (self.resize == "shortest" or self.crop_pct != 1):
            raise ValueError("without a centre crop this gives images of many sizes: set crop to center")
        if not self.antialias and self.interpolation not in ("nearest", "bilinear", "bicubic"):
            raise ValueError(
                f"{self.interpolation} exists only with antialias; use nearest, bilinear or bicubic"
            )
