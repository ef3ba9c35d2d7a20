"""Builds the network that a name stands for: pixels 0..255 in, unit vectors out.

Names: ``tiny``, ``nn1`` to ``nn4``, ``nns1-like``, ``nns2-like``, ``vgg11``, ``vgg16``, ``vgg19``, ``hf:…``
and ``timm:…``. Pixels are normalised inside the network, so that what is exported takes them as they are.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A network of our own; ``fixed`` if it takes images of its size only."""

    make: Callable[[], nn.Module]
    size: tuple[int, int]
    fixed: bool = False


_KNOWN: dict[str, _Known] = {
    "tiny": _Known(make=TinyNet, size=(64, 64)),
    "nn1": _Known(make=Nn1, size=(NN1_SIDE, NN1_SIDE), fixed=True),
    "nn2": _Known(make=lambda: InceptionNet(NN2), size=(224, 224)),
    "nn3": _Known(make=lambda: InceptionNet(NN2), size=(160, 160)),
    "nn4": _Known(make=lambda: InceptionNet(NN4), size=(96, 96)),
    "nns1-like": _Known(
        make=lambda: SmallInceptionNet(width=0.55, hidden=1216, size=(165, 165)), size=(165, 165), fixed=True
    ),
    "nns2-like": _Known(
        make=lambda: SmallInceptionNet(width=0.16, hidden=1216, size=(140, 116)), size=(140, 116), fixed=True
    ),
    "vgg11": _Known(make=lambda: Vgg(11), size=(224, 224)),
    "vgg16": _Known(make=lambda: Vgg(16), size=(224, 224)),
    "vgg19": _Known(make=lambda: Vgg(19), size=(224, 224)),
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


def build_network(name: str, *, pooling: str, dim: int) -> EmbeddingNet:
    """The network of this name with a head of its own, untrained or with the weights it is published with.

    Raises:
        UsageError: there is none of that name.
        ModelError: another library cannot give it.
    """
    scheme, colon, where = name.partition(":")
    if colon and scheme in ("hf", "timm"):
        trunk, pixels = transformers_trunk(where) if scheme == "hf" else timm_trunk(where)
        return EmbeddingNet(trunk, make_head(pooling, int(trunk.channels), dim), pixels)
    trunk = _known(name).make()
    return EmbeddingNet(trunk, make_head(pooling, int(trunk.channels), dim))


def feature_network(n_features: int, dim: int) -> EmbeddingNet:
    """A head alone, for features [B, F] that a frozen trunk gave."""
    return _FeatureNet(n_features, dim)


def input_size(name: str, wanted: tuple[int, int] | None) -> tuple[int, int]:
    """The (height, width) a network takes: the one that is wanted, or the one it was published with.

    Raises:
        UsageError: there is none of that name, or it takes one size only.
    """
    if name.startswith(("hf:", "timm:")):
        return wanted or (224, 224)
    known = _known(name)
    if known.fixed and wanted not in (None, known.size):
        raise UsageError(f"{name} takes {known.size[0]}x{known.size[1]} px only", fix="leave train.size away")
    return wanted or known.size


def _known(name: str) -> _Known:
    if name not in _KNOWN:
        raise UsageError(
            f"there is no network {name!r}",
            fix=f"one of {', '.join(_KNOWN)}, hf:FOLDER_OR_NAME, timm:NAME, or onnx:FILE for a frozen trunk",
        )
    return _KNOWN[name]
