"""Makes small pictures for reports: decoded and encoded anew, so that no byte of the original reaches a page.

A report shows whatever is in a catalog, polyglots and scripts in comments included; only pixels pass.
"""

import base64
import io

from PIL import Image

from pipeline.images.decode import decode_upright
from pipeline.values import DecodeLimits

_QUALITY = 82


def thumbnail_data_uri(data: bytes, side_px: int, limits: DecodeLimits | None = None) -> str:
    """The image as a ``data:image/jpeg;base64,`` URI whose longer side is at most ``side_px``.

    Small images are not enlarged. The same bytes give the same URI.

    Raises:
        ValueError: if ``side_px`` is below 1.
        ImageRejected: if these bytes are not an image that may be indexed.
    """
    if side_px < 1:
        raise ValueError(f"a thumbnail needs a side of at least 1 px, got {side_px}")
    small = decode_upright(data, limits or DecodeLimits(), draft_px=side_px).image
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS, reducing_gap=None)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY, comment=b"", icc_profile=None)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
