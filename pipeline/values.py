"""Small values that several rooms share: why an image was refused, and what was refused."""

from dataclasses import dataclass
from enum import StrEnum


class RejectReason(StrEnum):
    """Why an image is not in the index. A closed set: reports, gates and retries are written against it.

    Each value names a fact about the image itself. A failure of the infrastructure (credentials, throttling,
    disk, memory of the node, network) is an error of the run and never one of these.
    """

    EMPTY = "empty"  # zero bytes
    TOO_LARGE = "too_large"  # more encoded bytes than the limit
    UNIDENTIFIED = "unidentified"  # no known image format begins like this
    FORMAT_NOT_ALLOWED = "format_not_allowed"  # an image, but of a format we do not open
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
    SOURCE_MISSING = "source_missing"  # listed, but gone when it was to be read
    SOURCE_CHANGED = "source_changed"  # other bytes than were listed


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
