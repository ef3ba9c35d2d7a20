"""Is the new one better on the same questions? Paired differences, with all that makes them hold.

Every query is asked of both, so what is judged is new - old of each query. Queries of one group (an identity,
a product) stand or fall together: groups are resampled and permuted whole.

1. Mean difference over queries, with the two-sided 95 % percentile bootstrap over groups.
2. Sign-flip permutation test: were old and new alike, each group's difference could as well have the other
   sign (Good, *Permutation, Parametric and Bootstrap Tests*, 2005, section 3.1).
3. The smallest difference that so many groups would show in 80 % of trials at the 5 % level.
4. A verdict against a margin that was declared before; what slices say of it: ``slice_tests``.

Legend: Q queries, G groups, M measures, S tests, C columns (measures or slices), B permutations at once.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np

from pipeline.evaluate.aggregate import RESAMPLES, codes_of, resampled_shares
from pipeline.evaluate.metrics import Floats, Ints

LEVEL = 0.05
MIN_GROUPS = 20
"""With fewer groups nothing is concluded."""
PERMUTATIONS = 10_000
_SIGNS_AT_ONCE = 1 << 22
_POWER = 0.8


class Verdict(StrEnum):
    """What a comparison comes to; the margin is the loss that would be accepted."""

    BETTER = "better"  # the interval and the permutation test exclude that nothing was gained
    NOT_WORSE = "not worse"  # the interval excludes a loss of the margin
    WORSE_IN_PARTS = "worse in parts"  # better or not worse on the whole, and worse on a slice
    WORSE = "worse"  # a loss is proven, and one of the margin is not excluded
    INCONCLUSIVE = "inconclusive"

    @property
    def passes(self) -> bool:
        """Whether the new one may replace the old one."""
        return self in {Verdict.BETTER, Verdict.NOT_WORSE}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """One measure of old and new on the same queries.

    Attributes:
        old: Mean over queries.
        new: Mean over queries.
        difference: new - old.
        low: Lower bound of the 95 % interval of the difference.
        high: Upper bound.
        p_value: Two-sided, by sign flips.
        minimum_detectable: The difference that so many groups would show with a power of 80 %.
        n_better: Queries whose value rose.
        n_worse: Queries whose value fell.
    """

    old: float
    new: float
    difference: float
    low: float
    high: float
    p_value: float
    minimum_detectable: float
    n_better: int
    n_worse: int


def paired_differences(
    old: Mapping[str, Floats],
    new: Mapping[str, Floats],
    group_Q: Sequence[Hashable],
    *,
    seed: int,
    n_resamples: int = RESAMPLES,
    n_permutations: int = PERMUTATIONS,
) -> dict[str, PairedDifference]:
    """The difference of each measure; all share the resamples and the sign flips.

    The interval is no narrower than what so many groups can show: if not one of them lost, a share of up to
    1 - .025^(1/groups) may still lose everything.

    Args:
        old: Per measure one value in [0, 1] for each query.
        new: The same measures of the same queries.
        group_Q: What stands or falls together.
        seed: Of resamples and sign flips.
        n_resamples: Bootstrap resamples.
        n_permutations: Sign flips.
    """
    code_Q = codes_of(group_Q)
    count_G = np.bincount(code_Q)
    old_QM = np.stack([old[name] for name in old], axis=1)
    new_QM = np.stack([new[name] for name in old], axis=1)
    change_QM = new_QM - old_QM
    total_GM = group_totals(change_QM, code_Q)
    mean_M = change_QM.mean(axis=0)
    resampled_RM = resampled_shares(total_GM, count_G, seed=seed, n_resamples=n_resamples)
    low_M, high_M = np.quantile(resampled_RM, [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    unseen = 1 - (LEVEL / 2) ** (1 / len(count_G))
    low_M = np.where((total_GM < 0).any(axis=0), low_M, np.minimum(low_M, mean_M - unseen))
    high_M = np.where((total_GM > 0).any(axis=0), high_M, np.maximum(high_M, mean_M + unseen))
    p_M, _ = sign_flip_p_values(total_GM, seed=seed, n_permutations=n_permutations)
    normal = NormalDist()
    detectable_M: Floats = (normal.inv_cdf(1 - LEVEL / 2) + normal.inv_cdf(_POWER)) * resampled_RM.std(
        axis=0, ddof=1
    )
    detectable_M = np.where((total_GM != 0).any(axis=0), detectable_M, unseen)  # no change shows no spread
    return {
        name: PairedDifference(
            old=float(old_QM[:, m].mean()),
            new=float(new_QM[:, m].mean()),
            difference=float(mean_M[m]),
            low=float(low_M[m]),
            high=float(high_M[m]),
            p_value=float(p_M[m]),
            minimum_detectable=float(detectable_M[m]),
            n_better=int((change_QM[:, m] > 0).sum()),
            n_worse=int((change_QM[:, m] < 0).sum()),
        )
        for m, name in enumerate(old)
    }


def verdict_of(found: PairedDifference, margin: float, n_groups: int) -> Verdict:
    """The verdict on one measure; ``margin`` is at least 0 and was chosen before the figures were seen."""
    if n_groups < MIN_GROUPS:
        return Verdict.INCONCLUSIVE
    proven = found.p_value < LEVEL
    if found.low > 0 and proven:
        return Verdict.BETTER
    if found.low > -margin:
        return Verdict.NOT_WORSE
    return Verdict.WORSE if found.high < 0 and proven else Verdict.INCONCLUSIVE


def sign_flip_p_values(total_GC: Floats, *, seed: int, n_permutations: int) -> tuple[Floats, Floats]:
    """How often chance alone gives a sum as far from 0, and one as low, [C] each; never 0.

    The p value counts the data as one of the permutations (Phipson and Smyth 2010).
    """
    moved_GC = total_GC[(total_GC != 0).any(axis=1)]
    sum_C = moved_GC.sum(axis=0)
    tolerance_C = 1e-9 * np.abs(moved_GC).sum(axis=0)
    as_far_C, as_low_C = np.zeros(total_GC.shape[1]), np.zeros(total_GC.shape[1])
    generator = np.random.default_rng(seed)
    per_block = max(1, _SIGNS_AT_ONCE // max(1, len(moved_GC)))
    for start in range(0, n_permutations, per_block):
        size = (min(per_block, n_permutations - start), len(moved_GC))
        sign_BG = 2.0 * generator.integers(0, 2, size=size, dtype=np.int8) - 1
        flipped_BC = sign_BG @ moved_GC
        as_far_C += (np.abs(flipped_BC) >= np.abs(sum_C) - tolerance_C).sum(axis=0)
        as_low_C += (flipped_BC <= sum_C + tolerance_C).sum(axis=0)
    return (1 + as_far_C) / (1 + n_permutations), (1 + as_low_C) / (1 + n_permutations)


def holm(p_S: Floats) -> Floats:
    """P values corrected for their number, step-down (Holm 1979): below a level, the family holds at it."""
    order_S = np.argsort(p_S, kind="stable")
    stepped_S = p_S[order_S] * np.arange(len(p_S), 0, -1)
    corrected_S = np.empty(len(p_S))
    corrected_S[order_S] = np.minimum(1.0, np.maximum.accumulate(stepped_S))
    return corrected_S


def group_totals(value_QC: Floats, code_Q: Ints) -> Floats:
    """Sums of the queries of each group, [G, C]."""
    n_groups = int(code_Q.max(initial=-1)) + 1
    totals: Floats = np.stack(
        [np.bincount(code_Q, weights=column, minlength=n_groups) for column in value_QC.T], axis=1
    )
    return totals
