"""From one value per query to a figure with an interval: macro, weighted and per-class means.

Legend: Q queries, M measures, G groups, R resamples, B of them drawn at once.

- macro: mean over queries. weighted: mean over queries weighted by R, so that large classes speak louder.
  per_class: mean over classes of the class means.
- The interval is the two-sided 95 % percentile bootstrap of the macro mean over queries, or over groups of
  them that stand or fall together, such as the images of a product. Where it touches a value that no finite
  sample can prove (all queries right, or all wrong) it is widened to what n queries or groups can show: low
  is at most .025^(1/n), high at least 1 - .025^(1/n).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.evaluate.metrics import Floats, Ints

RESAMPLES = 1000
_DRAWS_AT_ONCE = 4_000_000  # 32 MiB of int64 draws and as much of counts


class NoRelevant(StrEnum):
    """What becomes of queries for which no relevant item exists: their measures are undefined."""

    EXCLUDE = "exclude"  # left out and counted
    ZERO = "zero"  # count as 0, as trec_eval does
    ERROR = "error"  # refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSummary:
    """One measure over all queries. All in [0, 1]; low and high bound macro."""

    macro: float
    weighted: float
    per_class: float
    low: float
    high: float


def summarise(
    values: Mapping[str, Floats],
    n_relevant_Q: Ints,
    classes_Q: Sequence[Hashable],
    *,
    seed: int,
    no_relevant: NoRelevant = NoRelevant.EXCLUDE,
    n_resamples: int = RESAMPLES,
    groups_Q: Sequence[Hashable] | None = None,
) -> dict[str, MetricSummary]:
    """Summary of each measure; all measures share the resamples, so their intervals can be compared.

    Args:
        values: Per measure one value per query in [0, 1], NaN where R is 0.
        n_relevant_Q: R of each query.
        classes_Q: The class (label) of each query.
        seed: Of the bootstrap.
        no_relevant: What to do with queries whose R is 0.
        n_resamples: Bootstrap resamples.
        groups_Q: What is resampled as a whole; each query by itself if absent.

    Raises:
        UsageError: if no query is left, or a query has R = 0 and ``no_relevant`` is ERROR.
        ValueError: on lengths that differ.
    """
    names = list(values)
    values_QM = np.stack([values[name] for name in names], axis=1)
    if not len(values_QM) == len(n_relevant_Q) == len(classes_Q):
        raise ValueError(
            f"{len(values_QM)} values, {len(n_relevant_Q)} R, {len(classes_Q)} classes: expected equal"
        )
    kept_Q = _kept(n_relevant_Q, no_relevant)
    values_QM = np.where((n_relevant_Q > 0)[:, None], values_QM, 0.0)[kept_Q]
    weights_Q = n_relevant_Q[kept_Q]
    kept_groups = None if groups_Q is None else [groups_Q[q] for q in np.flatnonzero(kept_Q).tolist()]
    bounds_2M = mean_interval(values_QM, kept_groups, seed=seed, n_resamples=n_resamples)
    weighted_M = weights_Q @ values_QM / max(weights_Q.sum(), 1)
    per_class_M = _class_means(
        values_QM, codes_of([name for name, kept in zip(classes_Q, kept_Q, strict=True) if kept])
    )[0].mean(axis=0)
    figures = zip(names, values_QM.mean(axis=0), weighted_M, per_class_M, *bounds_2M, strict=True)
    return {
        name: MetricSummary(
            macro=float(macro),
            weighted=float(weighted),
            per_class=float(per_class),
            low=float(low),
            high=float(high),
        )
        for name, macro, weighted, per_class, low, high in figures
    }


def class_means(values_Q: Floats, classes_Q: Sequence[Hashable]) -> dict[Hashable, tuple[float, int]]:
    """Mean value and number of queries of each class, in order of first appearance."""
    means_CM, counts_C = _class_means(values_Q[:, None], codes_of(classes_Q))
    rows = zip(dict.fromkeys(classes_Q), means_CM[:, 0], counts_C, strict=True)
    return {name: (float(mean), int(count)) for name, mean, count in rows}


def bootstrap_interval(values_QM: Floats, *, seed: int, n_resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Bounds [2, M] of the two-sided 95 % interval of the means over queries; deterministic for a seed.

    Memory does not grow with ``n_resamples``: draws are made and counted a block at a time.
    """
    means_RM = _all_resampled_means(values_QM, seed, n_resamples)
    return interval_bounds(means_RM, values_QM.mean(axis=0), len(values_QM))


