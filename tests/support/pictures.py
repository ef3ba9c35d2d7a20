"""Small distinct pictures for tests."""

import io

import numpy as np
from PIL import Image


def jpeg(width_px: int, height_px: int, *, seed: int) -> bytes:
    """A JPEG of smooth seeded colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width_px, height_px), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()
