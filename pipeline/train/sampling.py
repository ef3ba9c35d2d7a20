"""Plans which images each step sees: P classes with K images each, the same for any number of workers.

The plan of a step follows from the seed and the step's number alone, so a run that was killed goes on with
the very batches it would have had. An epoch is one pass over the classes in a seeded order. A class with
fewer than K images gives some of them twice; one with a single image has no pair and gives none. Legend: N
images, B of a batch, L labels.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError

Labels = NDArray[np.int64] | NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class BatchPlan:
    """Batches of ``n_classes * n_images + n_random`` rows; ``labels`` int64 [N], or bool [N, L].

    FaceNet's own is 45 classes of 40 images. Of images with many labels, each label is a class, an image is
    taken once, and random ones fill the batch.
    """

    labels: Labels
    n_classes: int
    n_images: int
    n_random: int = 0
    seed: int = 0
    _members: list[NDArray[np.int64]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Finds the classes that have pairs.

        Raises:
            UsageError: there are fewer than two, or none has two images.
        """
        if min(self.n_classes, self.n_images) < 2 or self.n_random < 0:
            raise UsageError(
                f"a batch needs at least 2 classes of 2 images, got {self.n_classes} of {self.n_images}",
                fix="raise train.classes and train.images",
            )
        columns = self.labels.T if self.labels.ndim == 2 else None
        numbers = range(len(columns)) if columns is not None else np.unique(self.labels)
        members = [
            np.flatnonzero(columns[number] if columns is not None else self.labels == number)
            for number in numbers
        ]
        members = [rows for rows in members if len(rows) >= 2]
        if len(members) < 2:
            raise UsageError(
                f"training needs two classes with two images each, there are {len(members)} such classes "
                f"among {len(self.labels)} images",
                fix="choose a --label that several images share and that tells images apart",
            )
        object.__setattr__(self, "_members", members)

    @property
    def batch_size(self) -> int:
        """Rows of every batch."""
        return min(self.n_classes, len(self._members)) * self.n_images + self.n_random

    @property
    def steps_per_epoch(self) -> int:
        """Batches until every class was seen once; those left over wait for another epoch's order."""
        return max(1, len(self._members) // self.n_classes)

    def batch(self, step: int) -> NDArray[np.int64]:
        """The rows of batch ``step``, counted from 0 over all epochs: int64 [B]."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self._members))
        chosen = order[place * self.n_classes : (place + 1) * self.n_classes]
        rng = np.random.default_rng([self.seed, epoch, place])
        rows = [_drawn(self._members[number], self.n_images, rng) for number in chosen]
        rows.append(rng.integers(len(self.labels), size=self.n_random))
        together = np.concatenate(rows)
        return together if self.labels.ndim == 1 else _each_once(together, len(self.labels), rng)


def _drawn(rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    if len(rows) >= count:
        return rng.choice(rows, count, replace=False)
    return np.concatenate([rng.permutation(rows), rng.choice(rows, count - len(rows))])


def _each_once(rows: NDArray[np.int64], n_rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The rows without repetition, filled up with others as long as there are any."""
    kept = np.unique(rows)
    others = rng.permutation(np.setdiff1d(np.arange(n_rows), kept))[: len(rows) - len(kept)]
    filled = np.concatenate([kept, others])
    return np.concatenate([filled, rng.choice(filled, len(rows) - len(filled))])