def mean_interval(
    values_QM: Floats, groups_Q: Sequence[Hashable] | None, *, seed: int, n_resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Bounds [2, M] of the interval of the means over queries, of which groups are resampled whole."""
    if groups_Q is None:
        return bootstrap_interval(values_QM, seed=seed, n_resamples=n_resamples)
    code_Q = codes_of(groups_Q)
    sums_GM = np.stack([np.bincount(code_Q, weights=column) for column in values_QM.T], axis=1)
    return share_interval(sums_GM, np.bincount(code_Q), seed=seed, n_resamples=n_resamples)


def share_interval(
    hits_GM: Floats | Ints, counts_G: Ints, *, seed: int, n_resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Bounds [2, M] of the interval of sum(hits) / sum(counts) where groups are resampled whole.

    For what stands or falls together, such as the images of one identity.
    """
    resampled_RM = resampled_shares(hits_GM, counts_G, seed=seed, n_resamples=n_resamples)
    return interval_bounds(resampled_RM, hits_GM.sum(axis=0) / counts_G.sum(), len(counts_G))


def resampled_shares(
    sums_GM: Floats | Ints, counts_G: Ints, *, seed: int, n_resamples: int = RESAMPLES
) -> Floats:
    """sum(sums) / sum(counts), [R, M], of groups drawn with replacement; deterministic for a seed."""
    columns = np.column_stack([sums_GM, counts_G]).astype(np.float64)
    means_RM = _all_resampled_means(columns, seed, n_resamples)
    shares_RM: Floats = means_RM[:, :-1] / means_RM[:, -1:]
    return shares_RM


def interval_bounds(resampled_RM: Floats, values_M: Floats, n: int) -> NDArray[np.float64]:
    """Bounds [2, M] from resamples, no narrower than what ``n`` independent observations can show."""
    low_M, high_M = np.quantile(resampled_RM, [0.025, 0.975], axis=0)
    provable = 0.025 ** (1 / n)
    low_M = np.minimum(np.minimum(low_M, provable), values_M)
    high_M = np.maximum(np.maximum(high_M, 1 - provable), values_M)
    bounds_2M: Floats = np.clip(np.stack([low_M, high_M]), 0.0, 1.0)
    return bounds_2M


def codes_of(names: Sequence[Hashable]) -> Ints:
    """A small integer for each distinct name, counted in order of first appearance."""
    table: dict[Hashable, int] = {}
    return np.fromiter(
        (table.setdefault(name, len(table)) for name in names), dtype=np.int64, count=len(names)
    )


def _kept(n_relevant_Q: Ints, no_relevant: NoRelevant) -> NDArray[np.bool_]:
    without = int((n_relevant_Q == 0).sum())
    if without and no_relevant is NoRelevant.ERROR:
        raise UsageError(
            f"{without} of {len(n_relevant_Q)} queries have no relevant item",
            "leave them out of the query set, or let them be excluded or counted as zero",
        )
    kept_Q = n_relevant_Q > 0 if no_relevant is NoRelevant.EXCLUDE else np.ones(len(n_relevant_Q), dtype=bool)
    if not kept_Q.any():
        raise UsageError(
            f"none of the {len(n_relevant_Q)} queries has a relevant item, so nothing can be measured",
            "choose a label that several images share",
        )
    return kept_Q


def _class_means(values_QM: Floats, codes_Q: Ints) -> tuple[Floats, Ints]:
    counts_C: Ints = np.bincount(codes_Q)
    sums_CM: Floats = np.stack([np.bincount(codes_Q, weights=column) for column in values_QM.T], axis=1)
    means_CM: Floats = sums_CM / counts_C[:, None]
    return means_CM, counts_C


def _all_resampled_means(values_QM: Floats, seed: int, n_resamples: int) -> Floats:
    n_queries = len(values_QM)
    rng = np.random.default_rng(seed)
    per_block = max(1, _DRAWS_AT_ONCE // n_queries)
    blocks = [min(per_block, n_resamples - start) for start in range(0, n_resamples, per_block)]
    return np.concatenate([_resampled_means(values_QM, rng, n) for n in blocks])


def _resampled_means(values_QM: Floats, rng: np.random.Generator, n_resamples: int) -> Floats:
    n_queries = len(values_QM)
    draws_BQ = rng.integers(n_queries, size=(n_resamples, n_queries))
    draws_BQ += np.arange(n_resamples)[:, None] * n_queries
    counts = np.bincount(draws_BQ.ravel(), minlength=draws_BQ.size)
    counts_BQ = counts.reshape(n_resamples, n_queries)
    means: Floats = counts_BQ @ values_QM / n_queries
    return means
