"""What an older model has stored of a training's images, to stay comparable with. No torch here.

1. Stored vectors are joined with the images by id.
2. Of the classes set apart, half choose the best step and half judge what came of it; images without a stored
   vector do neither.

Legend: N images of the training, M rows of the snapshot, D dimensions.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.evaluate.paired import MIN_GROUPS
from pipeline.model.card import class_draw
from pipeline.train.labelled import LabelledImages


@dataclass(frozen=True, slots=True, kw_only=True)
class OlderModel:
    """A snapshot, by its digest, and the model it is of; ``label`` is what the training learns from."""

    model_id: str
    name: str
    collection: str
    snapshot: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredVectors:
    """The older model's unit vectors of N images, zeros where it has none."""

    of: OlderModel
    x_ND: NDArray[np.float32]
    has_N: NDArray[np.bool_]

    def take(self, places: NDArray[np.int64]) -> "StoredVectors":
        """Those of some of the images, in this order."""
        return replace(self, x_ND=self.x_ND[places], has_N=self.has_N[places])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Older:
    """Stored vectors, the places of the images that judge, and what the draws of their classes reach up to.

    No class whose draw is not above ``up_to`` has any part in a training with the same seed.
    """

    vectors: StoredVectors
    judge: NDArray[np.int64]
    up_to: str


def joined(
    of: OlderModel, image_ids: Sequence[str], stored_ids: Sequence[str], x_MD: NDArray[np.float32]
) -> StoredVectors:
    """The stored vectors of these images, by id.

    Raises:
        UsageError: none of them is stored.
    """
    row_of = {image_id: row for row, image_id in enumerate(stored_ids)}
    rows_N = np.array([row_of.get(image_id, -1) for image_id in image_ids], dtype=np.int64)
    has_N = rows_N >= 0
    if not has_N.any():
        raise UsageError(
            f"none of the {len(image_ids)} images to train on is in collection {of.collection!r}: it has ids "
            f"such as {next(iter(stored_ids), 'none')!r}, the source has {next(iter(image_ids), 'none')!r}",
            fix="train on the source that the collection was made from, or on images with the same ids",
        )
    x_ND = np.zeros((len(rows_N), x_MD.shape[1]), dtype=np.float32)
    x_ND[has_N] = x_MD[rows_N[has_N]]
    return StoredVectors(of=of, x_ND=x_ND, has_N=has_N)


def set_apart(
    images: LabelledImages, held: NDArray[np.int64], vectors: StoredVectors, seed: int
) -> tuple[NDArray[np.int64], Older]:
    """Of the places of images set apart, those that choose the best step; the others judge it.

    Half of the classes judge, those with the smaller draws.

    Raises:
        UsageError: images have several labels, or too few classes of those set apart are stored.
    """
    if images.labels.ndim != 1:
        raise UsageError(
            "a training that is to be comparable with an older model takes one label for each image",
            fix="leave train.separator away",
        )
    stored = held[vectors.has_N[held]]
    classes = sorted(set(images.labels[stored].tolist()), key=lambda one: class_draw(images.names[one], seed))
    judging = classes[: len(classes) // 2]
    judges = np.isin(images.labels[stored], judging)
    n_choose, n_judge = (_n_with_pairs(images.labels[part]) for part in (stored[~judges], stored[judges]))
    if n_choose == 0 or n_judge < MIN_GROUPS:
        raise UsageError(
            f"of the classes set apart, {n_choose} can choose the best step and {n_judge} judge it; expected "
            f"at least 1 and {MIN_GROUPS} (half of them each, with two images that have a vector in "
            f"collection {vectors.of.collection!r})",
            fix="raise train.validation_share, or train on more classes that the collection has",
        )
    older = Older(vectors=vectors, judge=stored[judges], up_to=class_draw(images.names[judging[-1]], seed))
    return stored[~judges], older


def _n_with_pairs(labels_N: NDArray[np.int64] | NDArray[np.bool_]) -> int:
    """How many classes have two images or more."""
    return sum(count > 1 for count in Counter(labels_N.tolist()).values())
