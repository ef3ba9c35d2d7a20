"""Two losses that keep a new network's vectors comparable with those that an older model has stored.

* Harmonic triplets (FaceNet, 1503.03832, appendix): the batch's new vectors and the older model's of the same
  images are one pool; anchor, positive and negative may come from either side, and negatives are mined over
  both. Taken are triplets that mix the two: of new vectors alone the main loss takes care, and of older ones
  alone nothing can be learned.
* Influence (backward-compatible training, Shen et al., 2003.11942): ArcFace over new vectors with a
  classifier that is not trained: the mean of the older model's vectors of each class.

The older vectors are constants; so the new network comes to them. Legend: B images of a batch, b of them with
an older vector, P pooled vectors, T triplets, N images, C classes, D dimensions.
"""

import torch
from torch import Tensor, nn

from pipeline.train.losses import ArcFace, triplet_loss
from pipeline.train.mining import Miner, Triplets, mine
from pipeline.train.relation import within

_MARGIN = 0.2


def harmonic_loss(
    e_BD: Tensor,
    old_bD: Tensor,
    labels_B: Tensor,
    labels_b: Tensor,
    miner: Miner,
    *,
    margin: float = _MARGIN,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The triplet loss of triplets that mix new and older vectors; those of one image are a positive."""
    pool_PD, labels_P = torch.cat([e_BD, old_bD]), torch.cat([labels_B, labels_b])
    found = mine(
        pool_PD.detach(), pool_PD.detach(), within(labels_P), miner, margin=margin, generator=generator
    )
    places_3T = torch.stack([found.anchor_T, found.positive_T, found.negative_T])
    is_new_3T = places_3T < len(e_BD)
    mixed_T = is_new_3T.any(dim=0) & ~is_new_3T.all(dim=0)
    anchor_T, positive_T, negative_T = places_3T[:, mixed_T]
    mixed = Triplets(anchor_T=anchor_T, positive_T=positive_T, negative_T=negative_T)
    return triplet_loss(pool_PD, pool_PD, mixed, margin=margin)


class Influence(nn.Module):
    """The older model's classes as a classifier; classes without an older vector are out."""

    def __init__(self, old_ND: Tensor, labels_N: Tensor, n_classes: int) -> None:
        """Older vectors of images to train on, and their classes, below ``n_classes``."""
        super().__init__()
        classes_C, number_N = labels_N.unique(return_inverse=True)
        sums_CD = old_ND.new_zeros(len(classes_C), old_ND.shape[1]).index_add_(0, number_N, old_ND)
        self._number_of = torch.full((n_classes,), -1, device=labels_N.device)
        self._number_of[classes_C] = torch.arange(len(classes_C), device=labels_N.device)
        self._arcface = ArcFace(old_ND.shape[1], len(classes_C)).to(old_ND.device)
        with torch.no_grad():
            self._arcface.weight_CD.copy_(sums_CD)
        self.requires_grad_(requires_grad=False)

    def forward(self, e_BD: Tensor, labels_B: Tensor) -> Tensor:
        """The loss of the images whose classes the older model knows; 0 if it knows none."""
        number_B = self._number_of[labels_B]
        known_B = number_B >= 0
        if not known_B.any():
            return e_BD.sum() * 0
        loss: Tensor = self._arcface(e_BD[known_B], number_B[known_B])
        return loss
