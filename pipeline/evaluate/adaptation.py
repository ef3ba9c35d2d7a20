"""Fits an adapter between two models on some images and judges it on others.

1. The images that both models have embedded are split by a seeded draw of *groups* (images of one identity,
   without labels images of the same bytes): 80 % to fit on, 10 % to choose a method by, 10 % to judge.
2. Procrustes, plain and centred, and ridge with several penalties are fitted; the one whose mapped vectors
   are nearest to the old model's on the second share is fitted again on both. Ridge is left out below four
   times as many rows as dimensions, where it fits noise.
3. The judging images ask by exact distances: the old model on itself, the new one on itself, new queries
   through the adapter on the old base, and without it where the dimensions allow.
4. Accepted if, of what old queries reach on the old base, adapted ones keep the share asked for: in recall at
   10 (an old query always finds itself), and where there are labels in success at 1; lower bounds count.

A model that was trained to be comparable with the old one needs no map. It is judged as it is, by success at
1, on images of classes that its training did not see, and must find as much as the old one: if it finds less
there is nothing to gain. The lower bound of that difference, classes resampled whole, may be the loss that an
adapter is allowed.
Whether it finds an image's own row does not count: it may know classes better and single images less.

Legend: N images, S and T dimensions of the new and the old model, Q images that judge, K rows found.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError
from pipeline.evaluate.exact_base import ExactBase
from pipeline.evaluate.paired import MIN_GROUPS, paired_differences
from pipeline.fingerprint import digest
from pipeline.index.bootstrap import Bootstrap
from pipeline.model.adapter import AffineMap, Vectors, fit_procrustes, fit_ridge, identity_map
from pipeline.model.adapter_file import Figure, MatrixRow

MOST_JUDGED = 1_000
LEAST_JUDGED = 20
PENALTIES = (1e-3, 1e-1, 1.0, 10.0, 100.0)
RIDGE_ROWS = 4
"""Ridge needs so many rows for each dimension."""
UNMAPPED = "none"
"""The method of an adapter that changes nothing."""
LEAST_SHARE = 0.9
_K = 10
_Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """The same images embedded by both models, in the order of distinct ids; ``labels`` None: there are none.

    ``groups``: images of one group are never on both sides of the split.
    """

    ids: Sequence[str]
    new_NS: Vectors
    old_NT: Vectors
    groups: Sequence[str]
    labels: Sequence[str | None] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """The map that was chosen, and what it reached on images kept back."""

    map: AffineMap
    method: str
    penalty: float | None
    n_fitted: int
    n_judged: int
    matrix: tuple[MatrixRow, ...]
    accepted: bool
    verdict: str
    compatible: bool | None
    """Labels: such queries find more than old ones do (the criterion of backward-compatible training)."""


def fit_adapter(pairs: Pairs, least_share: float, seed: int) -> Fitted:
    """The best adapter of ``pairs`` with a verdict; the same for the same images and seed.

    Raises:
        UsageError: too few images to judge it by.
    """
    fit_N, choose_N, judge_N = _split(pairs.groups, seed)
    judge_N = judge_N[:MOST_JUDGED]
    if len(judge_N) < LEAST_JUDGED:
        raise UsageError(
            f"{len(pairs.ids)} images are embedded by both models, which leaves {len(judge_N)} to judge an "
            f"adapter by; expected at least {LEAST_JUDGED}",
            fix=f"embed some {10 * LEAST_JUDGED * 2} of the same images or more with both models",
        )
    method, penalty, fit = _chosen(pairs, fit_N, choose_N)
    fitted_N = np.concatenate([fit_N, choose_N])
    found = fit(pairs.new_NS[fitted_N], pairs.old_NT[fitted_N])
    matrix, _ = _matrix(pairs, found, judge_N, seed)
    old, adapted = matrix[0], matrix[2]
    accepted, verdict = _verdict(old, adapted, least_share)
    compatible = None
    if old.success_at_1 is not None and adapted.success_at_1 is not None:
        compatible = adapted.success_at_1.mean > old.success_at_1.mean
    return Fitted(
        map=found,
        method=method,
        penalty=penalty,
        n_fitted=len(fitted_N),
        n_judged=len(judge_N),
        matrix=tuple(matrix),
        accepted=accepted,
        verdict=verdict,
        compatible=compatible,
    )


def judge_unmapped(pairs: Pairs, judge_N: _Ints, least_share: float, seed: int) -> Fitted:
    """The verdict on new vectors as they are.

    Of the rows ``judge_N`` those ask that share a label with another image, 1,000 of them at most.

    Raises:
        UsageError: the dimensions differ, or too few rows or classes ask.
    """
    dim = pairs.old_NT.shape[1]
    if pairs.new_NS.shape[1] != dim:
        raise UsageError(
            f"the new model has {pairs.new_NS.shape[1]} dimensions, the old one {dim}: without a map they "
            "cannot be compared",
            fix=f"train one of {dim} dimensions (--dim {dim}), or fit an adapter",
        )
    names = [None] * len(pairs.ids) if pairs.labels is None else pairs.labels
    count = Counter(names)
    asking = [row for row in judge_N.tolist() if names[row] is not None and count[names[row]] > 1]
    asking.sort(key=lambda row: digest([seed, pairs.ids[row]]))  # so that a cut is a seeded sample
    asking = asking[:MOST_JUDGED]
    class_Q = [names[row] for row in asking]
    n_classes = len(set(class_Q))
    if n_classes < MIN_GROUPS:
        raise UsageError(
            f"{len(asking)} images of {n_classes} classes can judge whether the models are comparable "
            "(embedded by both, of classes that the training did not see, with another image of the class); "
            f"expected {MIN_GROUPS} classes",
            fix="embed images of more such classes with both models",
        )
    matrix, (old_Q, _, new_Q) = _matrix(pairs, None, np.array(asking, dtype=np.int64), seed)
    measure = "success@1"
    gain = paired_differences({measure: old_Q}, {measure: new_Q}, class_Q, seed=seed)[measure]
    allowed = (1 - least_share) * gain.old
    verdict = (
        f"{measure} {gain.new:.4f} of new queries on old vectors, {gain.old:.4f} of old ones: "
        f"{gain.difference:+.4f} ({gain.low:+.4f} to {gain.high:+.4f}); asked for are 0, and {-allowed:+.4f} "
        "of the lower bound"
    )
    return Fitted(
        map=identity_map(dim),
        method=UNMAPPED,
        penalty=None,
        n_fitted=0,
        n_judged=len(asking),
        matrix=tuple(matrix),
        accepted=gain.new > 0 and gain.difference >= 0 and gain.low >= -allowed,
        verdict=verdict,
        compatible=gain.difference > 0,
    )


_Fit: TypeAlias = Callable[[Vectors, Vectors], AffineMap]


def _methods(n_rows: int, dim: int) -> list[tuple[str, float | None, _Fit]]:
    """What is tried with so many rows."""
    tried: list[tuple[str, float | None, _Fit]] = [
        ("procrustes", None, partial(fit_procrustes, centred=False)),
        ("procrustes-centred", None, partial(fit_procrustes, centred=True)),
    ]
    if n_rows >= RIDGE_ROWS * dim:
        tried += [("ridge", l2, partial(fit_ridge, penalty=l2)) for l2 in PENALTIES]
    return tried


def _chosen(pairs: Pairs, fit_N: _Ints, choose_N: _Ints) -> tuple[str, float | None, _Fit]:
    """The method whose mapped vectors are nearest to the old model's on images that it did not see."""

    def closeness(method: tuple[str, float | None, _Fit]) -> float:
        mapped = method[2](pairs.new_NS[fit_N], pairs.old_NT[fit_N]).apply(pairs.new_NS[choose_N])
        return float(np.einsum("nt,nt->", mapped, pairs.old_NT[choose_N], dtype=np.float64))

    return max(_methods(len(fit_N), pairs.new_NS.shape[1]), key=closeness)


