"""Changes a training image as shops, phones and the web would, so that a model learns not to mind.

Each change happens with a probability of its own: another crop, other light, JPEG artefacts, fewer pixels, a
watermark, a mirror image. The seed decides all of it: the same bytes, settings and seed give the same pixels,
whoever asks. The changes are those of the robustness report (``degrade``); a picture much larger than the
model's input is made smaller first, because nothing of what is lost would reach the model.
"""

import io
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from pipeline.images.decode import decode
from pipeline.images.degrade import (
    JPEG_QUALITIES,
    WATERMARK_AREAS,
    WATERMARK_OPACITIES,
    WatermarkStyle,
    crop_shift,
    recompress_jpeg,
    relight,
    shrink,
    watermark,
)
from pipeline.images.preprocess import Pixels, preprocess
from pipeline.values import DecodeLimits, Preprocess

_LEAST_KEPT = 0.6  # of each side, by a crop
_ROOM = 1.5  # how much larger than the model's input a picture stays before it is changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """How likely each change is, 0 to 1.

    Raises:
        ValueError: a probability is none.
    """

    crop: float = 0.5
    light: float = 0.5
    jpeg: float = 0.3
    scale: float = 0.3
    watermark: float = 0.1
    flip: float = 0.5

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"the probability of {name} must lie between 0 and 1, got {value}")


NO_AUGMENT = Augment(crop=0, light=0, jpeg=0, scale=0, watermark=0, flip=0)


def augmented(data: bytes, spec: Preprocess, limits: DecodeLimits, augment: Augment, seed: int) -> Pixels:
    """One image, changed and prepared as ``preprocess`` would.

    Raises:
        ImageRejected: if these bytes are not an image that may be indexed, or cannot take the card's shape.
    """
    rng = np.random.default_rng(seed)
    image = _reduced(decode(data, limits), spec)
    happens = rng.random(6)
    inner = int(rng.integers(2**31))
    if happens[0] < augment.crop:
        image = crop_shift(image, keep=float(rng.uniform(_LEAST_KEPT, 1)), seed=inner)
    if happens[1] < augment.light:
        brightness, contrast = (float(value) for value in rng.uniform(0.6, 1.5, 2))
        image = relight(image, brightness=brightness, contrast=contrast, warmth=float(rng.uniform(-0.8, 0.8)))
    if happens[2] < augment.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if happens[3] < augment.scale:
        size_px = image.size
        image = shrink(image, max(8, round(float(rng.uniform(0.25, 0.9)) * min(size_px))))
        image = image.resize(size_px, Image.Resampling.BILINEAR)
    if happens[4] < augment.watermark:
        style = list(WatermarkStyle)[int(rng.integers(3))]
        opacity, area = float(rng.choice(WATERMARK_OPACITIES)), float(rng.choice(WATERMARK_AREAS))
        image = watermark(image, style, opacity=opacity, area=area, seed=inner)
    if happens[5] < augment.jpeg:
        with Image.open(io.BytesIO(recompress_jpeg(image, int(rng.choice(JPEG_QUALITIES))))) as again:
            image = again.convert("RGB")
    return preprocess(image, spec)


def _reduced(image: Image.Image, spec: Preprocess) -> Image.Image:
    most_px = round(_ROOM * max(*spec.size, spec.resize_to or 0))
    if spec.resize == "none" or min(image.size) <= most_px:
        return image
    factor = most_px / min(image.size)
    width_px, height_px = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width_px, height_px), Image.Resampling.BILINEAR, reducing_gap=2.0)
