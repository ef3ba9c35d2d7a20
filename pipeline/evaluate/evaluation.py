"""What an evaluation found: a value whose JSON is the truth and whose HTML page is the view."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import DataCorrupt
from pipeline.evaluate.aggregate import MetricSummary

_KEYS = {"ann_recall_at_10": "ann_recall@10", "unjudged_at_10": "unjudged@10"}


class Mode(StrEnum):
    """Who asks whom."""

    LEAVE_ONE_OUT = "leave_one_out"  # every labelled image against all the others
    QUERY_SET = "query_set"  # a set of queries against a base


class GalleryKind(StrEnum):
    """Why a query is worth looking at."""

    CONFUSED = "confused"  # the closest image has another label, at a small distance: perhaps a wrong label
    WORST = "worst"  # lowest average precision
    BEST = "best"  # highest average precision, most relevant images


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A measured mean with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Measures of the queries whose attribute ``column`` is ``value``."""

    column: str
    value: str
    n_queries: int
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """Mean average precision of the queries with one label."""

    label: str
    n_queries: int
    map: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """One image near a query; ``distance`` is squared L2, ``label`` None means unknown: not relevant."""

    image_id: str
    label: str | None
    distance: float
    relevant: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryQuery:
    """One query to look at, with its nearest images, best first.

    ``first_relevant_rank`` counts from 1 over the whole base, also where it is below the neighbours shown.
    """

    kind: GalleryKind
    image_id: str
    label: str
    n_relevant: int
    average_precision: float
    first_relevant_rank: int
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """Retrieval quality of one set of vectors, by exact search.

    Attributes:
        n_queries: Queries judged.
        metrics: By name: map, map@10, r_precision, map_at_r, mrr, success@1, success@5, success@10,
            recall@10, precision@10, ndcg@10, and the same at each k that was asked for.
        ann_recall_at_10: Quality of the index, measured elsewhere; None where there is no index.
        mode: Who asked whom.
        n_images: Images in the base.
        n_without_label: Images that could have been queries but have no label.
        n_queries_without_relevants: Labelled images whose label no other image carries.
        n_classes: Labels among the queries judged.
        label: Name of the label that says what is relevant.
        snapshot: Sequence of the snapshot; None for vectors that are not from one.
        digest: Digest of the snapshot, or empty.
        model_id: The model the vectors come from.
        seed: Of the bootstrap.
        n_resamples: Of the bootstrap.
        software: Versions by name.
        worst_classes: Lowest mean average precision first.
        best_classes: Highest first; no class is in both.
        gallery: Queries to look at.
        judged: Whether judgements of pairs said what is relevant, and not a label.
        unjudged_at_10: Share of the first 10 results that nobody judged; None by label.
        n_unknown_queries: Judged queries that are not among the images, not counted elsewhere.
        n_unknown_images: Judged images that the base does not hold; nobody is expected to find them.
        n_junk: Images that are neither right nor wrong for anybody.
        collapse: The attribute whose values are ranked instead of images, each at its nearest image's place.
        resampled_by: The attribute whose values the bootstrap resamples whole; None for single queries.
        n_resampled: How many of those there are among the queries.
        n_not_drawn: Queries that could have been judged, where a sample of them was.
        n_namesakes: Queries whose id the base has for another picture, which is judged like any other.
        asked_by: The snapshot of a query set, as COLLECTION@SEQUENCE; empty where the images themselves ask.
        slices: The same measures over parts of the queries.
    """

    n_queries: int
    metrics: Mapping[str, MetricSummary]
    ann_recall_at_10: Estimate | None
    mode: Mode
    n_images: int
    n_without_label: int
    n_queries_without_relevants: int
    n_classes: int
    label: str
    snapshot: int | None
    digest: str
    model_id: str
    seed: int
    n_resamples: int
    software: Mapping[str, str]
    worst_classes: tuple[ClassScore, ...]
    best_classes: tuple[ClassScore, ...]
    gallery: tuple[GalleryQuery, ...]
    judged: bool = False
    unjudged_at_10: Estimate | None = None
    n_unknown_queries: int = 0
    n_unknown_images: int = 0
    n_junk: int = 0
    collapse: str | None = None
    resampled_by: str | None = None
    n_resampled: int = 0
    n_not_drawn: int = 0
    n_namesakes: int = 0
    asked_by: str = ""
    slices: tuple[Slice, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The report as JSON values; the field names are the keys, with ``@10`` for ``_at_10``."""
        return {_KEYS.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> "EvaluationReport":
        """The report again from ``to_json``, also after a trip through a file.

        Raises:
            DataCorrupt: if it is not such a document.
        """
        names = {key: name for name, key in _KEYS.items()}
        fields = {names.get(key, key): value for key, value in document.items()}
        try:
            return TypeAdapter(cls).validate_python(fields)
        except ValidationError as exc:
            raise DataCorrupt(f"not an evaluation report: {exc}", "evaluate again") from exc
