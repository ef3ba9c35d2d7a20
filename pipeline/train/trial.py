"""One training of an experiment: on some classes of a source, judged on others that it never saw.

1. The classes to judge by are set apart first, by a seed of their own: the same in every trial.
2. What remains is split into classes to train on and classes to validate on, as in any training; of those to
   train on a share of the images of each class may be kept.
3. The loop is the one of any training. The network of its best step, chosen on the validation classes, embeds
   the images set apart.

Legend: N images, D dimensions.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.errors import UsageError
from pipeline.fingerprint import task_key
from pipeline.train.checkpoint import load_weights
from pipeline.train.counting import count_mult_adds, count_parameters
from pipeline.train.examples import Examples, FeatureExamples
from pipeline.train.heads import unit
from pipeline.train.job import Advance, TrainJob, best_weights
from pipeline.train.labelled import LabelledImages, split_by_identity
from pipeline.train.loop import Data, Training
from pipeline.train.networks import EmbeddingNet, build_network
from pipeline.train.packed import PackedImages
from pipeline.train.results import training_result
from pipeline.train.settings import ONNX, square

Places = NDArray[np.int64]

_JUDGED_SHARE = 0.3
_JUDGED_SEED = 20150312  # any number that no training is likely to have
_VIEWS_SEED = 0
_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Roles:
    """Places of the images to train on, to validate on and to judge by; no class is in two of them."""

    train: Places
    validation: Places
    judged: Places


class SharedImages:
    """What all trials of an experiment share on this machine: the packed images, the features of a trunk."""

    def __init__(self, job: TrainJob, advance: Advance) -> None:
        if not _single(job.images):
            raise UsageError(
                "an experiment judges by one label for each image, these have several",
                fix="leave train.separator away",
            )
        torch.set_num_threads(max(1, int(job.settings.cpus or os.cpu_count() or 1)))
        self.packed: PackedImages = job.pack(advance)
        self.images = job.images.take(self.packed.kept)
        self.ids: list[str] = self.images.rows["image_id"].to_pylist()
        drawn_once = replace(job, settings=job.settings.model_copy(update={"seed": _VIEWS_SEED}))
        self._features = None if job.trunk is None else drawn_once.examples(self.packed, advance)

    def examples(self, job: TrainJob) -> Examples:
        """The inputs of a trial; a trunk's features are of the same views in all trials."""
        if isinstance(self._features, FeatureExamples):
            return self._features.with_seed(job.settings.seed)
        return job.examples(self.packed)

    def roles(self, settings: TrainConfig, share: float) -> Roles:
        """Who trains, validates and is judged.

        Raises:
            UsageError: there are too few classes, or images, to split.
        """
        rest, judged = split_by_identity(self.images, _JUDGED_SHARE, _JUDGED_SEED)
        train, validation = split_by_identity(
            _own_classes(self.images.take(rest)), settings.validation_share, settings.seed
        )
        return Roles(
            train=self._kept(rest[train], share, settings.seed), validation=rest[validation], judged=judged
        )

    def judged(self) -> tuple[list[str], list[str]]:
        """Ids and classes of the images to judge by."""
        _, judged = split_by_identity(self.images, _JUDGED_SHARE, _JUDGED_SEED)
        names, labels = self.images.names, self.images.labels
        return [self.ids[place] for place in judged], [names[int(labels[place])] for place in judged]

    def _kept(self, places: Places, share: float, seed: int) -> Places:
        """A share of the images of each class, two at least: those with the smallest sha256(seed, id)."""
        if share == 1:
            return places
        of_class: dict[int, list[int]] = {}
        for place in places.tolist():
            of_class.setdefault(int(self.images.labels[place]), []).append(place)
        kept: list[int] = []
        for those in of_class.values():
            those.sort(key=lambda place: hashlib.sha256(f"{seed}\0{self.ids[place]}".encode()).digest())
            kept += those[: max(2, round(share * len(those)))]
        return np.array(sorted(kept), dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """One training: ``job`` is of all images, ``share`` of those to train on is kept."""

    job: TrainJob
    shared: SharedImages
    share: float = 1.0

    @property
    def key(self) -> str:
        """The name of the training: what it is derived from."""
        facts = {"share": self.share, "judged": [_JUDGED_SHARE, _JUDGED_SEED], "views_seed": _VIEWS_SEED}
        return task_key("trial", 1, facts, [self.job.key()])

    def run(self, watch: Callable[[int], None]) -> dict[str, Any]:
        """Trains to the end, or goes on where a killed trial was; ``watch`` is called with the step."""
        present = training_result(self.job.store, self.key)
        if present is not None:
            return present
        roles = self.shared.roles(self.job.settings, self.share)
        return Training(
            self.job.network(),
            Data(
                labels=self.shared.images.labels,
                train=roles.train,
                held=roles.validation,
                n_classes=len(self.shared.images.names),
            ),
            _Watched(self.shared.examples(self.job), watch),
            self.job.settings,
            store=self.job.store,
            key=self.key,
            device="cuda" if self.job.settings.gpu else "cpu",
        ).run()

    def vectors(self) -> NDArray[np.float32]:
        """Unit vectors of the images to judge by, [N, D], after the best step."""
        net = self.job.network()
        load_weights(net, best_weights(self.job.store, self.key), f"trial {self.key[:16]}")
        return self._embedded(net.eval())

    def untrained(self) -> NDArray[np.float32]:
        """Unit vectors of the same images before any training: of the trunk itself, where it is frozen."""
        return self._embedded(None if self.job.trunk is not None else self.job.network().eval())

    def _embedded(self, net: EmbeddingNet | None) -> NDArray[np.float32]:
        examples = self.shared.examples(self.job)
        judged = self.shared.roles(self.job.settings, 1.0).judged
        parts = []
        with torch.no_grad():
            for start in range(0, len(judged), _AT_ONCE):
                inputs = examples.plain(judged[start : start + _AT_ONCE])
                parts.append(unit(inputs) if net is None else net(inputs))
        embedded: NDArray[np.float32] = torch.cat(parts).numpy()
        return embedded


class _Watched:
    """Examples that say which step they are for."""

    def __init__(self, examples: Examples, watch: Callable[[int], None]) -> None:
        self._examples = examples
        self._watch = watch

    def batch(self, places_B: Places, step: int, offset: int) -> Tensor:
        """See ``Examples``."""
        self._watch(step)
        return self._examples.batch(places_B, step, offset)

    def plain(self, places_B: Places) -> Tensor:
        """See ``Examples``."""
        return self._examples.plain(places_B)


def cost_of(settings: TrainConfig) -> tuple[int, int] | tuple[None, None]:
    """Parameters of the network of these settings, and multiply-adds of one image.

    None of networks of other libraries: they load weights, which the meta device has no place for.
    """
    if settings.network.startswith((ONNX, "hf:", "timm:")):
        return None, None
    with torch.device("meta"):
        net = build_network(
            settings.network, pooling=settings.pooling, dim=settings.dim, size=square(settings)
        )
    return count_parameters(net), count_mult_adds(net, square(settings))


def _single(images: LabelledImages) -> bool:
    return images.labels.ndim == 1


def _own_classes(images: LabelledImages) -> LabelledImages:
    """The same images with the names of their own classes only."""
    used, labels = np.unique(images.labels, return_inverse=True)
    names = tuple(images.names[number] for number in used.tolist())
    return LabelledImages(rows=images.rows, labels=labels.astype(np.int64), names=names)
