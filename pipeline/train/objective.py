"""Puts a loss together from settings: what it mines, what it remembers, what it learns of its own.

Multi-similarity and the proxy losses come from pytorch-metric-learning, which has them right; its triplet,
contrastive and N-pair losses have other definitions than the papers' and are not used (science page, section
5).
"""

import math
import random
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import TrainConfig
from pipeline.errors import UsageError
from pipeline.train.heads import CombinedDescriptor
from pipeline.train.losses import (
    ArcFace,
    AuxiliarySoftmax,
    contrastive_loss,
    n_pair_loss,
    n_tuple_loss,
    triplet_loss,
)
from pipeline.train.memory import CrossBatchMemory
from pipeline.train.mining import Miner, mine
from pipeline.train.relation import Relation, with_memory, within
from pipeline.train.settings import has_classes

_MARGINS = {
    "triplet": 0.2,
    "contrastive": 0.5,
    "arcface": 0.5,
    "proxy-anchor": 0.1,
}
_SCALES = {
    "n-pair": 16.0,
    "n-tuple": 16.0,
    "arcface": 64.0,
    "proxy-anchor": 32.0,
    "proxy-nca": 8.0,
}


class Objective(nn.Module):
    """The loss of a whole batch, with parameters of its own where it learns a vector for each class."""

    def __init__(self, settings: TrainConfig, n_classes: int, head: nn.Module) -> None:
        super().__init__()
        self.settings = settings
        self.margin = settings.margin if settings.margin is not None else _MARGINS.get(settings.loss, 0.0)
        self.scale = settings.scale if settings.scale is not None else _SCALES.get(settings.loss, 1.0)
        self.memory = CrossBatchMemory(settings.memory)
        self.miner = Miner(settings.miner)
        self.classes = self._class_loss(n_classes)
        is_combined = isinstance(head, CombinedDescriptor)
        self.auxiliary = AuxiliarySoftmax(head.first_dim, n_classes) if is_combined and n_classes else None
        self.n_mined = 0

    def forward(self, e_BD: Tensor, labels_B: Tensor, images_B: Tensor, seed: int) -> Tensor:
        """The loss of unit vectors; remembers them.

        ``images_B`` are the numbers of the images, ``seed`` decides what miners draw.
        """
        loss = self._main(e_BD.float(), labels_B, images_B, seed)
        if self.auxiliary is not None:
            loss = loss + self.auxiliary(e_BD.float(), labels_B)
        self.memory.add(e_BD, labels_B, images_B)
        return loss

    def _main(self, e_BD: Tensor, labels_B: Tensor, images_B: Tensor, seed: int) -> Tensor:
        if self.classes is not None:
            return self.classes(e_BD, labels_B)
        if self.settings.loss == "multi-similarity":
            return _multi_similarity(e_BD, labels_B)
        if self.settings.loss == "n-pair":
            anchors_N, positives_N = one_pair_each(labels_B, seed)
            return n_pair_loss(e_BD[anchors_N], e_BD[positives_N], scale=self.scale)
        e_PD, relation = self._compared(e_BD, labels_B, images_B)
        if self.settings.loss == "contrastive":
            return contrastive_loss(e_BD, e_PD, relation, margin=self.margin)
        if self.settings.loss == "n-tuple":
            return n_tuple_loss(e_BD, e_PD, relation, scale=self.scale)
        generator = torch.Generator().manual_seed(seed)
        triplets = mine(
            e_BD.detach(), e_PD.detach(), relation, self.miner, margin=self.margin, generator=generator
        )
        self.n_mined = len(triplets)
        return triplet_loss(e_BD, e_PD, triplets, margin=self.margin)

    def _compared(self, e_BD: Tensor, labels_B: Tensor, images_B: Tensor) -> tuple[Tensor, Relation]:
        """What the batch is compared with: itself, then what is remembered."""
        at_least, held = self.settings.shared_labels, self.memory.held
        if held is None:
            return e_BD, within(labels_B, at_least)
        relation = with_memory(labels_B, held.labels_M, images_B, held.images_M, at_least)
        return torch.cat([e_BD, held.e_MD.to(e_BD)]), relation

    def _class_loss(self, n_classes: int) -> Any:
        loss, dim = self.settings.loss, self.settings.dim
        if not has_classes(self.settings):
            return None
        if n_classes == 0:
            raise UsageError(
                f"{loss} needs one label for each image, these have several",
                fix="use --loss triplet, contrastive or n-tuple with --set train.separator",
            )
        if loss == "arcface":
            return ArcFace(dim, n_classes, scale=self.scale, margin=self.margin)
        from pytorch_metric_learning import losses

        if loss == "proxy-anchor":
            return losses.ProxyAnchorLoss(n_classes, dim, margin=self.margin, alpha=self.scale)
        return losses.ProxyNCALoss(n_classes, dim, softmax_scale=self.scale)


def one_pair_each(labels_B: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """For each class of a batch with two images or more, the places of an anchor and a positive."""
    by_class: dict[int, list[int]] = {}
    for place, label in enumerate(labels_B.tolist()):
        by_class.setdefault(label, []).append(place)
    drawn = random.Random(seed)  # noqa: S311 - chooses images, guards nothing
    pairs = [drawn.sample(places, 2) for places in by_class.values() if len(places) > 1]
    anchors_N, positives_N = torch.tensor(pairs, dtype=torch.int64, device=labels_B.device).reshape(-1, 2).T
    return anchors_N, positives_N


def _multi_similarity(e_BD: Tensor, labels_B: Tensor) -> Tensor:
    from pytorch_metric_learning import losses, miners

    pairs = miners.MultiSimilarityMiner()(e_BD, labels_B)
    return losses.MultiSimilarityLoss()(e_BD, labels_B, pairs)


def is_finite(loss: Tensor) -> bool:
    """Whether a loss is a number that can be learned from."""
    return math.isfinite(loss.item())
