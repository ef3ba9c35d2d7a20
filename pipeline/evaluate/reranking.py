"""Which re-ranker helps here, by how much, and at what cost? Leave-one-out, by exact distances.

1. Identities with several images are split by a seeded draw into a validation and a test half; their images
   ask, at most ``n_queries`` of each half, among all images.
2. Each re-ranker is tried with several settings on the validation half; the one with the best mean average
   precision is what is reported.
3. On the test half: gains over the plain ranking of the same queries, with an interval that resamples
   identities, because the images of one gain or lose together; of few identities nothing is concluded.
4. Of many re-rankers some look good by chance: p values, by sign flips, are corrected for the number of all
   gains of the run (Holm 1979), and a verdict needs both the interval and the corrected p value.

Average precision counts the first ``depth`` images and is divided by all that are relevant. Legend: Q
queries, K images ranked, G identities.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from pipeline.errors import UsageError
from pipeline.evaluate import metrics
from pipeline.evaluate.aggregate import RESAMPLES, codes_of, resampled_shares
from pipeline.evaluate.exact_base import ExactBase
from pipeline.evaluate.metrics import Floats, Ints, RelevantRanks
from pipeline.evaluate.paired import LEVEL, MIN_GROUPS, PERMUTATIONS, holm, sign_flip_p_values
from pipeline.evaluate.ranking import LabelledVectors
from pipeline.evaluate.reranking_report import Gain, RerankingReport, RerankRow, Verdict
from pipeline.rerank.base import NOBODY, Nearest, Reranker, Vectors
from pipeline.rerank.method import parse_reranker, spelled
from pipeline.rerank.reciprocal import ExactReciprocal, ReciprocalCode

N_QUERIES = 2_000
EXACT_ROWS = 20_000
"""Where a base has at most so many images, exact k-reciprocal encoding has a row too."""
GRID: Mapping[str, Sequence[str]] = {
    "aqe": ("aqe:n=1", "aqe:n=2", "aqe:n=5", "aqe:n=10"),
    "aqe-decay": ("aqe-decay:n=2", "aqe-decay:n=5", "aqe-decay:n=10"),
    "alpha-qe": (
        "alpha-qe:n=2,alpha=3",
        "alpha-qe:n=5,alpha=3",
        "alpha-qe:n=10,alpha=3",
        "alpha-qe:n=5,alpha=6",
        "alpha-qe:n=20,alpha=6",
    ),
    "recursive-qe": ("recursive-qe:n=2,alpha=3", "recursive-qe:n=5,alpha=3", "recursive-qe:n=5,alpha=6"),
    "dba": ("dba:n=2,alpha=3", "dba:n=5,alpha=3", "dba:n=5,alpha=6"),
    "k-reciprocal": (
        "k-reciprocal:k1=6,k2=2",
        "k-reciprocal:k1=10,k2=3",
        "k-reciprocal:k1=20,k2=6",
        "k-reciprocal:k1=6,k2=2,weight=0.7",
    ),
    "diffusion": (
        "diffusion:n=5,graph=10",
        "diffusion:n=10,graph=50",
        "diffusion:n=5,graph=10,damping=0.8",
        "diffusion:n=10,graph=10,damping=0.8",
    ),
}
"""Settings tried where none are given."""
_EXACT_NAME = "k-reciprocal, exact"
_EXACT_GRID = ((6, 2, 0.3), (20, 6, 0.3), (6, 2, 0.7))

Cost: TypeAlias = Callable[[Reranker | None], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How re-rankers are compared."""

    n_queries: int = N_QUERIES
    depth: int = 1_000
    seed: int = 0
    n_resamples: int = RESAMPLES
    n_permutations: int = PERMUTATIONS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Judged:
    """Measures of each query."""

    average_precision_Q: Floats
    success_Q: Floats


