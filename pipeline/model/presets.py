"""How well-known families of models want their images, by name, for files that do not say.

Sources: insightface's ``arcface_onnx.py`` (112 px, aligned by five points, RGB, ``(x - 127.5) / 127.5``);
OpenAI's ``clip.load`` (shortest side 224, bicubic, its own mean and std); DINOv2's evaluation transform (256,
cut to 224, ImageNet's mean and std); SigLIP's image processor (squashed, mean and std .5). The size is the
graph's where it states one.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pipeline.errors import ModelError
from pipeline.model.file import image_input
from pipeline.model.graph import describe, parse
from pipeline.values import Preprocess

_FIRST_NODES = 8


class Preset(StrEnum):
    """The families."""

    ARCFACE = "arcface"
    CLIP = "clip"
    DINOV2 = "dinov2"
    SIGLIP = "siglip"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    side: int
    resize: Literal["shortest", "squash"]
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_pct: float = 1.0
    align: Literal["arcface5"] | None = None


_HALF = (127.5, 127.5, 127.5)
_FAMILIES = {
    Preset.ARCFACE: _Family(
        side=112, resize="squash", interpolation="bilinear", mean=_HALF, std=_HALF, align="arcface5"
    ),
    Preset.CLIP: _Family(
        side=224,
        resize="shortest",
        interpolation="bicubic",
        mean=(255 * 0.48145466, 255 * 0.4578275, 255 * 0.40821073),
        std=(255 * 0.26862954, 255 * 0.26130258, 255 * 0.27577711),
    ),
    Preset.DINOV2: _Family(
        side=224,
        resize="shortest",
        interpolation="bicubic",
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        crop_pct=0.875,
    ),
    Preset.SIGLIP: _Family(side=224, resize="squash", interpolation="bicubic", mean=_HALF, std=_HALF),
}


def preset_input(data: bytes, where: str, preset: Preset, size: tuple[int, int] | None = None) -> Preprocess:
    """How the model in ``data`` wants its images if it is of this family.

    Args:
        data: an ONNX file.
        where: names it in errors.
        preset: the family.
        size: (height, width), if neither the graph's nor the family's own.

    Raises:
        ModelError: it takes no such input, or an ArcFace graph seems to normalise by itself.
    """
    proto = parse(data, where)
    tensor = image_input(describe(proto), where)
    family = _FAMILIES[preset]
    first = {node.op_type for node in proto.graph.node[:_FIRST_NODES]}
    if preset is Preset.ARCFACE and first >= {"Sub", "Mul"}:
        raise ModelError(
            f"{where} begins with Sub and Mul: it seems to normalise its pixels, and would do so twice",
            fix="say it in full: bitsieve model wrap … --size 112 --resize squash --scale 1 --mean 0,0,0 "
            "--std 1,1,1 --align arcface5",
        )
    shape = tensor.shape or ()
    is_last = shape[-1] == 3 and shape[1] != 3
    height, width = (shape[1], shape[2]) if is_last else (shape[2], shape[3])
    stated = None if height is None or width is None else (height, width)
    return Preprocess(
        size=size or stated or (family.side, family.side),
        resize=family.resize,
        interpolation=family.interpolation,
        crop="none" if family.resize == "squash" else "center",
        crop_pct=family.crop_pct,
        scale=1.0,
        mean=family.mean,
        std=family.std,
        layout="NHWC" if is_last else "NCHW",
        dtype="float16" if tensor.dtype == "float16" else "float32",
        align=family.align,
    )
