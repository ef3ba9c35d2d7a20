"""What the page may be told beside the evaluation: how the index was calibrated, and what the run did."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.evaluate.evaluation import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """Mean ann_recall@k with a number of candidates."""

    candidates: int
    recall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """The calibration of an index. ``bits`` and ``candidates`` are 0 where search is exact."""

    method: str
    n_vectors: int
    bits: int
    candidates: int
    recall_asked: float
    recall: Estimate
    n_calibration_queries: int
    k: int = 10
    n_lists: int = 0
    n_probes: int = 0
    curve: tuple[CurvePoint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """The coverage of a run: every listed image ends in exactly one of five places."""

    collection: str
    source: str
    listed: int
    embedded: int
    reused: int
    stale: int
    rejected: int
    set_aside: int
    deleted: int = 0
    finished_at: str = ""
    rejects: Mapping[str, int] = field(default_factory=dict)

    @property
    def accounted(self) -> int:
        """Images whose end is known; equal to ``listed``, or something is wrong."""
        return self.embedded + self.reused + self.stale + self.rejected + self.set_aside

    @property
    def searchable(self) -> int:
        """Images that a search can find."""
        return self.embedded + self.reused + self.stale