def _split(groups: Sequence[str], seed: int) -> tuple[_Ints, _Ints, _Ints]:
    """Rows to fit on, to choose by and to judge, by the sha256 of seed and group."""
    share_of = {group: int(digest([seed, group])[:8], 16) / 2**32 for group in set(groups)}
    share_N = np.array([share_of[group] for group in groups])
    order_N = np.argsort(share_N, kind="stable")  # seeded, so that a cut is a seeded sample
    shares = share_N[order_N]
    return order_N[shares >= 0.2], order_N[(shares >= 0.1) & (shares < 0.2)], order_N[shares < 0.1]


def _matrix(
    pairs: Pairs, found: AffineMap | None, judge_N: _Ints, seed: int
) -> tuple[list[MatrixRow], list[npt.NDArray[np.float64]]]:
    """Old on old, new on new, adapted on old if there is a map, and new on old as it is, where possible.

    Beside each row which of the queries that can have one found an image of their label first.
    """
    right: list[npt.NDArray[np.float64]] = []
    old, new = ExactBase(pairs.old_NT, pairs.ids), ExactBase(pairs.new_NS, pairs.ids)
    place_N = np.empty(len(pairs.ids), dtype=np.int64)
    place_N[old.given_N] = np.arange(len(pairs.ids))
    own_Q = place_N[judge_N]
    label_Q, label_N, labelled_Q = _labels(pairs, old.given_N, judge_N)
    truth_QK = _others(old.nearest(old.x_ND[own_Q], _K + 1).row_QK, own_Q)

    def figure(value_Q: npt.NDArray[np.float64]) -> Figure:
        got = Bootstrap(len(value_Q), seed).interval(value_Q)
        return Figure(mean=got.mean, low=got.low, high=got.high)

    def row(query: str, base: str, on: ExactBase, xq_QD: Vectors) -> MatrixRow:
        near_QK = on.nearest(xq_QD, _K + 1).row_QK
        other_QK = _others(near_QK, own_Q)
        own_QK = near_QK == own_Q[:, None]
        right.append((label_N[other_QK[:, 0]] == label_Q).astype(np.float64)[labelled_Q])
        shared_Q = (other_QK[:, :, None] == truth_QK[:, None, :]).any(axis=2).mean(axis=1)
        return MatrixRow(
            query=query,
            base=base,
            recall_at_1=figure(own_QK[:, 0].astype(np.float64)),
            recall_at_10=figure(own_QK[:, :_K].any(axis=1).astype(np.float64)),
            neighbours_at_10=figure(shared_Q) if base == "old" else None,
            success_at_1=figure(right[-1]) if labelled_Q.any() else None,
        )

    new_QS = new.x_ND[own_Q]
    rows = [
        row("old", "old", old, old.x_ND[own_Q]),
        row("new", "new", new, new_QS),
    ]
    if found is not None:
        rows.append(row("adapted", "old", old, found.apply(new_QS)))
    if pairs.new_NS.shape[1] == pairs.old_NT.shape[1]:
        rows.append(row("new", "old", old, new_QS))
    return rows, right


