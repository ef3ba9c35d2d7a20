"""Losses over unit vectors: what is the same comes closer, what differs moves apart.

All distances are squared L2 of unit vectors, ``d2 = 2 - 2 cos``, but in the contrastive loss, which is stated
in distances. A loss takes the batch's vectors, what they are compared with (the batch, or the batch and a
memory) and their relation. The siamese and the triplet network of the literature are one network: its vectors
meet here. Legend: A anchors, P images they are compared with, T triplets, N pairs, C classes, D dimensions.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.train.mining import Triplets, squared_distances
from pipeline.train.relation import Relation

_TINY = 1e-12
_COS_LIMIT = 1 - 1e-7


def triplet_loss(
    e_AD: Tensor,
    e_PD: Tensor,
    triplets: Triplets,
    *,
    margin: float = 0.2,
    mean_over: Literal["active", "all"] = "active",
) -> Tensor:
    """``max(0, d2(a, p) - d2(a, n) + margin)``, FaceNet (1503.03832) equation 3, as a mean.

    ``active`` divides by the triplets whose loss is above zero, ``all`` by all. Without triplets it is 0,
    with gradients of 0.
    """
    if len(triplets) == 0:
        return e_AD.sum() * 0
    anchor_TD = e_AD[triplets.anchor_T]
    d2_positive_T = (anchor_TD - e_PD[triplets.positive_T]).square().sum(dim=1)
    d2_negative_T = (anchor_TD - e_PD[triplets.negative_T]).square().sum(dim=1)
    loss_T = (d2_positive_T - d2_negative_T + margin).clamp(min=0)
    if mean_over == "all":
        return loss_T.mean()
    return loss_T.sum() / (loss_T > 0).sum().clamp(min=1)


def contrastive_loss(e_AD: Tensor, e_PD: Tensor, relation: Relation, *, margin: float = 0.5) -> Tensor:
    """``(y d^2 + (1 - y) max(0, margin - d)^2) / 2`` over all pairs (Hadsell 2006, eq. 4), as a mean.

    ``d`` is the distance, not squared. Of two images of one batch only one order counts.
    """
    same_AP, different_AP = relation.rows(0, len(e_AD))
    after_AP = torch.arange(len(e_PD), device=e_AD.device)[None, :] > relation.own_A[:, None]
    same_AP, different_AP = same_AP & after_AP, different_AP & after_AP
    d2_AP = squared_distances(e_AD, e_PD)
    apart_AP = (margin - (d2_AP + _TINY).sqrt()).clamp(min=0).square()
    n_pairs = (same_AP.sum() + different_AP.sum()).clamp(min=1)
    return (d2_AP[same_AP].sum() + apart_AP[different_AP].sum()) / 2 / n_pairs


def n_pair_loss(anchor_ND: Tensor, positive_ND: Tensor, *, scale: float = 16.0) -> Tensor:
    """``log(1 + sum_j exp(scale (a.p_j - a.p)))`` as a mean: the others' positives are the negatives.

    Sohn 2016, equation 7. Unit vectors need the scale: without it the loss cannot fall below ``log(1 + (N -
    1) / e^2)``.
    """
    products_NN = scale * (anchor_ND @ positive_ND.T)
    return functional.cross_entropy(products_NN, torch.arange(len(anchor_ND), device=anchor_ND.device))


def n_tuple_loss(e_AD: Tensor, e_PD: Tensor, relation: Relation, *, scale: float = 16.0) -> Tensor:
    """As ``n_pair_loss``, with each anchor-positive pair against all negatives of its anchor."""
    same_AP, different_AP = relation.rows(0, len(e_AD))
    products_AP = scale * (e_AD @ e_PD.T)
    against_A = products_AP.masked_fill(~different_AP, -torch.inf).logsumexp(dim=1)
    anchor_R, positive_R = torch.nonzero(same_AP & different_AP.any(dim=1)[:, None], as_tuple=True)
    if len(anchor_R) == 0:
        return e_AD.sum() * 0
    return functional.softplus(against_A[anchor_R] - products_AP[anchor_R, positive_R]).mean()


class ArcFace(nn.Module):
    """Softmax over classes with the true one's angle made larger by ``margin`` (1801.07698, eq. 3).

    Beyond ``pi - margin`` the target falls on linearly, as ``cos - margin sin(margin)``, so that it stays
    monotone.
    """

    def __init__(self, dim: int, n_classes: int, *, scale: float = 64.0, margin: float = 0.5) -> None:
        super().__init__()
        self.weight_CD = nn.Parameter(torch.randn(n_classes, dim) / math.sqrt(dim))
        self.scale = scale
        self.margin = margin

    def forward(self, e_AD: Tensor, labels_A: Tensor) -> Tensor:
        """The loss of unit vectors with class numbers below C."""
        cos_AC = e_AD @ functional.normalize(self.weight_CD, dim=1).T
        cos_A = cos_AC.gather(1, labels_A[:, None]).squeeze(1).clamp(-_COS_LIMIT, _COS_LIMIT)
        turned_A = torch.cos(torch.acos(cos_A) + self.margin)
        falling_A = cos_A - self.margin * math.sin(self.margin)
        target_A = torch.where(cos_A > math.cos(math.pi - self.margin), turned_A, falling_A)
        logits_AC = cos_AC.scatter(1, labels_A[:, None], target_A[:, None].to(cos_AC.dtype))
        return functional.cross_entropy(self.scale * logits_AC, labels_A)


class AuxiliarySoftmax(nn.Module):
    """Classification of the first branch of a ``CombinedDescriptor`` (1903.10663, section 3.2)."""

    def __init__(
        self, first_dim: int, n_classes: int, *, temperature: float = 0.5, smoothing: float = 0.1
    ) -> None:
        super().__init__()
        self.first_dim = first_dim
        self.temperature = temperature
        self.smoothing = smoothing
        self.classify = nn.Linear(first_dim, n_classes)

    def forward(self, e_AD: Tensor, labels_A: Tensor) -> Tensor:
        """The loss of whole embeddings, whose first ``first_dim`` values are the branch's."""
        branch_AF = functional.normalize(e_AD[:, : self.first_dim], dim=1)
        logits_AC = self.classify(branch_AF) / self.temperature
        return functional.cross_entropy(logits_AC, labels_A, label_smoothing=self.smoothing)
