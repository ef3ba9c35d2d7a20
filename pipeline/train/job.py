"""A whole training as a value that any process can carry out: where the images are, which, and the settings.

Each process packs the images on its machine if nobody has, builds the network, and runs the loop.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline.catalog.source import SourceSpec
from pipeline.config import TrainConfig
from pipeline.errors import ModelError, ObjectMissing, UsageError
from pipeline.fingerprint import digest, task_key
from pipeline.model.file import read_model
from pipeline.storage import layout
from pipeline.storage.store import ObjectStore
from pipeline.train.checkpoint import load_checkpoint, load_weights
from pipeline.train.examples import Examples, FeatureExamples, ImageExamples, trunk_features
from pipeline.train.labelled import LabelledImages, split_by_identity
from pipeline.train.loop import Data, Training
from pipeline.train.networks import EmbeddingNet, build_network, feature_network
from pipeline.train.packed import PackedImages, pack_images, plain_input
from pipeline.train.ranks import Ranks
from pipeline.train.results import training_result
from pipeline.train.settings import augment_of, square, training_key
from pipeline.train.stored import Older, StoredVectors, set_apart
from pipeline.values import DecodeLimits

Advance = Callable[[str, int, int], None]  # what, done, total


def _nobody(_what: str, _done: int, _total: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainJob:
    """All that a worker needs; ``trunk`` is the frozen ONNX model, if there is one.

    ``older`` are the vectors of the model to stay comparable with, row by row of ``images``.
    """

    settings: TrainConfig
    images: LabelledImages
    source: ObjectStore
    spec: SourceSpec
    store: ObjectStore
    folder: Path
    trunk: bytes | None = None
    older: StoredVectors | None = None
    limits: DecodeLimits = field(default_factory=DecodeLimits)

    def pack(self, advance: Advance = _nobody) -> PackedImages:
        """The images on this machine."""
        total = self.images.rows.num_rows
        size = (
            square(self.settings) if self.trunk is None else read_model(self.trunk, "trunk").preprocess.size
        )
        return pack_images(
            self.source,
            self.spec,
            self.images.rows,
            name=self._data_digest(),
            folder=self.folder,
            preprocess=plain_input(size),
            limits=self.limits,
            advance=lambda done: advance("pack", done, total),
        )

    def key(self) -> str:
        """The name of this training: what it is derived from."""
        trunk_id = "" if self.trunk is None else read_model(self.trunk, "trunk").model_id
        older = "" if self.older is None else digest(asdict(self.older.of))
        return training_key(self.settings, self._data_digest(), trunk_id, older)

    def data(self, packed: PackedImages) -> Data:
        """Labels and split of the usable images."""
        usable = self.images.take(packed.kept)
        train, held = split_by_identity(usable, self.settings.validation_share, self.settings.seed)
        older = None
        if self.older is not None:
            held, older = set_apart(usable, held, self.older.take(packed.kept), self.settings.seed)
            self._refuse_weights_that_saw(older)
        return Data(labels=usable.labels, train=train, held=held, n_classes=len(usable.names), older=older)

    def _refuse_weights_that_saw(self, older: Older) -> None:
        """Refuses to begin with weights of a training that may have seen the classes that judge.

        Raises:
            UsageError: it set apart by another draw or label, fewer classes, or none to judge an older model.
        """
        begun = training_result(self.store, self.settings.init) if self.settings.init else None
        if begun is None:
            return
        theirs, mine = begun["older"], older.vectors.of.label
        same_draw = begun["settings"]["seed"] == self.settings.seed and theirs and theirs["label"] == mine
        if not same_draw or theirs["up_to"] < older.up_to:
            raise UsageError(
                f"training {self.settings.init[:16]} (train.init) may have seen classes that are to judge",
                fix="begin with one that was trained --compatible-with the same collection, with the same "
                "label, train.seed and train.validation_share",
            )

    def examples(self, packed: PackedImages, advance: Advance = _nobody) -> Examples:
        """What the network takes."""
        settings = self.settings
        if self.trunk is None:
            spec = plain_input(square(settings))
            return ImageExamples(packed, spec, self.limits, augment_of(settings), settings.seed)
        total = len(packed.kept)
        return FeatureExamples(
            trunk_features(
                packed,
                self.trunk,
                settings=settings,
                name=self._features_name(),
                folder=self.folder,
                limits=self.limits,
                advance=lambda done: advance("features", done, total),
            ),
            settings.seed,
        )

    def _features_name(self) -> str:
        """What the features are derived from: not from the loss, so that trainings share them."""
        settings = self.settings
        facts = {"augment": asdict(augment_of(settings)), "views": settings.views, "seed": settings.seed}
        trunk_id = "" if self.trunk is None else read_model(self.trunk, "trunk").model_id
        return task_key("features", 1, facts, [self._data_digest(), trunk_id])

    def _data_digest(self) -> str:
        """What the usable images are derived from: the listed ones, and what decoding refuses."""
        return digest([self.images.digest(), asdict(self.limits)])

    def run(
        self, ranks: Ranks | None = None, device: str = "cpu", advance: Advance = _nobody
    ) -> dict[str, Any]:
        """Trains as one rank; the result document. What is done already is not done again."""
        present = training_result(self.store, self.key())
        if present is not None:
            return present
        packed = self.pack(advance)
        examples = self.examples(packed, advance)
        return Training(
            self.network(),
            self.data(packed),
            examples,
            self.settings,
            store=self.store,
            key=self.key(),
            ranks=ranks,
            device=device,
        ).run()

    def network(self) -> EmbeddingNet:
        """The network before the first step: seeded, or with the weights of another training."""
        return starting_network(self.settings, self.store, self.trunk)


def starting_network(settings: TrainConfig, store: ObjectStore, trunk: bytes | None) -> EmbeddingNet:
    """The network that the settings describe.

    Raises:
        ModelError: ``settings.init`` is a training of another architecture, or there is none of that name.
    """
    torch.manual_seed(settings.seed)
    if trunk is None:
        net = build_network(
            settings.network, pooling=settings.pooling, dim=settings.dim, size=square(settings)
        )
    else:
        net = feature_network(read_model(trunk, "trunk").card.dim, settings.dim)
    if settings.init:
        load_weights(net, best_weights(store, settings.init), f"training {settings.init[:16]}")
    return net


def best_weights(store: ObjectStore, key: str) -> dict[str, Any]:
    """The weights of a training's best step.

    Raises:
        ModelError: there is no such training, or it has not ended.
    """
    result = training_result(store, key)
    if result is None:
        raise ModelError(
            f"{store.uri} has no training {key!r} that has ended",
            fix="give the key that `bitsieve train` printed",
        )
    try:
        weights: dict[str, Any] = load_checkpoint(store, key, int(result["best_step"]))["net"]
    except ObjectMissing as exc:
        raise ModelError(f"the best checkpoint of training {key} is gone", fix="train again") from exc
    return weights


def save_trunk(job: TrainJob) -> None:
    """Keeps the trunk beside the training: the export puts both together."""
    if job.trunk is not None:
        job.store.put(layout.training_trunk(job.key()), job.trunk)
