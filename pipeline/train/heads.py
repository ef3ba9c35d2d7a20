"""Turns a feature map into the embedding: pooling, one linear layer, unit length.

Three heads. ``EmbeddingHead`` is the plain one. ``CombinedDescriptor`` joins several poolings (Jun et al.,
1903.10663), ``BatchDropHead`` joins the average with the maxima of what is left when one region is dropped
(Dai et al., 1811.07130). Each gives ``[B, D]`` of unit length in float32, whatever precision the trunk ran
in. Legend: B images, C channels, H x W positions, D dimensions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.train.pooling import POOLINGS, AveragePool, MaxPool

COMBINED, BATCH_DROP = "combined", "batch-drop"
_COMBINED_POOLINGS = ("average", "max", "gem")


def make_head(name: str, channels: int, dim: int) -> nn.Module:
    """The head of this name: a pooling's, ``combined`` or ``batch-drop``.

    Raises:
        ValueError: there is none of that name, or ``dim`` cannot be shared among its branches.
    """
    if name == COMBINED:
        return CombinedDescriptor(channels, dim, _COMBINED_POOLINGS)
    if name == BATCH_DROP:
        return BatchDropHead(channels, dim)
    if name not in POOLINGS:
        raise ValueError(f"no pooling {name!r}; there are {', '.join([*POOLINGS, COMBINED, BATCH_DROP])}")
    return EmbeddingHead(POOLINGS[name](), channels, dim)


class EmbeddingHead(nn.Module):
    """Pooling, a linear layer to D, unit length."""

    def __init__(self, pool: nn.Module, channels: int, dim: int) -> None:
        super().__init__()
        self.pool = pool
        self.project = nn.Linear(channels, dim)
        nn.init.zeros_(self.project.bias)  # else all vectors begin near to it

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, D]."""
        return unit(self.project(self.pool(x_BCHW)))


class CombinedDescriptor(nn.Module):
    """n poolings, each with a linear layer to its share of D and unit length, side by side.

    Shares differ by one where n does not divide D. The first branch is also the one for the auxiliary softmax
    (``losses.AuxiliarySoftmax``): its part of the embedding is ``embedding[:, :first_dim]``.
    """

    def __init__(self, channels: int, dim: int, poolings: Sequence[str]) -> None:
        super().__init__()
        if dim < len(poolings):
            raise ValueError(f"{len(poolings)} branches cannot share {dim} dimensions")
        share, rest = divmod(dim, len(poolings))
        self.branches = nn.ModuleList(
            EmbeddingHead(POOLINGS[name](), channels, share + (number < rest))
            for number, name in enumerate(poolings)
        )

    @property
    def first_dim(self) -> int:
        """How many dimensions the first branch has."""
        return int(self.branches[0].project.out_features)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, D]."""
        return unit(torch.cat([branch(x_BCHW) for branch in self.branches], dim=1))


class BatchDrop(nn.Module):
    """Sets one region to zero, the same in all images of the batch; does nothing outside of training.

    The place comes from torch's own generator, which the loop seeds at every step.
    """

    def __init__(self, height_ratio: float = 0.33, width_ratio: float = 1.0) -> None:
        super().__init__()
        self.height_ratio = height_ratio
        self.width_ratio = width_ratio

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        if not self.training:
            return x_BCHW
        height, width = int(x_BCHW.shape[2]), int(x_BCHW.shape[3])
        high, wide = round(self.height_ratio * height), round(self.width_ratio * width)
        top = int(torch.randint(0, height - high + 1, ()))
        left = int(torch.randint(0, width - wide + 1, ()))
        kept_HW = torch.ones(height, width, dtype=x_BCHW.dtype, device=x_BCHW.device)
        kept_HW[top : top + high, left : left + wide] = 0
        return x_BCHW * kept_HW


class BatchDropHead(nn.Module):
    """The average of the whole map and the maxima of the map with a dropped region, half of D each."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        if dim < 2:
            raise ValueError(f"2 branches cannot share {dim} dimensions")
        self.whole = EmbeddingHead(AveragePool(), channels, dim - dim // 2)
        self.drop = BatchDrop()
        self.dropped = EmbeddingHead(MaxPool(), channels, dim // 2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, D]."""
        return unit(torch.cat([self.whole(x_BCHW), self.dropped(self.drop(x_BCHW))], dim=1))


def unit(x_BD: Tensor) -> Tensor:
    """Rows of length 1, in float32; a row of zeros stays one."""
    return functional.normalize(x_BD.float(), dim=1)
