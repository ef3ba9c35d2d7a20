"""Which images show the same? Clusters of vectors by a threshold on their distance.

1. Images nearer than the threshold are connected, each with its nearest neighbours only: the components of
   this graph are found in one pass over the pairs.
2. Inside each component clusters are merged from single images upwards, while their mean distance is below
   the threshold (average linkage; also complete; single linkage is the component itself). Clusters that
   linkage would merge are always connected, so this gives what merging all images at once gives, without a
   matrix of all distances, as long as no image has more neighbours below the threshold than it was given.
3. A component too large for its matrix of distances is cut first, by the largest threshold that leaves no
   part too large.

A threshold is a squared L2 distance, as everywhere; linkage averages distances, so it compares its root.
Legend: N images, K neighbours, P pairs, C members of a component, D dimensions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph
from sklearn.cluster import AgglomerativeClustering

from pipeline.errors import UsageError
from pipeline.evaluate.metrics import Ints

Linkage: TypeAlias = Literal["average", "complete", "single"]
LARGEST_COMPONENT = 12_000
"""Members whose distances are held at once: 0.6 GB of float64 for each pair once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clustering:
    """A cluster for every image.

    Attributes:
        cluster_N: Numbered from 0: the largest first, among equals by the first image.
        n_components_cut: Components that were too large to be merged as a whole.
        n_crowded: Images all of whose neighbours given lie below the threshold: they may have more, by which
            components would be joined.
    """

    cluster_N: Ints
    n_components_cut: int
    n_crowded: int

    @property
    def size_C(self) -> Ints:  # noqa: N802 - C is the shape
        """Images of each cluster, descending."""
        return np.bincount(self.cluster_N)


def cluster(
    x_ND: NDArray[np.float32],
    neighbour_NK: NDArray[np.int32],
    distance_NK: NDArray[np.float32],
    threshold: float,
    *,
    linkage: Linkage = "average",
    largest: int = LARGEST_COMPONENT,
) -> Clustering:
    """Clusters of images; deterministic, and the same whatever the order of the images.

    Args:
        x_ND: Unit vectors.
        neighbour_NK: Their nearest others as rows, nearest first; -1 where there are fewer.
        distance_NK: The squared L2 distances to them.
        threshold: Squared L2 distance at which images and clusters stay apart.
        linkage: What the distance of two clusters is.
        largest: Members of a component that is merged as a whole.

    Raises:
        UsageError: a threshold that is not above 0 and at most 4.
    """
    if not 0 < threshold <= 4:
        raise UsageError(
            f"a threshold is a squared distance of unit vectors, above 0 and at most 4, got {threshold:g}"
        )
    left_P, nth_P = np.nonzero((neighbour_NK >= 0) & (distance_NK < threshold))
    right_P, distance_P = neighbour_NK[left_P, nth_P].astype(np.int64), distance_NK[left_P, nth_P]
    component_N = _components(len(x_ND), left_P, right_P)
    n_given = neighbour_NK.shape[1]
    n_crowded = int((np.bincount(left_P) == n_given).sum()) if n_given < len(x_ND) - 1 else 0
    if linkage == "single":
        return Clustering(cluster_N=_by_size(component_N), n_components_cut=0, n_crowded=n_crowded)
    oversized = np.flatnonzero(np.bincount(component_N) > largest)
    for number in oversized.tolist():
        inside_P = component_N[left_P] == number
        _cut(component_N, number, left_P[inside_P], right_P[inside_P], distance_P[inside_P], largest)
    cluster_N = np.empty(len(x_ND), dtype=np.int64)
    n_clusters = 0
    for rows_C in _members(component_N):
        merged_C = _merged(x_ND[rows_C], threshold, linkage)
        cluster_N[rows_C] = n_clusters + merged_C
        n_clusters += int(merged_C.max()) + 1
    return Clustering(cluster_N=_by_size(cluster_N), n_components_cut=len(oversized), n_crowded=n_crowded)


def _components(n: int, left_P: Ints, right_P: Ints) -> Ints:
    pairs = sparse.coo_array((np.ones(len(left_P), dtype=np.int8), (left_P, right_P)), (n, n))
    component_N: Ints = csgraph.connected_components(pairs, directed=False)[1].astype(np.int64)
    return component_N


def _cut(
    component_N: Ints,
    number: int,
    left_P: Ints,
    right_P: Ints,
    distance_P: NDArray[np.float32],
    largest: int,
) -> None:
    """Gives the parts of one component numbers of their own, none with more than ``largest`` members."""
    rows_C = np.flatnonzero(component_N == number)
    left_P, right_P = np.searchsorted(rows_C, left_P), np.searchsorted(rows_C, right_P)
    steps = np.unique(distance_P)
    low, high = 0, len(steps)  # pairs nearer than steps[low] leave no part too large
    while low + 1 < high:
        middle = (low + high) // 2
        near_P = distance_P < steps[middle]
        parts_C = _components(len(rows_C), left_P[near_P], right_P[near_P])
        low, high = (middle, high) if np.bincount(parts_C).max() <= largest else (low, middle)
    near_P = distance_P < steps[low]
    component_N[rows_C] = component_N.max() + 1 + _components(len(rows_C), left_P[near_P], right_P[near_P])


def _members(component_N: Ints) -> Iterator[Ints]:
    order_N = np.argsort(component_N, kind="stable")
    starts = np.flatnonzero(np.diff(component_N[order_N], prepend=-1))
    yield from np.split(order_N, starts[1:]) if len(order_N) else ()


def _merged(x_CD: NDArray[np.float32], threshold: float, linkage: Linkage) -> Ints:
    """Clusters of one component, numbered from 0."""
    if len(x_CD) == 1:
        return np.zeros(1, dtype=np.int64)
    merging = AgglomerativeClustering(
        n_clusters=None, distance_threshold=float(np.sqrt(threshold)), metric="euclidean", linkage=linkage
    )
    merged_C: Ints = merging.fit_predict(x_CD.astype(np.float64)).astype(np.int64)
    return merged_C


def _by_size(cluster_N: Ints) -> Ints:
    """The same clusters, the largest first, among equals by their first image."""
    _, first_C, where_N, size_C = np.unique(
        cluster_N, return_index=True, return_inverse=True, return_counts=True
    )
    number_C = np.empty(len(first_C), dtype=np.int64)
    number_C[np.lexsort((first_C, -size_C))] = np.arange(len(first_C))
    numbered_N: Ints = number_C[where_N]
    return numbered_N
