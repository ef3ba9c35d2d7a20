"""How well do clusters agree with labels? Four answers, because each forgives something else.

With n_ij images in cluster i and label j, a_i in cluster i, b_j with label j, n in all:

- BCubed (Bagga and Baldwin 1998): precision = sum n_ij^2 / a_i / n, the mean share of an image's cluster
  that has its label; recall = sum n_ij^2 / b_j / n, of its label that is in its cluster; F is their
  harmonic mean.
- pairwise: the same of pairs of images, which lets large clusters decide.
- ARI: pairs again, less what chance would give (Hubert and Arabie 1985); 0 is chance, 1 is equal.
- NMI: mutual information divided by the mean of the two entropies.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.aggregate import codes_of
from pipeline.evaluate.metrics import Floats, Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Precision, recall and their harmonic mean, all in [0, 1]."""

    precision: float
    recall: float
    f: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusteringQuality:
    """Clusters against labels; ``n_judged`` images have a label, the others are left out."""

    n_judged: int
    n_labels: int
    bcubed: Agreement
    pairwise: Agreement
    ari: float
    nmi: float


def clustering_quality(cluster_N: Ints, labels: Sequence[Hashable | None]) -> ClusteringQuality:
    """Judges clusters by labels; an image whose label is None takes no part.

    Raises:
        ValueError: lengths differ, or no image has a label.
    """
    if len(cluster_N) != len(labels):
        raise ValueError(f"expected a label or None for each of {len(cluster_N)} images, got {len(labels)}")
    judged = np.flatnonzero([label is not None for label in labels])
    if not len(judged):
        raise ValueError("no image has a label: there is nothing to judge by")
    label_N = codes_of([labels[row] for row in judged.tolist()])
    count_P, a_P, b_P, a_C, b_L = _contingency(cluster_N[judged], label_N)
    n = len(judged)
    same, in_clusters, in_labels = _pairs(count_P), _pairs(a_C), _pairs(b_L)
    return ClusteringQuality(
        n_judged=n,
        n_labels=len(b_L),
        bcubed=_agreement((count_P**2 / a_P).sum() / n, (count_P**2 / b_P).sum() / n),
        pairwise=_agreement(_share(same, in_clusters), _share(same, in_labels)),
        ari=_adjusted(same, in_clusters, in_labels, n * (n - 1) / 2),
        nmi=_nmi(count_P / n, a_C / n, b_L / n, a_P * b_P / n**2),
    )


def _contingency(cluster_N: Ints, label_N: Ints) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Counts of (cluster, label) pairs that occur, the sizes of both beside them, and all sizes."""
    cluster_N = np.unique(cluster_N, return_inverse=True)[1]
    pairs_P2, count_P = np.unique(np.stack([cluster_N, label_N], axis=1), axis=0, return_counts=True)
    a_C, b_L = np.bincount(cluster_N).astype(np.float64), np.bincount(label_N).astype(np.float64)
    return count_P.astype(np.float64), a_C[pairs_P2[:, 0]], b_L[pairs_P2[:, 1]], a_C, b_L


def _pairs(size: Floats) -> float:
    return float((size * (size - 1) / 2).sum())


def _share(part: float, whole: float) -> float:
    """1 where there is nothing to be wrong about."""
    return part / whole if whole else 1.0


def _agreement(precision: float, recall: float) -> Agreement:
    both = precision + recall
    f = 2 * precision * recall / both if both else 0.0
    return Agreement(precision=float(precision), recall=float(recall), f=float(f))


def _adjusted(same: float, in_clusters: float, in_labels: float, everything: float) -> float:
    expected = _share(in_clusters * in_labels, everything) if everything else 0.0
    most = (in_clusters + in_labels) / 2
    return 1.0 if most == expected else (same - expected) / (most - expected)


def _nmi(p_P: Floats, p_C: Floats, p_L: Floats, independent_P: Floats) -> float:
    entropy = (_entropy(p_C) + _entropy(p_L)) / 2
    mutual = float((p_P * np.log(p_P / independent_P)).sum())
    return max(mutual, 0.0) / entropy if entropy > 0 else 1.0


def _entropy(p: NDArray[np.float64]) -> float:
    return float(-(p * np.log(p)).sum())
