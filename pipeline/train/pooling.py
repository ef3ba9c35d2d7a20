"""Turns a feature map into one vector: average, maximum, generalised mean, or maxima of regions.

Every pooling takes ``x_BCHW`` (B images, C channels, after a ReLU unless said otherwise) and gives ``[B,
C]``. Nothing here normalises but R-MAC, whose definition does. Legend: B images, C channels, H x W positions.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

_WANTED_OVERLAP = 0.4
_EPSILON = 1e-6
Convention = Literal["paper", "cirtorch"]


class AveragePool(nn.Module):
    """The mean over positions (SPoC)."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C]."""
        return x_BCHW.mean(dim=(2, 3))


class MaxPool(nn.Module):
    """The maximum over positions (MAC)."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C]."""
        return x_BCHW.amax(dim=(2, 3))


class GeM(nn.Module):
    """The generalised mean, ``mean(x ** p) ** (1 / p)`` with one learned ``p`` (1711.02512, eq. 3).

    Always in float32: in float16 a value above 40 overflows at p = 3. ``p`` is held at 1 or more, and
    optimisers must not decay it (see ``pipeline.train.optimise``). Values below ``1e-6`` count as that, so
    what is negative is lost.
    """

    def __init__(self, p: float = 3.0) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(float(p)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to float32 [B, C]."""
        p = self.p.float().clamp(min=1.0)
        return x_BCHW.float().clamp(min=_EPSILON).pow(p).mean(dim=(2, 3)).pow(1.0 / p)


class RMac(nn.Module):
    """Regional maxima of activations (1511.05879, section 3.2): the sum of the regions' unit maxima.

    The convention ``cirtorch`` adds the maximum over the whole map once more, as that library does. The map's
    sides must be the same at export as in use.
    """

    def __init__(self, levels: int = 3, convention: Convention = "paper") -> None:
        super().__init__()
        self.levels = levels
        self.convention = convention

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to unit vectors [B, C], in float32."""
        height, width = int(x_BCHW.shape[2]), int(x_BCHW.shape[3])
        x_BCHW = x_BCHW.float()
        maxima = [
            x_BCHW[:, :, y : y + side, x : x + side].amax(dim=(2, 3))
            for y, x, side in rmac_regions(height, width, self.levels)
        ]
        if self.convention == "cirtorch":
            maxima.append(x_BCHW.amax(dim=(2, 3)))
        summed_BC = torch.stack([functional.normalize(maximum, dim=1) for maximum in maxima]).sum(dim=0)
        return functional.normalize(summed_BC, dim=1)


def rmac_regions(height: int, width: int, levels: int = 3) -> list[tuple[int, int, int]]:
    """The square regions of a map as (top, left, side), level by level, top to bottom, left to right.

    Args:
        height: rows of the map.
        width: columns of the map.
        levels: level l has regions of side ``2 * min(height, width) // (l + 1)``.

    >>> rmac_regions(4, 4, levels=2)
    [(0, 0, 4), (0, 0, 2), (0, 2, 2), (2, 0, 2), (2, 2, 2)]
    """
    short = min(height, width)
    more = _more_along_the_long_side(height, width)
    more_down, more_right = (more, 0) if height > width else (0, more)
    regions = []
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        if side == 0:
            continue
        tops = _spread(height - side, level + more_down)
        lefts = _spread(width - side, level + more_right)
        regions += [(top, left, side) for top in tops for left in lefts]
    return regions


def _more_along_the_long_side(height: int, width: int) -> int:
    """How many regions more the long side has: as many as overlap by nearest to 40 %."""
    if height == width:
        return 0
    short, long = min(height, width), max(height, width)

    def off(steps: int) -> float:
        return abs((short - (long - short) / steps) / short - _WANTED_OVERLAP)

    return min(range(1, 7), key=off)


def _spread(room: int, count: int) -> list[int]:
    """``count`` places from 0 to ``room``, rounded down; one lies at 0."""
    return [0] if count == 1 else [place * room // (count - 1) for place in range(count)]


POOLINGS: dict[str, Callable[[], nn.Module]] = {
    "average": AveragePool,
    "max": MaxPool,
    "gem": GeM,
    "rmac": RMac,
    "rmac-cirtorch": lambda: RMac(convention="cirtorch"),
}
"""The poolings by the names that the command line knows."""
