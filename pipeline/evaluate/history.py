"""A collection night by night, and which night is unlike those before it.

A figure is unusual if it lies further from the median of the nights before it than six times their spread
(the median absolute deviation, scaled to a standard deviation: Leys et al. 2013), by more than a quarter of
that median, and, where it counts images, by more than one in a thousand: steady figures vary a little, and
nobody should be called for that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

_BEFORE = 14
_LEAST_BEFORE = 5
_SPREADS = 6.0
_LEAST_CHANGE = 0.25
_LEAST_SHARE = 0.001
_TO_STANDARD_DEVIATION = 1.4826


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """What one published snapshot says of itself; None where nobody measured it.

    Attributes:
        snapshot: Sequence.
        created: When, as ISO 8601.
        model_id: The model of its vectors.
        method: How its index is searched.
        images: Live images.
        embedded: Vectors computed for it.
        reused: Vectors carried over or found again.
        stale: Images that kept an older vector, because their new bytes were refused.
        rejected: Images without a vector.
        deleted: Images that were listed the night before and are no longer.
        k: Of the recall.
        recall: Of the index, of its k nearest, as published.
        recall_low: Lower bound of its 95 % interval.
        recall_high: Upper bound.
        target: What was asked for.
        candidates: C of the first stage; None where every row is compared.
        seconds: By stage.
        mean_shift: Drift: how far the mean of the vectors is from that of those the encoder was fitted on.
        bit_imbalance: Drift: how unequally bits are used.
        churn: Share of the nearest neighbours of 50 old images that are others than the night before.
        overridden: Gates that somebody overrode.
        note: A rollback, or content of another collection.
    """

    snapshot: int
    created: str
    model_id: str
    method: str
    images: int
    embedded: int
    reused: int
    stale: int
    rejected: int
    deleted: int
    k: int
    recall: float | None
    recall_low: float | None
    recall_high: float | None
    target: float
    candidates: int | None
    seconds: Mapping[str, float] = field(default_factory=dict)
    mean_shift: float | None = None
    bit_imbalance: float | None = None
    churn: float | None = None
    overridden: tuple[str, ...] = ()
    note: str = ""

    @property
    def total_seconds(self) -> float:
        """Over all stages."""
        return round(sum(self.seconds.values()), 3)

    def to_json(self) -> dict[str, object]:
        """The night as JSON values."""
        return {**asdict(self), "total_seconds": self.total_seconds}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusual:
    """A figure of a night that is unlike those before."""

    snapshot: int
    figure: str
    value: float
    usual: float
    """The median of up to 14 nights before."""


WATCHED: Mapping[str, str] = {
    "images": "live images",
    "embedded": "images embedded",
    "stale": "stale images",
    "rejected": "rejected images",
    "deleted": "images deleted",
    "total_seconds": "seconds",
    "candidates": "candidates of the first stage",
    "mean_shift": "drift of the mean",
    "churn": "neighbour churn",
}
"""Figures that are compared with the nights before, and what they are called."""
_COUNT_IMAGES = frozenset({"images", "embedded", "stale", "rejected", "deleted"})


def unusual_nights(nights: Sequence[Night]) -> list[Unusual]:
    """Every watched figure of every night that is unlike those before it, in the order of the nights."""
    found = []
    for figure in WATCHED:
        before: list[float] = []
        for night in nights:
            value = getattr(night, figure)
            if value is None:
                continue
            least = _LEAST_SHARE * night.images if figure in _COUNT_IMAGES else 0.0
            usual = _usual(before[-_BEFORE:], float(value), least)
            if usual is not None:
                found.append(Unusual(snapshot=night.snapshot, figure=figure, value=float(value), usual=usual))
            before.append(float(value))
    return sorted(found, key=lambda one: (one.snapshot, list(WATCHED).index(one.figure)))


def below_target(nights: Sequence[Night]) -> list[Night]:
    """Nights whose recall is below its target for certain."""
    return [night for night in nights if night.recall_high is not None and night.recall_high < night.target]


def _usual(before: Sequence[float], value: float, least: float) -> float | None:
    """The median of the nights before, if ``value`` is unlike them and further away than ``least``."""
    if len(before) < _LEAST_BEFORE:
        return None
    median = float(np.median(before))
    spread = _TO_STANDARD_DEVIATION * float(np.median(np.abs(np.array(before) - median)))
    is_far = abs(value - median) > max(_SPREADS * spread, _LEAST_CHANGE * abs(median), least)
    return median if is_far else None
