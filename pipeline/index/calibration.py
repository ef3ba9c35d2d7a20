"""What calibration found out: how many candidates each k needs, and the recall that was measured with them.

A `Calibration` is stored in the snapshot's manifest as plain JSON and read back by every search. `calibrate`
makes it; here is only the value, so that search does not depend on how it came about.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pipeline.errors import DataCorrupt
from pipeline.index.bootstrap import Interval

Method: TypeAlias = Literal["exact", "hamming"]
Form: TypeAlias = Literal["flat", "lists"]
GATHERED_ROWS = 65_536
"""Where a filter leaves at most so many rows, they are gathered and compared exactly."""
_NEARLY_ALL = 0.99
REPORTED_K = (1, 10, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """Mean recall at k of the calibration queries with ``candidates`` candidates, pessimistic on ties."""

    candidates: int
    probes: int | None
    """Lists looked into; None in flat form."""
    recall: dict[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class FilteredPoint:
    """What a search needs where a filter leaves a random ``share`` of the live rows.

    Neighbours are farther then, and harder to tell apart by their bits: C grows though rows are fewer.
    """

    share: float
    candidates: int | None
    """C at k; None where so few rows are left that all are compared."""
    recall: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The operating point of a snapshot and the evidence for it."""

    method: Method
    met: bool
    """Whether the lower bound of the published recall at k reaches the target."""
    reason: str
    """In words, why the method is exact or the target was missed; empty otherwise."""
    next_bits: int | None
    """Bits to fit again with, where more bits can mend it; None otherwise."""
    target: float
    k: int
    bits: int | None
    n_live: int
    n_calibration: int
    n_verification: int
    seed: int
    budget: int
    """The largest C that was allowed for k."""
    queries: Literal["catalog", "given"]
    candidates: dict[int, int]
    """C for each calibrated k; empty for method exact."""
    form: Form
    """Whether the first stage scans every code, or those of the lists nearest to the query."""
    probes: dict[int, int]
    """How many lists a search looks into, for each calibrated k; empty in flat form and for method exact."""
    curve: tuple[CurvePoint, ...]
    ann_recall: dict[int, Interval]
    """Published: mean and 95 % interval through the real search on the verification queries, for each k."""
    filtered: tuple[FilteredPoint, ...]
    """The same at k where a filter leaves fewer rows, the largest share first."""
    kept: int = 0
    """How many nights have kept the point since it was chosen: ``ann_recall`` is tonight's all the same."""

    def candidates_for(self, k: int, n_live: int | None = None) -> tuple[int | None, str]:
        """C for any k, and a warning where that C was not measured; (None, "") for exact search.

        Between calibrated k the next larger one's C serves: nearer neighbours are easier to find. Beyond the
        largest, C grows in proportion to k. Where a filter leaves ``n_live`` rows, C grows as it did for the
        nearest smaller share that was measured.
        """
        if self.method == "exact":
            return None, ""
        growth = self._growth(n_live)
        larger = [measured for measured in sorted(self.candidates) if measured >= k]
        if larger:
            return math.ceil(growth * self.candidates[larger[0]]), ""
        last = max(self.candidates)
        scaled = math.ceil(growth * self.candidates[last] * k / last)
        warning = (
            f"recall is measured up to k = {last}; for k = {k}, {scaled} candidates are an extrapolation"
        )
        return scaled, warning

    def sieved(self, k: int, n_live: int) -> tuple[int | None, str]:
        """C among ``n_live`` rows and a warning; None where comparing every row is no more work."""
        n_candidates, warning = self.candidates_for(k, n_live)
        if n_candidates is None or k >= n_live or n_candidates >= n_live:
            return None, ""
        return n_candidates, warning

    def _growth(self, n_live: int | None) -> float:
        """How much larger C is where ``n_live`` rows are left; 1 where nearly all are."""
        if n_live is None or n_live >= _NEARLY_ALL * self.n_live or self.k not in self.candidates:
            return 1.0
        growth = 1.0
        for point in self.filtered:
            if point.candidates is not None:
                growth = max(growth, point.candidates / self.candidates[self.k])
            if point.share * self.n_live <= n_live:
                break
        return growth

    def probes_for(self, k: int) -> int | None:
        """Lists to look into for any k; None in flat form. Chosen between and beyond k as C is."""
        if not self.probes:
            return None
        larger = [measured for measured in sorted(self.probes) if measured >= k]
        last = max(self.probes)
        return self.probes[larger[0]] if larger else math.ceil(self.probes[last] * k / last)

    def curve_in_use(self) -> tuple[CurvePoint, ...]:
        """Recall against C; in lists form with the most probes on the curve up to those for k."""
        measured = {point.probes for point in self.curve if point.probes is not None}
        most = max((probes for probes in measured if probes <= self.probes[self.k]), default=None)
        return tuple(point for point in self.curve if point.probes == most)

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers; keys of k are strings, as JSON wants them."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain["candidates"] = {str(k): n for k, n in self.candidates.items()}
        plain["probes"] = {str(k): n for k, n in self.probes.items()}
        plain["curve"] = [
            {
                "candidates": point.candidates,
                "probes": point.probes,
                "recall": {str(k): r for k, r in point.recall.items()},
            }
            for point in self.curve
        ]
        plain["ann_recall"] = {str(k): dataclasses.asdict(found) for k, found in self.ann_recall.items()}
        plain["filtered"] = [dataclasses.asdict(point) for point in self.filtered]
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Calibration":
        """The value that ``to_json`` wrote.

        Raises:
            DataCorrupt: something else.
        """
        try:
            changed = {
                "candidates": {int(k): int(n) for k, n in plain["candidates"].items()},
                "probes": {int(k): int(n) for k, n in plain["probes"].items()},
                "curve": tuple(
                    CurvePoint(
                        candidates=int(point["candidates"]),
                        probes=None if point["probes"] is None else int(point["probes"]),
                        recall={int(k): float(r) for k, r in point["recall"].items()},
                    )
                    for point in plain["curve"]
                ),
                "filtered": tuple(
                    FilteredPoint(
                        share=float(point["share"]),
                        candidates=None if point["candidates"] is None else int(point["candidates"]),
                        recall=Interval(**point["recall"]),
                    )
                    for point in plain["filtered"]
                ),
                "ann_recall": {int(k): Interval(**found) for k, found in plain["ann_recall"].items()},
            }
            return cls(**{**plain, **changed})
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise DataCorrupt(f"not a calibration: {exc}") from exc
