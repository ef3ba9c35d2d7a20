"""Remembers the vectors of past batches as further negatives and positives (Wang et al., 1912.06798).

The network moves slowly, so vectors of some batches ago are nearly what it would give now. They carry no
gradient. An image's own older vector is neither: it is the nearest positive there is, and teaches nothing.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Remembered(NamedTuple):
    """M vectors with the labels and the numbers of their images, oldest first."""

    e_MD: Tensor
    labels_M: Tensor
    images_M: Tensor


class CrossBatchMemory:
    """The last ``size`` vectors."""

    def __init__(self, size: int) -> None:
        """``size`` 0 remembers nothing."""
        self.size = size
        self.held: Remembered | None = None

    def add(self, e_BD: Tensor, labels_B: Tensor, images_B: Tensor) -> None:
        """Remembers a batch and forgets the oldest."""
        if self.size == 0:
            return
        new = Remembered(e_BD.detach(), labels_B, images_B)
        if self.held is not None:
            new = Remembered(*(torch.cat(both) for both in zip(self.held, new, strict=True)))
        self.held = Remembered(*(values[-self.size :] for values in new))

    def state(self) -> dict[str, Tensor]:
        """All of it, for a checkpoint."""
        return {} if self.held is None else self.held._asdict()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from a checkpoint."""
        self.held = Remembered(**state) if state else None
