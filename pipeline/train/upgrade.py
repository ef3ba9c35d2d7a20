"""What a training with an older model adds to the loop: a loss, a validation, and the verdict at the end.

The verdict is that of ``pipeline.evaluate.adaptation``: new queries on old vectors, with none of the images
that judge having had a part in training or in the choice of the best step. Legend: B images of a batch, H
images set apart, N all images, D dimensions.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.errors import UsageError
from pipeline.evaluate.adaptation import LEAST_SHARE, Pairs, judge_unmapped
from pipeline.train.compatible import Influence, harmonic_loss
from pipeline.train.mining import Miner
from pipeline.train.stored import Older
from pipeline.train.validate import Validation, validate


class Upgrade:
    """The older model's side of a training; it follows from data and settings: no checkpoint holds it."""

    def __init__(
        self, settings: TrainConfig, older: Older, labels_N: Tensor, train: NDArray[np.int64]
    ) -> None:
        """``labels_N`` are the classes of all images, on the training's device, ``train`` some places.

        Raises:
            UsageError: the influence loss, and none of the images to train on is stored.
        """
        device = labels_N.device
        self._settings = settings
        self._older = older
        self._labels_N = labels_N
        self._old_ND = torch.from_numpy(older.vectors.x_ND).to(device)
        self._has_N = torch.from_numpy(older.vectors.has_N).to(device)
        self._miner = Miner(settings.miner)
        self._influence = None
        if settings.compatible_loss == "influence":
            known = torch.from_numpy(train[older.vectors.has_N[train]]).to(device)
            if not len(known):
                raise UsageError(
                    f"none of the {len(train)} images to train on has a vector in collection "
                    f"{older.vectors.of.collection!r}: the influence loss has nothing to learn from",
                    fix="train on images that the collection has, or leave --compatible-with away",
                )
            self._influence = Influence(self._old_ND[known], labels_N[known], int(labels_N.max()) + 1)

    def loss(self, e_BD: Tensor, images_B: Tensor, seed: int) -> Tensor:
        """What a batch adds, weighted; ``images_B`` are the places of its images."""
        weight, labels_B, has_B = (
            self._settings.compatible_weight,
            self._labels_N[images_B],
            self._has_N[images_B],
        )
        if self._influence is not None:
            return weight * self._influence(e_BD, labels_B)
        old_bD, labels_b = self._old_ND[images_B[has_B]], labels_B[has_B]
        generator = torch.Generator().manual_seed(seed)
        return weight * harmonic_loss(e_BD, old_bD, labels_B, labels_b, self._miner, generator=generator)

    def validate(self, e_HD: Tensor, held: NDArray[np.int64]) -> Validation:
        """How well these images' new vectors find old ones."""
        places_H = torch.from_numpy(held).to(e_HD.device)
        return validate(e_HD, self._labels_N[places_H], base_ND=self._old_ND[places_H])

    def judge(self, embed: Callable[[NDArray[np.int64]], Tensor], held: NDArray[np.int64]) -> dict[str, Any]:
        """The matrix of versions and the verdict as JSON values; the base is all images set apart."""
        older, seed = self._older, self._settings.seed
        places = np.concatenate([held, older.judge])
        names = [
            str(label)
            for label in self._labels_N[torch.from_numpy(places).to(self._labels_N.device)].tolist()
        ]
        pairs = Pairs(
            ids=[f"{place:012d}" for place in places.tolist()],
            new_NS=embed(places).cpu().numpy(),
            old_NT=older.vectors.x_ND[places],
            groups=names,
            labels=names,
        )
        found = judge_unmapped(pairs, np.arange(len(held), len(places)), LEAST_SHARE, seed)
        has_N = older.vectors.has_N
        return {
            **asdict(older.vectors.of),
            "n_joined": int(has_N.sum()),
            "n_missing": int((~has_N).sum()),
            "up_to": older.up_to,
            "n_base": len(places),
            "n_judged": found.n_judged,
            "least_share": LEAST_SHARE,
            "accepted": found.accepted,
            "verdict": found.verdict,
            "compatible": found.compatible,
            "matrix": [row.model_dump() for row in found.matrix],
        }
