"""What an evaluation of re-rankers found: values whose JSON is the truth."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["helps", "hurts", "mixed", "no difference shown"]
"""Whether a gain is shown above 0, below 0, one above and the other below, or neither.

Shown is what its interval says and its corrected p value confirms; of fewer than 20 identities nothing is.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Mean difference from the plain ranking, with its own 95 % interval by resampled identities.

    ``p_corrected`` is two-sided, by sign flips of identities, corrected for the number of gains of the run.
    """

    mean: float
    low: float
    high: float
    p_corrected: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRow:
    """One re-ranker with the settings that validation chose.

    Attributes:
        name: Of the re-ranker.
        settings: As ``search --rerank`` takes them; of the exact mode, which search does not have, in words.
        n_settings: How many were tried on the validation half.
        validation_gain: In mean average precision on that half, of the settings chosen.
        map: Mean average precision on the test half.
        map_gain: Over the plain ranking.
        success_at_1: Share of test queries whose first image is relevant.
        success_at_1_gain: Over the plain ranking.
        cpu_ms_per_query: Processor time of a search of ten through the index; None where it was not measured.
        verdict: By the intervals of both gains.
    """

    name: str
    settings: str
    n_settings: int
    validation_gain: float
    map: float
    map_gain: Gain
    success_at_1: float
    success_at_1_gain: Gain
    cpu_ms_per_query: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankingReport:
    """All re-rankers on the same test queries."""

    n_images: int
    n_queries: int
    n_validation_queries: int
    n_identities: int
    depth: int
    seed: int
    n_resamples: int
    n_permutations: int
    plain_map: float
    plain_success_at_1: float
    plain_cpu_ms_per_query: float | None
    rerankers: tuple[RerankRow, ...]

    def to_json(self) -> dict[str, object]:
        """The report as JSON values; measures are named as everywhere else."""
        document = asdict(self)
        plain = {name: document.pop(f"plain_{name}") for name in ("map", "success_at_1", "cpu_ms_per_query")}
        rows = [_renamed(row) for row in document.pop("rerankers")]
        return document | {"plain": _renamed(plain), "rerankers": rows}


def _renamed(values: Mapping[str, object]) -> dict[str, object]:
    return {name.replace("_at_1", "@1"): value for name, value in values.items()}
