"""The gates: what must be true of a candidate before it is published.

Each gate is a number against a threshold. A gate that fails can be overridden by name with a reason, which is
recorded in the manifest. Nothing is measured here: the inputs are what the stages found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import UsageError
from pipeline.snapshot.manifest import Coverage, GateRecord

GATES = (
    "coverage",
    "set_aside",
    "rejected_share",
    "shrink",
    "not_empty",
    "one_model",
    "unit_norm",
    "unique_ids",
    "recall",
    "filtered_recall",
    "bit_balance",
    "variance",
    "distinct_codes",
    "not_rolled_back",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The limits of the gates that have a choice."""

    max_rejected_share: float = 0.05
    max_shrink_share: float = 0.2
    norm_tolerance: float = 1e-3
    max_bit_imbalance: float = 0.1
    min_variance: float = 0.001
    min_distinct_codes: float = 0.1
    target_recall: float = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How different the vectors and codes of different images are; 1 where there are too few to say."""

    variance: float
    """1 - |mean|**2 of unit vectors: 0 if all are one, near 1 if they point everywhere."""
    distinct_codes: float
    """Different codes per image, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a run found out about its candidate.

    ``recall_low`` is the lower bound of the published recall; ``filtered_recall_high`` the least upper bound
    of those under filters, whose few queries prove no lower bound (1 where none was measured);
    ``bit_imbalance`` the mean over bits of |share of ones - .5|, 0 where there are no bits;
    ``norm_error`` the largest |norm - 1| of a row.
    """

    coverage: Coverage
    live_rows: int
    distinct_live_ids: int
    parent_live_rows: int
    n_models: int
    norm_error: float
    recall_low: float
    filtered_recall_high: float
    bit_imbalance: float
    spread: Spread
    rolled_back: bool


def check_overrides(overrides: Mapping[str, str]) -> None:
    """Refuses an override that could never take effect; worth doing before any work.

    Raises:
        UsageError: it names a gate that does not exist.
    """
    for name in overrides:
        if name not in GATES:
            raise UsageError(f"there is no gate {name!r}", fix=f"the gates are {', '.join(GATES)}")


def judge(evidence: Evidence, limits: Thresholds, overrides: Mapping[str, str]) -> list[GateRecord]:
    """The verdict of every gate, in a fixed order.

    Raises:
        UsageError: an override names a gate that does not exist.
    """
    return overridden(_verdicts(evidence, limits), overrides)


def judged_again(
    records: Sequence[GateRecord], *, live_rows: int, parent_live_rows: int, rolled_back: bool
) -> list[GateRecord]:
    """The verdicts on content that is to follow another parent: the gates that look at a parent, anew.

    An override of one of those was given for another parent and holds no more.
    """
    limits = {record.name: record.threshold for record in records}
    shrink_limit = limits.get("shrink", Thresholds().max_shrink_share)
    anew = [
        _shrink(live_rows, parent_live_rows, shrink_limit),
        _not_rolled_back(rolled_back=rolled_back),
    ]
    names = {record.name for record in anew}
    return [*(record for record in records if record.name not in names), *anew]


def overridden(records: Sequence[GateRecord], overrides: Mapping[str, str]) -> list[GateRecord]:
    """The verdicts with the reasons for publishing in spite of those that fail.

    Raises:
        UsageError: an override names a gate that does not exist.
    """
    check_overrides(overrides)
    return [
        record.model_copy(update={"override": overrides[record.name]})
        if not record.passed and record.name in overrides
        else record
        for record in records
    ]


def refusing(records: Sequence[GateRecord]) -> list[GateRecord]:
    """The gates that keep the candidate from being published."""
    return [record for record in records if not record.passed and record.override is None]


def _verdicts(evidence: Evidence, limits: Thresholds) -> list[GateRecord]:
    coverage = evidence.coverage
    accounted = coverage.embedded + coverage.reused + coverage.stale + coverage.rejected + coverage.set_aside
    refused = coverage.rejected + coverage.stale  # stale images are refused too, an old vector stands in
    rejected_share = refused / max(coverage.listed, 1)
    return [
        _at_most("coverage", abs(coverage.listed - accounted), 0, "listed images that are not accounted for"),
        _at_most("set_aside", coverage.set_aside, 0, "images set aside after their worker died"),
        _at_most(
            "rejected_share",
            rejected_share,
            limits.max_rejected_share,
            "share of images refused",
        ),
        _shrink(evidence.live_rows, evidence.parent_live_rows, limits.max_shrink_share),
        _at_least("not_empty", evidence.live_rows, 1, "images in the snapshot"),
        _at_most("one_model", evidence.n_models, 1, "models in one snapshot"),
        _at_most(
            "unit_norm", evidence.norm_error, limits.norm_tolerance, "distance of a vector's norm from 1"
        ),
        _at_most("unique_ids", evidence.live_rows - evidence.distinct_live_ids, 0, "ids that occur twice"),
        _at_least("recall", evidence.recall_low, limits.target_recall, "lower bound of the measured recall"),
        _at_least(
            "filtered_recall",
            evidence.filtered_recall_high,
            limits.target_recall,
            "upper bound of the least recall measured under a filter",
        ),
        _at_most("bit_balance", evidence.bit_imbalance, limits.max_bit_imbalance, "mean imbalance of a bit"),
        _at_least(
            "variance", evidence.spread.variance, limits.min_variance, "spread of different images' vectors"
        ),
        _at_least(
            "distinct_codes",
            evidence.spread.distinct_codes,
            limits.min_distinct_codes,
            "different codes among different images",
        ),
        _not_rolled_back(rolled_back=evidence.rolled_back),
    ]


def _shrink(live_rows: int, parent_live_rows: int, limit: float) -> GateRecord:
    lost = max(0.0, 1 - live_rows / parent_live_rows) if parent_live_rows else 0.0
    return _at_most("shrink", lost, limit, "share of images lost since the last snapshot")


def _not_rolled_back(*, rolled_back: bool) -> GateRecord:
    return _at_most("not_rolled_back", int(rolled_back), 0, "content that was rolled back before")


def _at_most(name: str, value: float, threshold: float, what: str) -> GateRecord:
    return _record(name, value, threshold, value <= threshold, f"{what}: {value:.6g}, at most {threshold:g}")


def _at_least(name: str, value: float, threshold: float, what: str) -> GateRecord:
    return _record(name, value, threshold, value >= threshold, f"{what}: {value:.6g}, at least {threshold:g}")


def _record(name: str, value: float, threshold: float, passed: bool, message: str) -> GateRecord:  # noqa: FBT001
    return GateRecord(
        name=name, passed=bool(passed), value=float(value), threshold=float(threshold), message=message
    )
