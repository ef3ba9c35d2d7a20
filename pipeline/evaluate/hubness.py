"""Which images are returned most often? In high dimensions some are near to everybody, and some to nobody.

The k-occurrence of an image is how many others have it among their k nearest (Radovanovic et al., JMLR 11,
2010). Its mean is k; its skewness says how unequal it is: about 0 where all are returned alike often, above 1
where hubs crowd the answers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.metrics import Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """An image and how many others have it among their k nearest."""

    image_id: str
    occurrences: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hubness:
    """How unequally often images are returned.

    Attributes:
        k: Neighbours of each image that count.
        skewness: Third standardised moment of the k-occurrences; 0 where all are equal.
        n_never: Images that nobody has among the k nearest.
        hubs: The images returned most often, most first.
    """

    k: int
    skewness: float
    n_never: int
    hubs: tuple[Hub, ...]

    def to_json(self) -> dict[str, object]:
        """As JSON values; the field names are the keys."""
        return asdict(self)


def occurrences(neighbour_NK: NDArray[np.int32], k: int) -> Ints:
    """The k-occurrence of every image; int64 [N]. ``neighbour_NK`` is padded with -1, itself left out."""
    first = neighbour_NK[:, :k].ravel()
    return np.bincount(first[first >= 0], minlength=len(neighbour_NK)).astype(np.int64)


def skewness(occurrence_N: Ints) -> float:
    """E[(N - mean)^3] / std^3; 0 where all are equal."""
    centred_N = occurrence_N - occurrence_N.mean() if len(occurrence_N) else np.zeros(0)
    spread = float(np.sqrt((centred_N**2).mean())) if len(occurrence_N) else 0.0
    return float((centred_N**3).mean() / spread**3) if spread else 0.0


def hubness(neighbour_NK: NDArray[np.int32], ids: Sequence[str], *, k: int = 10, n_hubs: int = 12) -> Hubness:
    """Judges a table of nearest neighbours; ties among hubs go by row.

    Args:
        neighbour_NK: Rows of the nearest others, nearest first, padded with -1.
        ids: Of the rows.
        k: How many of them count; at most K do.
        n_hubs: How many images to name.
    """
    k = min(k, neighbour_NK.shape[1])
    occurrence_N = occurrences(neighbour_NK, k)
    most = np.argsort(-occurrence_N, kind="stable")[:n_hubs]
    return Hubness(
        k=k,
        skewness=skewness(occurrence_N),
        n_never=int((occurrence_N == 0).sum()),
        hubs=tuple(Hub(image_id=ids[row], occurrences=int(occurrence_N[row])) for row in most.tolist()),
    )
