"""Remembers the vectors of past batches as further negatives and positives (Wang et al., 1912.06798).

The network moves slowly, so vectors of some batches ago are nearly what it would give now. They carry no
gradient.
"""

import torch
from torch import Tensor


class CrossBatchMemory:
    """The last ``size`` vectors and their labels, oldest first."""

    def __init__(self, size: int) -> None:
        """``size`` 0 remembers nothing."""
        self.size = size
        self._vectors: Tensor | None = None
        self._labels: Tensor | None = None

    def recall(self, e_BD: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """What the batch is compared with: itself, then what is remembered."""
        if self._vectors is None or self._labels is None:
            return e_BD, labels_B
        return torch.cat([e_BD, self._vectors.to(e_BD)]), torch.cat([labels_B, self._labels.to(labels_B)])

    def add(self, e_BD: Tensor, labels_B: Tensor) -> None:
        """Remembers a batch and forgets the oldest."""
        if self.size == 0:
            return
        vectors, labels = e_BD.detach(), labels_B
        if self._vectors is not None and self._labels is not None:
            vectors, labels = torch.cat([self._vectors, vectors]), torch.cat([self._labels, labels])
        self._vectors, self._labels = vectors[-self.size :], labels[-self.size :]

    def state(self) -> dict[str, Tensor | None]:
        """All of it, for a checkpoint."""
        return {"vectors": self._vectors, "labels": self._labels}

    def load(self, state: dict[str, Tensor | None]) -> None:
        """Goes on from a checkpoint."""
        self._vectors, self._labels = state["vectors"], state["labels"]
