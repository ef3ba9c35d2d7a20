"""Builds the network that a name stands for: pixels 0..255 in, unit vectors out.

Names: ``tiny``, ``nn1`` to ``nn4``, ``nns1-like``, ``nns2-like``, ``vgg11``, ``vgg16``, ``vgg19``, ``hf:…``
and ``timm:…``. A FaceNet network may be thinner: ``nn2:0.25`` has a quarter of its filters. Pixels are
normalised inside the network, so that what is exported takes them as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.errors import UsageError
from pipeline.train.foreign_nets import Pixels, timm_trunk, transformers_trunk
from pipeline.train.heads import EmbeddingHead, make_head
from pipeline.train.inception import NN2, NN4, InceptionNet, SmallInceptionNet
from pipeline.train.plain_nets import NN1_SIDE, Nn1, TinyNet, Vgg
from pipeline.train.pooling import AveragePool

_CENTRED: Pixels = ((127.5, 127.5, 127.5), (128.0, 128.0, 128.0))


Size = tuple[int, int]  # height, width


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A network of our own, made for a size and, where it can be thinner, a share of its filters."""

    make: Callable[[Size, float], nn.Module]
    size: Size
    thinner: bool = False


_KNOWN: dict[str, _Known] = {
    "tiny": _Known(make=lambda _size, _width: TinyNet(), size=(64, 64)),
    "nn1": _Known(
        make=lambda size, width: Nn1(size=size, width=width), size=(NN1_SIDE, NN1_SIDE), thinner=True
    ),
    "nn2": _Known(make=lambda _size, width: InceptionNet(NN2, width=width), size=(224, 224), thinner=True),
    "nn3": _Known(make=lambda _size, width: InceptionNet(NN2, width=width), size=(160, 160), thinner=True),
    "nn4": _Known(make=lambda _size, width: InceptionNet(NN4, width=width), size=(96, 96), thinner=True),
    "nns1-like": _Known(
        make=lambda size, width: SmallInceptionNet(width=0.55 * width, hidden=round(1216 * width), size=size),
        size=(165, 165),
        thinner=True,
    ),
    "nns2-like": _Known(
        make=lambda size, width: SmallInceptionNet(width=0.16 * width, hidden=round(1216 * width), size=size),
        size=(140, 116),
        thinner=True,
    ),
    "vgg11": _Known(make=lambda _size, _width: Vgg(11), size=(224, 224)),
    "vgg16": _Known(make=lambda _size, _width: Vgg(16), size=(224, 224)),
    "vgg19": _Known(make=lambda _size, _width: Vgg(19), size=(224, 224)),
}


class EmbeddingNet(nn.Module):
    """Normalises pixels, runs the trunk, and the head: what is trained and what is exported."""

    def __init__(self, trunk: nn.Module, head: nn.Module, pixels: Pixels = _CENTRED) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in pixels)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """uint8 or float [B, 3, H, W] of values 0..255, RGB, to float32 [B, D] of unit length."""
        return self.head(self.trunk((pixels_BCHW.float() - self.pixel_mean) / self.pixel_std))


class _FeatureNet(EmbeddingNet):
    """A network whose trunk is elsewhere: its input are features, already pooled."""

    def __init__(self, n_features: int, dim: int) -> None:
        super().__init__(nn.Identity(), EmbeddingHead(AveragePool(), n_features, dim))

    def forward(self, features_BF: Tensor) -> Tensor:
        """Float [B, F] to float32 [B, D] of unit length."""
        return self.head(features_BF[:, :, None, None])


def build_network(name: str, *, pooling: str, dim: int, size: Size | None = None) -> EmbeddingNet:
    """The network of this name with a head of its own, untrained or with the weights it is published with.

    Some are made for images of one ``size``: the published one if absent.

    Raises:
        UsageError: there is none of that name.
        ModelError: another library cannot give it.
    """
    scheme, colon, where = name.partition(":")
    if colon and scheme in ("hf", "timm"):
        trunk, pixels = transformers_trunk(where) if scheme == "hf" else timm_trunk(where)
        return EmbeddingNet(trunk, make_head(pooling, int(trunk.channels), dim), pixels)
    known, width = _known(name)
    trunk = known.make(size or known.size, width)
    return EmbeddingNet(trunk, make_head(pooling, int(trunk.channels), dim))


def feature_network(n_features: int, dim: int) -> EmbeddingNet:
    """A head alone, for features [B, F] that a frozen trunk gave."""
    return _FeatureNet(n_features, dim)


def input_size(name: str, wanted: Size | None) -> Size:
    """The (height, width) a network takes: the one that is wanted, or the one it was published with.

    Raises:
        UsageError: there is none of that name.
    """
    if name.startswith(("hf:", "timm:")):
        return wanted or (224, 224)
    return wanted or _known(name)[0].size


def _known(name: str) -> tuple[_Known, float]:
    """The network and the share of its filters."""
    base, colon, width = name.partition(":")
    if base not in _KNOWN:
        raise UsageError(
            f"there is no network {name!r}",
            fix=f"one of {', '.join(_KNOWN)}, hf:FOLDER_OR_NAME, timm:NAME, or onnx:FILE for a frozen trunk",
        )
    if not colon:
        return _KNOWN[base], 1.0
    try:
        share = float(width)
    except ValueError:
        share = 0.0
    if not (_KNOWN[base].thinner and 0 < share <= 1):
        raise UsageError(
            f"there is no network {name!r}: a share of the filters lies above 0 and up to 1",
            fix="for example nn2:0.25; nn1 to nn4, nns1-like and nns2-like can be thinner",
        )
    return _KNOWN[base], share
