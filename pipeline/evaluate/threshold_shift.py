"""What becomes of a threshold on the distance when the vectors are replaced.

The old threshold at a false accept rate, the new one at the same rate, and what the old one would do to the
new distances. Counted over all pairs of labelled images, or of labelled queries and images.

Legend: N images, Q queries, D dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.aggregate import codes_of
from pipeline.evaluate.all_pairs import curve_of_all_pairs, curve_of_query_pairs
from pipeline.evaluate.error_curve import ErrorCurve
from pipeline.evaluate.metrics import Ints

FARS = (0.1, 0.01, 0.001, 0.0001)

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdShift:
    """A threshold on the squared L2 distance, from old to new at one false accept rate.

    Attributes:
        far: The rate.
        old_threshold: That gives the old vectors this rate; None if different pairs are too few.
        new_threshold: That gives the new vectors this rate.
        old_val: Share of same pairs that the old vectors accept at it.
        new_val: Share that the new vectors accept at theirs.
        kept_far: The rate if the old threshold were kept for the new vectors.
        kept_val: The share accepted then.
        reason: Why there is nothing to show.
    """

    far: float
    old_threshold: float | None = None
    new_threshold: float | None = None
    old_val: float | None = None
    new_val: float | None = None
    kept_far: float | None = None
    kept_val: float | None = None
    reason: str = ""


def shifts_of_all_pairs(
    labels: Sequence[str | None], old_and_new: tuple[Vectors, Vectors]
) -> tuple[ThresholdShift, ...]:
    """Of all pairs of labelled images, given the old and the new vectors of all."""
    rows = [row for row, label in enumerate(labels) if label is not None]
    code_N = codes_of([labels[row] for row in rows])
    if len(set(code_N.tolist())) < 2:
        return _none("there is a single label")
    old, new = (curve_of_all_pairs(x_ND[rows], code_N) for x_ND in old_and_new)
    return _shifts(old, new)


def shifts_of_query_pairs(
    query_labels: Sequence[str | None],
    labels: Sequence[str | None],
    own_Q: Ints,
    old_and_new: tuple[tuple[Vectors, Vectors], tuple[Vectors, Vectors]],
) -> tuple[ThresholdShift, ...]:
    """Of all pairs of a labelled query and a labelled image, less a query's own.

    Args:
        query_labels: Of the queries.
        labels: Of the images.
        own_Q: The image that is the query itself; -1 where none is.
        old_and_new: Of each side the vectors of the queries and of the images.
    """
    asking = [row for row, label in enumerate(query_labels) if label is not None]
    code = codes_of([*(query_labels[row] for row in asking), *labels])
    code_Q, code_N = code[: len(asking)], code[len(asking) :]
    rows = np.flatnonzero([label is not None for label in labels])
    row_among_labelled = np.full(len(labels) + 1, -1, dtype=np.int64)  # the last is for -1
    row_among_labelled[rows] = np.arange(len(rows))
    code_N, own_Q = code_N[rows], row_among_labelled[own_Q[asking]]
    has_own_Q = own_Q >= 0
    n_of_code = np.bincount(code_N, minlength=len(code) + 1)
    n_same = int(n_of_code[code_Q].sum()) - int((code_Q == code_N[own_Q])[has_own_Q].sum())
    if n_same == len(code_Q) * len(code_N) - int(has_own_Q.sum()):
        return _none("every image has the label of every query")
    old, new = (
        curve_of_query_pairs((xq_QD[asking], code_Q), (x_ND[rows], code_N), own_Q)
        for xq_QD, x_ND in old_and_new
    )
    return _shifts(old, new)


def _none(reason: str) -> tuple[ThresholdShift, ...]:
    return tuple(ThresholdShift(far=far, reason=reason) for far in FARS)


def _shifts(old: ErrorCurve, new: ErrorCurve) -> tuple[ThresholdShift, ...]:
    return tuple(_threshold_shift(old, new, far) for far in FARS)


def _threshold_shift(old: ErrorCurve, new: ErrorCurve, far: float) -> ThresholdShift:
    if not old.enough_different(far):
        return ThresholdShift(far=far, reason=f"{old.n_different:,} different pairs are too few")
    old_place, new_place = old.place_at_far(far), new.place_at_far(far)
    return ThresholdShift(
        far=far,
        old_threshold=float(old.thresholds_T[old_place]),
        new_threshold=float(new.thresholds_T[new_place]),
        old_val=float(old.val()[old_place]),
        new_val=float(new.val()[new_place]),
        kept_far=float(new.far()[old_place]),  # both have the same bin edges
        kept_val=float(new.val()[old_place]),
    )
