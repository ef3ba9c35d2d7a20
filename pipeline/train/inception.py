"""FaceNet's Inception networks: NN2, NN3 and NN4 after table 2 of 1503.03832, and two small ones.

A module has up to four branches: 1x1; 1x1 then 3x3; 1x1 then 5x5; pooling then 1x1. Their outputs lie side by
side. NN3 is NN2 on 160 px. NN4 is NN2 on 96 px without 5x5 in 4e, 5a and 5b: that gives the 285 M
multiply-adds that the paper states. The layouts of NNS1 and NNS2 were never published: ours are thinner
copies of some stages, chosen to meet the published size and cost, and are called so. The paper normalises
with LRN; all reproductions, and this one by default, with BatchNorm. Sides divide as in the paper,
``ceil(side / stride)``. The last layer, 128 values of unit length, is the head's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Norm = Literal["batch", "lrn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One Inception module: filters of each branch, 0 where there is none; as in the paper's table.

    ``project`` 0 hands the pooled map on as it is. ``stride`` 2 halves the sides.
    """

    name: str
    one: int = 0
    three: tuple[int, int] = (0, 0)
    five: tuple[int, int] = (0, 0)
    pool: Literal["max", "l2"] = "max"
    project: int = 0
    stride: int = 1


NN2 = (
    Stage(name="3a", one=64, three=(96, 128), five=(16, 32), pool="max", project=32),
    Stage(name="3b", one=64, three=(96, 128), five=(32, 64), pool="l2", project=64),
    Stage(name="3c", three=(128, 256), five=(32, 64), stride=2),
    Stage(name="4a", one=256, three=(96, 192), five=(32, 64), pool="l2", project=128),
    Stage(name="4b", one=224, three=(112, 224), five=(32, 64), pool="l2", project=128),
    Stage(name="4c", one=192, three=(128, 256), five=(32, 64), pool="l2", project=128),
    Stage(name="4d", one=160, three=(144, 288), five=(32, 64), pool="l2", project=128),
    Stage(name="4e", three=(160, 256), five=(64, 128), stride=2),
    Stage(name="5a", one=384, three=(192, 384), five=(48, 128), pool="l2", project=128),
    Stage(name="5b", one=384, three=(192, 384), five=(48, 128), pool="max", project=128),
)
NN4 = tuple(replace(stage, five=(0, 0)) if stage.name in ("4e", "5a", "5b") else stage for stage in NN2)
SMALL = tuple(stage for stage in NN2 if stage.name in ("3a", "3b", "3c", "4a", "4e"))


class InceptionNet(nn.Module):
    """The stem and ``stages`` of NN2: pixels to a map of ``channels`` channels at 1/32 of the sides."""

    def __init__(self, stages: Sequence[Stage], *, width: float = 1.0, norm: Norm = "batch") -> None:
        """``width`` multiplies every number of filters, rounded to multiples of 8."""
        super().__init__()
        stem, second, third = (scaled(filters, width) for filters in (64, 64, 192))
        self.stem = nn.Sequential(
            Conv(3, stem, 7, 2, norm),
            nn.MaxPool2d(3, 2, 1),
            _local_response(norm),
            Conv(stem, second, 1, 1, norm),
            Conv(second, third, 3, 1, norm),
            _local_response(norm),
            nn.MaxPool2d(3, 2, 1),
        )
        modules, channels = [], third
        for stage in stages:
            module = InceptionModule(channels, _thinner(stage, width), norm)
            modules.append(module)
            channels = module.channels
        self.stages = nn.Sequential(*modules)
        self.channels = channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, C, ceil(H / 32), ceil(W / 32)]."""
        return self.stages(self.stem(x_BCHW))


class SmallInceptionNet(nn.Module):
    """NNS1-like and NNS2-like: a thin ``InceptionNet``, flattened into one hidden layer: a map of 1 x 1."""

    def __init__(self, *, width: float, hidden: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.trunk = InceptionNet(SMALL, width=width)
        height, wide = (-(-side // 32) for side in size)
        self.hidden = nn.Linear(self.trunk.channels * height * wide, hidden)
        self.channels = hidden

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, 3, H, W] of the one size it was made for to [B, C, 1, 1]."""
        return functional.relu(self.hidden(self.trunk(x_BCHW).flatten(1)))[:, :, None, None]


class InceptionModule(nn.Module):
    """One row of the table."""

    def __init__(self, channels: int, stage: Stage, norm: Norm) -> None:
        super().__init__()
        branches: list[nn.Module] = []
        if stage.one:
            branches.append(Conv(channels, stage.one, 1, 1, norm))
        for side, (reduced, filters) in ((3, stage.three), (5, stage.five)):
            if filters:
                reduce = Conv(channels, reduced, 1, 1, norm)
                branches.append(nn.Sequential(reduce, Conv(reduced, filters, side, stage.stride, norm)))
        pool = nn.MaxPool2d(3, stage.stride, 1) if stage.pool == "max" else L2Pool()
        project = [Conv(channels, stage.project, 1, 1, norm)] if stage.project else []
        branches.append(nn.Sequential(pool, *project))
        self.branches = nn.ModuleList(branches)
        self.channels = stage.one + stage.three[1] + stage.five[1] + (stage.project or channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The branches' channels side by side."""
        return torch.cat([branch(x_BCHW) for branch in self.branches], dim=1)


class Conv(nn.Sequential):
    """A convolution that keeps sides (or divides them by ``stride``, rounded up), its norm, ReLU."""

    def __init__(self, channels: int, filters: int, side: int, stride: int, norm: Norm) -> None:
        convolve = nn.Conv2d(channels, filters, side, stride, padding=side // 2)
        normalise = [nn.BatchNorm2d(filters)] if norm == "batch" else []
        super().__init__(convolve, *normalise, nn.ReLU())


class L2Pool(nn.Module):
    """``sqrt(sum x^2)`` over windows of 3 x 3, padded with zeros; a sum, not a mean."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        summed_BCHW = 9 * functional.avg_pool2d(x_BCHW.square(), 3, stride=1, padding=1)
        return (summed_BCHW + 1e-12).sqrt()  # the root's slope at 0 has no bound


def scaled(filters: int, width: float) -> int:
    """``filters`` times ``width``, to the nearest multiple of 8, at least 8; 0 stays 0."""
    return 0 if filters == 0 else filters if width == 1 else max(8, round(filters * width / 8) * 8)


def _thinner(stage: Stage, width: float) -> Stage:
    return replace(
        stage,
        one=scaled(stage.one, width),
        three=(scaled(stage.three[0], width), scaled(stage.three[1], width)),
        five=(scaled(stage.five[0], width), scaled(stage.five[1], width)),
        project=scaled(stage.project, width),
    )


def _local_response(norm: Norm) -> nn.Module:
    return nn.LocalResponseNorm(5) if norm == "lrn" else nn.Identity()
