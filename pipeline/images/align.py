"""Brings a face to the place where face models are trained to find it, by five points.

1. The similarity transform (turn, one scale, shift; no mirror) that takes the points nearest to those of the
   template, in least squares. In the plane it is one complex factor and one complex shift.
2. The upright picture is resampled once into a square of the template, averaged first where the face is more
   than twice as large. What lies outside the picture is black.

Points are the eye, eye, nose, mouth corner and mouth corner, those on the left of the picture first, as (x,
y) in pixels of the upright picture, 0 being the centre of the first pixel.
"""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.images.decode import decode
from pipeline.values import DecodeLimits

Floats = npt.NDArray[np.float64]

TEMPLATE_PX = 112
TEMPLATE_52: Floats = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""In a square of 112 pixels: where ArcFace (Deng et al. 2019, arXiv 1801.07698) has them in its crops."""


def aligned(data: bytes, points_52: Floats, side_px: int) -> bytes:
    """The face in ``data`` in a square of ``side_px``, as BMP, which loses nothing.

    Raises:
        ImageRejected: if ``data`` is not an image that may be indexed.
    """
    image = decode(data, DecodeLimits())
    factor, shift = _from_template(points_52)
    corner = shift + (1 - factor) * complex(0.5, 0.5)  # of the square; points count from centres of pixels
    step = factor * TEMPLATE_PX / side_px  # pixels of the picture for one of the square
    reduced = max(1, int(abs(step)))
    if reduced > 1:
        image = image.reduce(reduced)
    a, c = step / reduced, corner / reduced
    matrix = (a.real, -a.imag, c.real, a.imag, a.real, c.imag)
    return _written(
        image.transform(
            (side_px, side_px), Image.Transform.AFFINE, data=matrix, resample=Image.Resampling.BILINEAR
        )
    )


def centre_crop(data: bytes, share: float) -> bytes:
    """The square about the centre of ``data`` whose side is ``share`` of the short one, as BMP.

    Raises:
        ImageRejected: if ``data`` is not an image that may be indexed.
    """
    image = decode(data, DecodeLimits())
    side = max(1, min(round(share * min(image.size)), *image.size))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return _written(image.crop((left, top, left + side, top + side)))


def face_share(data: bytes, points_52: Floats) -> float:
    """The side of the square that ``aligned`` takes, as a share of the short side of the picture.

    Raises:
        ImageRejected: if ``data`` is not an image that may be indexed.
    """
    return abs(_from_template(points_52)[0]) * TEMPLATE_PX / min(decode(data, DecodeLimits()).size)


def _from_template(points_52: Floats) -> tuple[complex, complex]:
    """Factor and shift that take the template's points nearest to ``points_52``, as complex numbers."""
    to_5, from_5 = (one_52[:, 0] + 1j * one_52[:, 1] for one_52 in (points_52, TEMPLATE_52))
    from_mean, to_mean = from_5.mean(), to_5.mean()
    away_5 = from_5 - from_mean
    factor = complex((away_5.conj() * (to_5 - to_mean)).sum() / (np.abs(away_5) ** 2).sum())
    return factor, complex(to_mean - factor * from_mean)


def _written(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "BMP")
    return out.getvalue()
