"""Open-set identification: one image of each known identity is enrolled; who is this, and is it anybody?

1. Identities with several images are split by a seeded draw: most are enrolled with one image each, and their
   other images are *mated* probes; the rest, and identities with a single image, are *unknown* probes.
2. Every probe looks for its nearest enrolled image. Rank-1: the share of mated probes that find their own.
3. A false alarm is an unknown probe whose nearest lies below the threshold. At a stated false-alarm rate, the
   detection and identification rate is the share of mated probes whose nearest is their own and lies below it
   (Grother and Ngan, NIST IR 8009).

No identity was trained on: enrolling a new one is adding a vector. Legend: G gallery, P probes, D dimensions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.evaluate.aggregate import RESAMPLES, codes_of, share_interval
from pipeline.evaluate.distances import DistanceTable
from pipeline.evaluate.error_curve import MIN_FALSE_ACCEPTS, how_many_needed
from pipeline.evaluate.metrics import Ints
from pipeline.evaluate.ranking import LabelledVectors

FALSE_ALARM_RATES = (0.1, 0.01, 0.001)
_UNKNOWN_SHARE = 0.2
_PROBES_AT_ONCE = 512
_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share of mated probes with its 95 % interval, by resampled identities; None with a reason."""

    value: float | None
    low: float | None
    high: float | None
    threshold: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongProbe:
    """An image whose nearest enrolled one is somebody else's; a ``stranger``'s identity is not enrolled."""

    image_id: str
    label: str
    nearest_id: str
    nearest_label: str
    distance: float
    stranger: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentReport:
    """How well identities are recognised from one image each.

    ``rank_1`` is of mated probes only; ``detection_rate`` goes by false-alarm rate, as text such as ``0.01``.
    ``wrong`` are the probes nearest to somebody else, nearest first, at most one for each identity: mated
    ones, then strangers.
    """

    n_enrolled: int
    n_mated: int
    n_unknown: int
    n_without_label: int
    rank_1: Rate
    detection_rate: Mapping[str, Rate]
    wrong: tuple[WrongProbe, ...]
    seed: int
    n_resamples: int

    def to_json(self) -> dict[str, object]:
        """The report as JSON values; the field names are the keys. A threshold beyond everybody is null."""
        rates = {
            rate: asdict(replace(found, threshold=None) if found.threshold == np.inf else found)
            for rate, found in self.detection_rate.items()
        }
        return {**asdict(self), "detection_rate": rates}


def evaluate_enrolment(
    base: LabelledVectors,
    *,
    false_alarm_rates: Sequence[float] = FALSE_ALARM_RATES,
    seed: int = 0,
    n_resamples: int = RESAMPLES,
    few_unknown: bool = False,
) -> EnrolmentReport:
    """Enrols one image per identity and asks who all others are; deterministic for a seed.

    Args:
        base: Labelled images; those without a label take no part and are counted.
        false_alarm_rates: Shares of unknown probes that may be taken for somebody.
        seed: Of the split, of the enrolled image, and of the bootstrap.
        n_resamples: Of the bootstrap.
        few_unknown: Give a rate also where fewer than ten false alarms decide it.

    Raises:
        UsageError: if there is nobody to enrol, or nobody unknown.
    """
    rows = [row for row, label in enumerate(base.labels) if label is not None]
    rows.sort(key=base.ids.__getitem__)
    code_N = codes_of([base.labels[row] for row in rows])
    row_N = np.array(rows, dtype=np.int64)
    gallery, mated, unknown = _split(code_N, np.random.default_rng(seed))
    if not len(mated) or not len(unknown):
        raise UsageError(
            f"enrolment needs identities with several images and some to stay unknown: "
            f"{len(gallery)} could be enrolled, with {len(mated)} more images and {len(unknown)} of others",
            fix="choose a label that several images share",
        )
    table = DistanceTable.of(base.x_ND[row_N[gallery]])
    mated_nearest, mated_distance = _nearest(table, base.x_ND[row_N[mated]])
    unknown_nearest, unknown_distance = _nearest(table, base.x_ND[row_N[unknown]])
    right_P = code_N[gallery][mated_nearest] == code_N[mated]
    missed = np.flatnonzero(~right_P)
    wrong = [
        *_wrong(
            base,
            row_N[mated[missed]],
            row_N[gallery[mated_nearest[missed]]],
            mated_distance[missed],
            stranger=False,
        ),
        *_wrong(base, row_N[unknown], row_N[gallery[unknown_nearest]], unknown_distance, stranger=True),
    ]
    bootstrap = _IdentityBootstrap(code_N[mated], seed, n_resamples)
    return EnrolmentReport(
        n_enrolled=len(gallery),
        n_mated=len(mated),
        n_unknown=len(unknown),
        n_without_label=len(base.labels) - len(rows),
        rank_1=bootstrap.rate(right_P),
        detection_rate={
            f"{rate:g}": _detection(
                bootstrap, right_P, mated_distance, unknown_distance, rate, few_unknown=few_unknown
            )
            for rate in false_alarm_rates
        },
        wrong=tuple(wrong),
        seed=seed,
        n_resamples=n_resamples,
    )