def _labels(pairs: Pairs, given_N: _Ints, judge_N: _Ints) -> tuple[_Ints, _Ints, npt.NDArray[np.bool_]]:
    """Labels of queries and rows as numbers, -1 for none; which queries' labels other images have too."""
    names = [None] * len(pairs.ids) if pairs.labels is None else pairs.labels
    count = Counter(name for name in names if name is not None)
    number_of = {name: number for number, name in enumerate(count)}
    all_N = np.array([-1 if name is None else number_of[name] for name in names], dtype=np.int64)
    shared_Q = np.array([count[name] > 1 if (name := names[row]) is not None else False for row in judge_N])
    return all_N[judge_N], all_N[given_N], shared_Q


def _others(near_QK: _Ints, own_Q: _Ints) -> _Ints:
    """The first rows that are not the query's own image, one fewer than given."""
    order_QK = np.argsort(near_QK == own_Q[:, None], axis=1, kind="stable")
    return np.take_along_axis(near_QK, order_QK, axis=1)[:, :-1]


def _verdict(old: MatrixRow, adapted: MatrixRow, least_share: float) -> tuple[bool, str]:
    """Whether it keeps enough, and in words."""
    tests = [("recall@10", old.recall_at_10, adapted.recall_at_10)]
    if old.success_at_1 is not None and adapted.success_at_1 is not None:
        tests.append(("success@1", old.success_at_1, adapted.success_at_1))
    words = [
        f"{name} {got.mean:.4f} (at least {got.low:.4f}), {least_share:g} of {was.mean:.4f} is asked for"
        for name, was, got in tests
    ]
    return all(got.low >= least_share * was.mean for _, was, got in tests), "; ".join(words)
