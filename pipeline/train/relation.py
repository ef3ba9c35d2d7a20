"""Says which images of a batch belong together: by one label each, or by how many labels they share.

Labels are int64 ``[N]``, one class each, or bool ``[N, L]``, any of L labels each. Two images of the second
kind are the same if they share at least ``at_least`` labels and different if they share none; what lies
between is neither, and no loss looks at it. Legend: A anchors, P images they are compared with.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Relation:
    """Which of A anchors and P others are the same and which are different.

    ``own_A`` is the place of each anchor among the others, -1 if it is not there: no image is its own
    partner. ``images``, the numbers of the images (-1 for those of the batch among the others), say which
    pairs are one image as it is and as it was some steps ago; they are not the same either.
    """

    labels_A: Tensor
    labels_P: Tensor
    own_A: Tensor
    at_least: int = 1
    images_A: Tensor | None = None
    images_P: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuses labels that do not fit together."""
        if self.labels_A.shape[1:] != self.labels_P.shape[1:] or len(self.own_A) != len(self.labels_A):
            raise ValueError(
                f"expected labels [A] and [P] or [A, L] and [P, L] with own [A], "
                f"got {list(self.labels_A.shape)}, {list(self.labels_P.shape)} and {list(self.own_A.shape)}"
            )

    def rows(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Which pairs of these anchors are the same, and which different: bool [stop - start, P]."""
        labels_A, own_A = self.labels_A[start:stop], self.own_A[start:stop]
        if self.labels_P.ndim == 1:
            same_AP = labels_A[:, None] == self.labels_P[None, :]
            different_AP = ~same_AP
        else:
            shared_AP = labels_A.float() @ self.labels_P.float().T
            same_AP, different_AP = shared_AP >= self.at_least, shared_AP == 0
        at_home_A = torch.nonzero(own_A >= 0).squeeze(1)
        same_AP[at_home_A, own_A[at_home_A]] = False
        different_AP[at_home_A, own_A[at_home_A]] = False
        if self.images_A is not None and self.images_P is not None:
            same_AP &= self.images_A[start:stop, None] != self.images_P[None, :]
        return same_AP, different_AP


def within(labels_N: Tensor, at_least: int = 1) -> Relation:
    """The images of one batch to each other."""
    own_N = torch.arange(len(labels_N), device=labels_N.device)
    return Relation(labels_A=labels_N, labels_P=labels_N, own_A=own_N, at_least=at_least)


def with_memory(
    labels_N: Tensor, labels_M: Tensor, images_N: Tensor, images_M: Tensor, at_least: int = 1
) -> Relation:
    """The images of a batch to themselves and to M remembered ones, which come after them."""
    own_N = torch.arange(len(labels_N), device=labels_N.device)
    return Relation(
        labels_A=labels_N,
        labels_P=torch.cat([labels_N, labels_M]),
        own_A=own_N,
        at_least=at_least,
        images_A=images_N,
        images_P=torch.cat([torch.full_like(images_N, -1), images_M]),
    )
