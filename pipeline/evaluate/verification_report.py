"""What a verification found: a value whose JSON is the truth."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from pipeline.evaluate.accuracy import FoldAccuracy, HeldOutAccuracy
from pipeline.evaluate.error_curve import ValAtFar, bounded


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongPair:
    """A pair that the threshold misjudges: a ``same`` pair too far apart, or a different one too near."""

    left: str
    right: str
    same: bool
    distance: float
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """How well a threshold on the distance tells same from different.

    Attributes:
        n_pairs: Pairs judged.
        n_same: Of them the same.
        n_different: Of them different.
        n_missing: Listed pairs left out because an image has no vector.
        missing_ids: Some of the ids without a vector.
        n_without_label: Images that take part in no pair, because nothing says who they show.
        missing_folds: Folds, from 1, of which every pair is left out: they are in no mean.
        accuracy: Over folds; None for all pairs, which have none, and where another list chose the threshold.
        held_out: With the threshold that another list chose.
        auc: Area under the curve of VAL against FAR.
        eer: Equal error rate.
        val_at_far: By false accept rate, as text such as ``0.001``.
        curve: Some (far, val) points of the curve, for a drawing.
        wrong: Misjudged pairs, the worst first of each kind.
        mode: ``pairs`` or ``all_pairs``.
        of_videos: Whether pairs are of videos: distances are means over all pairs of their frames.
        resolution: How far a threshold may lie below the best one; 0 for exact distances.
        seed: Of the bootstrap.
        n_resamples: Of the bootstrap.
        model_id: The model the vectors come from.
        snapshot: Sequence of the snapshot; None for vectors that are not from one.
        digest: Digest of the snapshot, or empty.
        software: Versions by name.
    """

    n_pairs: int
    n_same: int
    n_different: int
    n_missing: int
    missing_ids: tuple[str, ...]
    accuracy: FoldAccuracy | None
    auc: float
    eer: float
    val_at_far: Mapping[str, ValAtFar]
    curve: tuple[tuple[float, float], ...]
    wrong: tuple[WrongPair, ...]
    mode: Literal["pairs", "all_pairs"]
    resolution: float
    seed: int
    n_resamples: int
    model_id: str
    missing_folds: tuple[int, ...] = ()
    held_out: HeldOutAccuracy | None = None
    n_without_label: int = 0
    of_videos: bool = False
    snapshot: int | None = None
    digest: str = ""
    software: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The report as JSON values; the field names are the keys. A threshold beyond all pairs is null."""
        val_at_far = {far: asdict(bounded(val)) for far, val in self.val_at_far.items()}
        return {**asdict(self), "val_at_far": val_at_far}
