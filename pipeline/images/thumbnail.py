"""Makes small pictures for reports: decoded and encoded anew, so that no byte of the original reaches a page.

A report shows whatever is in a catalog, polyglots and scripts in comments included; only pixels pass.
"""

import base64
import io

from PIL import Image

from pipeline.images.decode import decode_upright
from pipeline.values import DecodeLimits

_QUALITIES = (82, 70, 55, 40, 25)
_MOST_BYTES = 3_300  # a thousand of them in base64, with their captions, stay below 5 MB


def thumbnail_data_uri(data: bytes, side_px: int, limits: DecodeLimits | None = None) -> str:
    """The image as a ``data:image/jpeg;base64,`` URI whose longer side is at most ``side_px``.

    At most 3,300 bytes before base64: what needs more gets a lower quality, and then fewer pixels. Small
    images are not enlarged. The same bytes give the same URI.

    Raises:
        ValueError: if ``side_px`` is below 1.
        ImageRejected: if these bytes are not an image that may be indexed.
    """
    if side_px < 1:
        raise ValueError(f"a thumbnail needs a side of at least 1 px, got {side_px}")
    small = decode_upright(data, limits or DecodeLimits(), draft_px=side_px).image
    while True:
        small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS, reducing_gap=None)
        for quality in _QUALITIES:
            jpeg = _jpeg(small, quality)
            if len(jpeg) <= _MOST_BYTES:
                return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
        side_px = side_px * 3 // 4


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, comment=b"", icc_profile=None)
    return buffer.getvalue()