def _wrong(
    base: LabelledVectors, probe_P: Ints, nearest_P: Ints, distance_P: NDArray[np.float32], *, stranger: bool
) -> list[WrongProbe]:
    """The nearest of these probes, one for each identity; rows of the base."""
    found: dict[str | None, WrongProbe] = {}
    for at in np.lexsort((probe_P, distance_P)).tolist():
        if len(found) == _SHOWN:
            break
        probe, nearest = int(probe_P[at]), int(nearest_P[at])
        one = WrongProbe(
            image_id=base.ids[probe],
            label=base.labels[probe] or "",
            nearest_id=base.ids[nearest],
            nearest_label=base.labels[nearest] or "",
            distance=float(distance_P[at]),
            stranger=stranger,
        )
        found.setdefault(base.labels[probe], one)
    return list(found.values())


def _split(code_N: Ints, generator: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Positions of the enrolled images, of the mated probes and of the unknown ones."""
    count_I = np.bincount(code_N)
    several = np.flatnonzero(count_I > 1)
    held_out = generator.permutation(several)[: int(_UNKNOWN_SHARE * len(several))]
    known_I = count_I > 1
    known_I[held_out] = False
    order_N = generator.permutation(len(code_N))
    enrolled = np.zeros(len(code_N), dtype=np.bool_)
    _, first = np.unique(code_N[order_N], return_index=True)
    enrolled[order_N[first]] = True
    enrolled &= known_I[code_N]
    return (
        np.flatnonzero(enrolled),
        np.flatnonzero(known_I[code_N] & ~enrolled),
        np.flatnonzero(~known_I[code_N]),
    )


def _nearest(table: DistanceTable, x_PD: NDArray[np.float32]) -> tuple[Ints, NDArray[np.float32]]:
    """The nearest enrolled image of each probe, ties to the smallest id, and its squared distance."""
    nearest_P = np.empty(len(x_PD), dtype=np.int64)
    distance_P = np.empty(len(x_PD), dtype=np.float32)
    for start in range(0, len(x_PD), _PROBES_AT_ONCE):
        block = slice(start, start + _PROBES_AT_ONCE)
        d2_BG = table.squared_l2(x_PD[block])
        nearest_P[block] = d2_BG.argmin(axis=1)
        distance_P[block] = d2_BG.min(axis=1)
    return nearest_P, distance_P


def _detection(
    bootstrap: "_IdentityBootstrap",
    right_P: NDArray[np.bool_],
    mated_distance_P: NDArray[np.float32],
    unknown_distance_P: NDArray[np.float32],
    rate: float,
    *,
    few_unknown: bool,
) -> Rate:
    if not few_unknown and rate * len(unknown_distance_P) < MIN_FALSE_ACCEPTS - 1e-9:
        reason = f"{len(unknown_distance_P):,} unknown probes are too few: {how_many_needed(rate)}"
        return Rate(value=None, low=None, high=None, reason=reason)
    allowed = int(np.floor(rate * len(unknown_distance_P) + 1e-9))
    ascending = np.append(np.sort(unknown_distance_P), np.inf)
    threshold = float(ascending[allowed])
    return bootstrap.rate(right_P & (mated_distance_P < threshold), threshold)


class _IdentityBootstrap:
    """Resamples identities, because images of one identity stand or fall together."""

    def __init__(self, code_P: Ints, seed: int, n_resamples: int) -> None:
        _, self._member_P = np.unique(code_P, return_inverse=True)
        self._count_I = np.bincount(self._member_P)
        self._seed, self._n_resamples = seed, n_resamples

    def rate(self, hit_P: NDArray[np.bool_], threshold: float | None = None) -> Rate:
        """Share of hits with its interval."""
        hits_I = np.bincount(self._member_P, weights=hit_P, minlength=len(self._count_I))
        bounds_21 = share_interval(
            hits_I[:, None], self._count_I, seed=self._seed, n_resamples=self._n_resamples
        )
        low, high = bounds_21[:, 0].tolist()
        return Rate(value=float(np.mean(hit_P)), low=low, high=high, threshold=threshold)