def evaluate_reranking(
    base: LabelledVectors,
    methods: Mapping[str, Sequence[Reranker]] | None = None,
    options: Options | None = None,
    cost: Cost | None = None,
) -> RerankingReport:
    """Compares re-rankers with the plain ranking; deterministic for a seed, but for the cost.

    Args:
        base: All images, unit vectors; those without a label ask nothing and stand in the way.
        methods: By name the re-rankers to choose among; those of ``GRID`` if absent.
        options: Sizes and seed.
        cost: CPU milliseconds of one search with a re-ranker, with None of a plain one.

    Raises:
        UsageError: fewer than two identities with several images.
    """
    options = options or Options()
    exact = ExactBase(base.x_ND, base.ids)
    code_N = identity_codes(exact, base.labels)
    validation, test = (_Half(exact, code_N, rows_Q, options.depth) for rows_Q in _asking(code_N, options))
    n_identities = len(np.unique(code_N[test.rows_Q]))
    chosen = [
        _Chosen.by(validation, test, name, rerankers)
        for name, rerankers in _candidates(exact, methods).items()
    ]
    gains = _gains([one.judged for one in chosen], test.plain, code_N[test.rows_Q], options)
    rows = [
        RerankRow(
            name=one.name,
            settings=one.settings,
            n_settings=one.n_settings,
            validation_gain=one.validation_map - float(validation.plain.average_precision_Q.mean()),
            map=float(one.judged.average_precision_Q.mean()),
            map_gain=map_gain,
            success_at_1=float(one.judged.success_Q.mean()),
            success_at_1_gain=success_gain,
            cpu_ms_per_query=None if cost is None or one.name == _EXACT_NAME else cost(one.reranker),
            verdict=verdict_of(map_gain, success_gain, n_identities=n_identities),
        )
        for one, (map_gain, success_gain) in zip(chosen, gains, strict=True)
    ]
    return RerankingReport(
        n_images=len(base.ids),
        n_queries=len(test.rows_Q),
        n_validation_queries=len(validation.rows_Q),
        n_identities=n_identities,
        depth=options.depth,
        seed=options.seed,
        n_resamples=options.n_resamples,
        n_permutations=options.n_permutations,
        plain_map=float(test.plain.average_precision_Q.mean()),
        plain_success_at_1=float(test.plain.success_Q.mean()),
        plain_cpu_ms_per_query=None if cost is None else cost(None),
        rerankers=tuple(rows),
    )


def identity_codes(exact: ExactBase, labels: Sequence[str | None]) -> Ints:
    """A number for the label of each row of the base; -1 where it has none."""
    of_row = [labels[row] for row in exact.given_N.tolist()]
    return np.where([label is not None for label in of_row], codes_of(of_row), -1)


def halves(code_N: Ints, seed: int) -> tuple[Ints, Ints]:
    """Identities with several images: those that choose settings (or train), and those that judge.

    Raises:
        UsageError: there are fewer than two.
    """
    several = np.flatnonzero(np.bincount(code_N[code_N >= 0], minlength=1) > 1)
    if len(several) < 2:
        raise UsageError(
            f"settings are chosen on some identities and judged on others: expected at least 2 with several "
            f"images, got {len(several)}",
            fix="choose a label that several images share",
        )
    drawn = np.random.default_rng(seed).permutation(several)
    return drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]


def relevant_ranks(row_QK: Ints, own_Q: Ints, code_N: Ints) -> RelevantRanks:
    """Where images of the same identity stand; ``own_Q`` are the rows that asked, all with an identity."""
    hit_QK = (row_QK != NOBODY) & (code_N[row_QK] == code_N[own_Q, None])
    return RelevantRanks(
        ranks_H=np.nonzero(hit_QK)[1] + 1,
        offsets_Q1=np.cumsum([0, *hit_QK.sum(axis=1)]),
        n_relevant_Q=np.bincount(code_N[code_N >= 0])[code_N[own_Q]] - 1,
    )


def _asking(code_N: Ints, options: Options) -> tuple[Ints, Ints]:
    """Rows of each half that ask, in order of rows."""
    generator = np.random.default_rng([options.seed, 1])
    first, second = (
        np.sort(generator.permutation(np.flatnonzero(np.isin(code_N, identities)))[: options.n_queries])
        for identities in halves(code_N, options.seed)
    )
    return first, second


def _candidates(
    exact: ExactBase, methods: Mapping[str, Sequence[Reranker]] | None
) -> dict[str, dict[str, Reranker]]:
    """By name the re-rankers to choose among, each by its settings."""
    asked = methods or {name: [parse_reranker(text) for text in texts] for name, texts in GRID.items()}
    chosen = {name: {spelled(one): one for one in some} for name, some in asked.items()}
    if methods is None and len(exact.x_ND) <= EXACT_ROWS:
        chosen[_EXACT_NAME] = {
            f"k1={k1},k2={k2},weight={weight:g}": ExactReciprocal(
                code=ReciprocalCode(exact.x_ND, k1=k1, k2=k2, weight=weight)
            )
            for k1, k2, weight in _EXACT_GRID
        }
    return chosen


