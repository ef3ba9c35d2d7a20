"""What of the configuration a training is known by, and what follows from it. No torch here."""

from typing import Any

from pipeline.config import TrainConfig
from pipeline.fingerprint import task_key
from pipeline.images.augment import Augment

STAGE = "train"
STAGE_VERSION = 3
ONNX = "onnx:"
"""What the name of a network begins with that is a frozen ONNX trunk under a head."""
_NOT_LEARNED = {"workers", "cpus", "gpu", "compatible_with"}
_WITH_CLASSES = frozenset({"arcface", "proxy-anchor", "proxy-nca"})


def training_key(config: TrainConfig, data_digest: str, trunk_id: str, older_digest: str) -> str:
    """The name of a training: what it is derived from.

    ``trunk_id`` is empty where all of it is trained, ``older_digest`` where there is no older model.
    """
    facts = config.model_dump(mode="json", exclude=_NOT_LEARNED)
    if trunk_id:
        facts["network"] = ONNX  # the file's name does not matter
    return task_key(STAGE, STAGE_VERSION, facts, [data_digest, trunk_id, older_digest])


def document(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON values; ``TrainConfig.model_validate`` reads it."""
    return config.model_dump(mode="json")


def augment_of(config: TrainConfig) -> Augment:
    """How training images are changed."""
    return Augment(
        crop=config.crop,
        light=config.light,
        jpeg=config.jpeg,
        scale=config.rescale,
        watermark=config.watermark,
        flip=config.flip,
    )


def has_classes(config: TrainConfig) -> bool:
    """Whether the loss learns a vector for each class; the export leaves them out."""
    return config.loss in _WITH_CLASSES


def square(config: TrainConfig) -> tuple[int, int]:
    """The (height, width) of the images, which must have been settled.

    Raises:
        ValueError: it was not.
    """
    if config.size is None:
        raise ValueError("the size of the images was not settled before training")
    return config.size
