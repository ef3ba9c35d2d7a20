"""The experiments: which ways of training each of them tries, what they share, and what is said of them.

A way changes some settings of the training that was asked for; all the others stay as they are, so that
nothing is tuned for one of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pipeline.config import TrainConfig
from pipeline.errors import UsageError


class Experiment(StrEnum):
    """What is compared."""

    LOSSES = "losses"
    MINING = "mining"
    DIMENSION = "dimension"
    DATA = "data"
    POOLING = "pooling"
    FLOPS = "flops"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way of training: settings by name, and the share of the training images that it sees."""

    name: str
    meaning: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0


_LOSSES = {
    "triplet": "margin .2, squared distances",
    "contrastive": "all pairs, margin .5",
    "n-pair": "one pair of each class, scale 16",
    "n-tuple": "each pair against all negatives, scale 16",
    "arcface": "margin .5, scale 64",
    "multi-similarity": "pairs, weighted",
    "proxy-anchor": "margin .1, scale 32",
    "proxy-nca": "scale 8",
}
_MINERS = {
    "semi-hard": "FaceNet's: the nearest negative beyond the positive, within the margin",
    "semi-hard-random": "any semi-hard negative",
    "semi-hard-all": "each semi-hard negative",
    "hard": "farthest positive, nearest negative",
    "batch-all": "all triplets with a loss",
    "distance-weighted": "one for each pair, far ones as likely as near ones",
    "random": "one for each pair",
}
_POOLINGS = {
    "average": "the mean over the map",
    "max": "the maximum",
    "gem": "generalised mean, its power learned",
    "rmac": "maxima of regions, as in the paper",
    "rmac-cirtorch": "the same and the whole map once more",
    "combined": "average, maximum and GeM side by side, with a softmax",
    "batch-drop": "average, and the maximum of a map with a region dropped",
}
_DIMENSIONS = (64, 128, 256, 512)
_SHARES = (0.125, 0.25, 0.5, 1.0)
_NETWORKS = {
    "nn1": (220, 220),
    "nn2": (224, 224),
    "nn3": (160, 160),
    "nn4": (96, 96),
    "nns1-like": (165, 165),
    "nns2-like": (140, 116),
}
_WIDTH = 0.25
_SCALE = 0.4


def ways_of(experiment: Experiment, base: TrainConfig, *, full: bool) -> list[Way]:
    """What an experiment tries, in the order of its table.

    Args:
        experiment: which one.
        base: what all ways share.
        full: the networks of the paper as they are, where ``flops`` would make them thinner and smaller.

    Raises:
        UsageError: the shared settings leave nothing to compare.
    """
    if base.compatible_with:
        raise UsageError(
            "an experiment compares trainings that are free of an older model",
            fix="leave train.compatible_with away",
        )
    if base.init:
        raise UsageError(
            "an experiment judges by classes that no training has seen: its weights may have seen them",
            fix="leave train.init away",
        )
    if experiment is Experiment.LOSSES:
        own = {"margin": None, "scale": None}
        return [Way(name=n, meaning=m, settings={"loss": n, **own}) for n, m in _LOSSES.items()]
    if experiment is Experiment.MINING:
        return [Way(name=n, meaning=m, settings={"loss": "triplet", "miner": n}) for n, m in _MINERS.items()]
    if experiment is Experiment.DIMENSION:
        return [Way(name=str(dim), settings={"dim": dim}) for dim in _DIMENSIONS]
    if experiment is Experiment.DATA:
        return [Way(name=f"{100 * share:g} %", share=share) for share in _SHARES]
    if experiment is Experiment.POOLING:
        if base.network.startswith("onnx:"):
            raise UsageError(
                "the output of a frozen trunk is a vector: there is no map left to pool",
                fix="choose --model tiny, nn4, hf:NAME or another network that is trained",
            )
        return [Way(name=n, meaning=m, settings={"pooling": n}) for n, m in _POOLINGS.items()]
    if base.network != TrainConfig().network or base.size is not None:
        raise UsageError("flops brings its own networks and sizes", fix="leave --model and --size away")
    return [_network(name, size, full=full) for name, size in _NETWORKS.items()]


def _network(name: str, published: tuple[int, int], *, full: bool) -> Way:
    if full:
        return Way(name=name, meaning="as published", settings={"network": name, "size": published})
    height, width = (round(_SCALE * side) for side in published)
    return Way(
        name=name,
        meaning=f"{_WIDTH:g} of the filters, {height}x{width} px",
        settings={"network": f"{name}:{_WIDTH:g}", "size": (height, width)},
    )


SCALED = (
    f"The networks have {_WIDTH:g} of the published filters (8 at least in each layer) and see images of "
    f"{_SCALE:g} of the published sides; multiply-adds are those of the networks as they were trained."
)
"""What `flops` did to the networks, unless they are full."""