class _Half:
    """The queries of one half and what they find without re-ranking, asked once for all re-rankers."""

    def __init__(self, exact: ExactBase, code_N: Ints, rows_Q: Ints, depth: int) -> None:
        self._exact, self._code_N, self._depth = exact, code_N, depth
        self.rows_Q = rows_Q
        self._xq_QD = exact.vectors(rows_Q)
        self._nearest = exact.nearest(self._xq_QD, depth, rows_Q)
        self.plain = self._judged(self._nearest.row_QK)

    def judge(self, reranker: Reranker) -> _Judged:
        """Measures of every query in the new order."""
        return self._judged(reranker.rank(self, self._xq_QD, self._depth, self.rows_Q))

    def nearest(self, xq_QD: Vectors, k: int, own_Q: Ints | None = None) -> Nearest:
        """As the base answers; what the queries themselves find is known."""
        if xq_QD is not self._xq_QD or own_Q is not self.rows_Q or k > self._depth:
            return self._exact.nearest(xq_QD, k, own_Q)
        return Nearest(row_QK=self._nearest.row_QK[:, :k], distance_QK=self._nearest.distance_QK[:, :k])

    def vectors(self, row_M: Ints) -> Vectors:
        """As the base answers."""
        return self._exact.vectors(row_M)

    def neighbours(self, row_M: Ints, k: int) -> Ints:
        """As the base answers."""
        return self._exact.neighbours(row_M, k)

    def _judged(self, row_QK: Ints) -> _Judged:
        found = relevant_ranks(row_QK, self.rows_Q, self._code_N)
        return _Judged(
            average_precision_Q=metrics.average_precision_at(found, self._depth),
            success_Q=metrics.success_at(found, 1),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Chosen:
    """The settings that are best on validation, and what the test queries find with them."""

    name: str
    settings: str
    n_settings: int
    reranker: Reranker
    validation_map: float
    judged: _Judged

    @classmethod
    def by(cls, validation: _Half, test: _Half, name: str, rerankers: Mapping[str, Reranker]) -> "_Chosen":
        """Tries all settings on one half and judges the best on the other."""
        maps = [float(validation.judge(one).average_precision_Q.mean()) for one in rerankers.values()]
        settings = list(rerankers)[int(np.argmax(maps))]
        return cls(
            name=name,
            settings=settings,
            n_settings=len(rerankers),
            reranker=rerankers[settings],
            validation_map=max(maps),
            judged=test.judge(rerankers[settings]),
        )


def _gains(
    judged: Sequence[_Judged], plain: _Judged, code_Q: Ints, options: Options
) -> list[tuple[Gain, Gain]]:
    """Gains of each in average precision and in success at 1; all p values are corrected together."""
    difference_QM = np.stack(
        [
            column_Q
            for one in judged
            for column_Q in (
                one.average_precision_Q - plain.average_precision_Q,
                one.success_Q - plain.success_Q,
            )
        ],
        axis=1,
    )
    _, group_Q = np.unique(code_Q, return_inverse=True)
    sums_GM: Floats = np.stack([np.bincount(group_Q, weights=column) for column in difference_QM.T], axis=1)
    means_RM = resampled_shares(
        sums_GM, np.bincount(group_Q), seed=options.seed, n_resamples=options.n_resamples
    )
    bounds_2M = np.quantile(means_RM, [0.025, 0.975], axis=0)
    p_M, _ = sign_flip_p_values(sums_GM, seed=options.seed, n_permutations=options.n_permutations)
    figures = zip(difference_QM.mean(axis=0), *bounds_2M, holm(p_M), strict=True)
    gains = [
        Gain(mean=float(mean), low=float(low), high=float(high), p_corrected=float(p))
        for mean, low, high, p in figures
    ]
    return list(zip(gains[::2], gains[1::2], strict=True))


def verdict_of(*gains: Gain, n_identities: int) -> Verdict:
    """What several gains say together; resamples of few identities say too much."""
    if n_identities < MIN_GROUPS:
        return "no difference shown"
    shown = [gain for gain in gains if gain.p_corrected < LEVEL]
    better, worse = any(gain.low > 0 for gain in shown), any(gain.high < 0 for gain in shown)
    if better and worse:
        return "mixed"
    if better:
        return "helps"
    return "hurts" if worse else "no difference shown"
