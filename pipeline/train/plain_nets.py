"""Networks that are plain stacks: FaceNet's NN1, VGG, and a tiny one for processors.

NN1 is table 1 of 1503.03832, after Zeiler and Fergus with 1x1 convolutions. VGG is configurations A, D and E
of Simonyan and Zisserman, 1409.1556, without its classifier. ``TinyNet`` is ours: four stages of separable
convolutions.
"""

import itertools

from torch import Tensor, nn

from pipeline.train.inception import Conv, Norm, scaled

NN1_SIDE = 220
_NN1_LAYERS: tuple[tuple[int, int] | str, ...] = (
    *((1, 64), (3, 192), "pool", (1, 192), (3, 384), "pool"),
    *((1, 384), (3, 256), (1, 256), (3, 256), (1, 256), (3, 256), "pool"),
)
_VGG_LAYERS = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_VGG_FILTERS = (64, 128, 256, 512, 512)


class Nn1(nn.Module):
    """NN1: the convolutions and two fully connected maxout layers; a map of 4096 x 1 x 1, for one ``size``.

    The paper has local response normalisation after the first pooling and before the second; with ``batch``
    every convolution has BatchNorm instead. ``width`` multiplies every number of filters.
    """

    def __init__(
        self, norm: Norm = "lrn", *, size: tuple[int, int] = (NN1_SIDE, NN1_SIDE), width: float = 1.0
    ) -> None:
        super().__init__()
        stem = scaled(64, width)
        layers: list[nn.Module] = [Conv(3, stem, 7, 2, norm), nn.MaxPool2d(3, 2, 1)]
        if norm == "lrn":
            layers.append(nn.LocalResponseNorm(5))
        channels, n_pools = stem, 0
        for layer in _NN1_LAYERS:
            if isinstance(layer, str):
                if norm == "lrn" and n_pools == 0:
                    layers.append(nn.LocalResponseNorm(5))
                layers.append(nn.MaxPool2d(3, 2, 1))
                n_pools += 1
            else:
                side, filters = layer[0], scaled(layer[1], width)
                layers.append(Conv(channels, filters, side, 1, norm))
                channels = filters
        self.features = nn.Sequential(*layers)
        height, wide = (-(-side // 32) for side in size)
        self.channels = scaled(4096, width)
        self.first = nn.Linear(channels * height * wide, 2 * self.channels)
        self.second = nn.Linear(self.channels, 2 * self.channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, 3, H, W] of the one size it was made for to [B, 4096, 1, 1]."""
        first_BF = _maxout(self.first(self.features(x_BCHW).flatten(1)))
        return _maxout(self.second(first_BF))[:, :, None, None]


class Vgg(nn.Module):
    """VGG of 11, 16 or 19 layers without its fully connected ones: 512 channels at 1/32 of the sides."""

    def __init__(self, depth: int, norm: Norm = "batch") -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for filters, count in zip(_VGG_FILTERS, _VGG_LAYERS[depth], strict=True):
            for _ in range(count):
                layers.append(Conv(channels, filters, 3, 1, norm))
                channels = filters
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.channels = channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, 512, ceil(H / 32), ceil(W / 32)]."""
        return self.features(x_BCHW)


class TinyNet(nn.Module):
    """A stem and three stages of separable convolutions, each halving the sides: about 60,000 parameters."""

    def __init__(self, filters: tuple[int, int, int, int] = (24, 48, 96, 160)) -> None:
        super().__init__()
        layers: list[nn.Module] = [Conv(3, filters[0], 3, 2, "batch")]
        for channels, wider in itertools.pairwise(filters):
            layers += [_separable(channels, channels, 1), _separable(channels, wider, 2)]
        self.features = nn.Sequential(*layers, _separable(filters[-1], filters[-1], 1))
        self.channels = filters[-1]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, 160, ceil(H / 16), ceil(W / 16)]."""
        return self.features(x_BCHW)


def _separable(channels: int, filters: int, stride: int) -> nn.Module:
    each = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return nn.Sequential(each, nn.BatchNorm2d(channels), Conv(channels, filters, 1, 1, "batch"))


def _maxout(x_BF: Tensor) -> Tensor:
    """The larger of two values for each unit: [B, 2 F] to [B, F]."""
    return x_BF.unflatten(1, (-1, 2)).amax(dim=2)
