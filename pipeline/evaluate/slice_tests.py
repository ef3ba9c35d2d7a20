"""Where is the new one worse, though the mean wins? Parts of the queries, each tested for a loss.

1. A slice is the queries whose attribute has one value; those with few groups say nothing.
2. Each is tested for being worse by one-sided sign flips of groups, corrected for their number (Holm 1979).
3. Its interval resamples groups. A loss that is proven and may be as large as the margin counts against the
   change; a smaller one is named, as on the whole (``paired.verdict_of``).

Legend: Q queries, G groups, S slices, R resamples.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluate.aggregate import RESAMPLES, codes_of, resampled_shares
from pipeline.evaluate.metrics import Floats, Ints
from pipeline.evaluate.paired import LEVEL, PERMUTATIONS, Verdict, group_totals, holm, sign_flip_p_values

MIN_GROUPS = 10
MAX_SLICES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceDifference:
    """Old and new on the queries whose ``attribute`` has ``value``; p values are of being worse.

    ``low`` and ``high`` bound the difference of this slice by itself (95 %).
    """

    attribute: str
    value: str
    n_queries: int
    n_groups: int
    old: float
    new: float
    difference: float
    low: float
    high: float
    p_value: float
    p_corrected: float

    @property
    def is_worse(self) -> bool:
        """Significantly, after correction for the number of slices."""
        return self.p_corrected < LEVEL

    def loses(self, margin: float) -> bool:
        """Whether a loss is proven and one of the margin is not excluded."""
        return self.is_worse and self.low <= -margin


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceTests:
    """The slices that were tested, the worst first; ``n_untested`` have too few groups or are too many."""

    tested: tuple[SliceDifference, ...]
    n_untested: int

    @property
    def worse(self) -> tuple[SliceDifference, ...]:
        """Those that are significantly worse."""
        return tuple(one for one in self.tested if one.is_worse)

    def verdict(self, of_the_mean: Verdict, margin: float) -> Verdict:
        """The verdict on the mean, unless it passes and a slice loses the margin."""
        lost = any(one.loses(margin) for one in self.tested)
        return Verdict.WORSE_IN_PARTS if of_the_mean.passes and lost else of_the_mean


def slice_differences(
    old_Q: Floats,
    new_Q: Floats,
    group_Q: Sequence[Hashable],
    slices: Mapping[str, Sequence[str | None]],
    *,
    seed: int,
    n_resamples: int = RESAMPLES,
    n_permutations: int = PERMUTATIONS,
) -> SliceTests:
    """Tests each value of each attribute for being worse; None is no value.

    Only values with at least ``MIN_GROUPS`` groups are tested, the ``MAX_SLICES`` with most queries.
    """
    code_Q = codes_of(group_Q)
    change_Q = new_Q - old_Q
    members = _members(slices)
    enough = [one for one in members if len(np.unique(code_Q[one[2]])) >= MIN_GROUPS]
    chosen = sorted(enough, key=lambda one: (-len(one[2]), one[:2]))[:MAX_SLICES]
    if not chosen:
        return SliceTests(tested=(), n_untested=len(members))
    inside_QS = np.zeros((len(change_Q), len(chosen)))
    for column, (_, _, rows) in enumerate(chosen):
        inside_QS[rows, column] = 1.0
    total_GS = group_totals(inside_QS * change_Q[:, None], code_Q)
    _, p_S = sign_flip_p_values(total_GS, seed=seed, n_permutations=n_permutations)
    bounds_2S = _bounds(total_GS, group_totals(inside_QS, code_Q), seed=seed, n_resamples=n_resamples)
    tested = [
        SliceDifference(
            attribute=attribute,
            value=value,
            n_queries=len(rows),
            n_groups=len(np.unique(code_Q[rows])),
            old=float(old_Q[rows].mean()),
            new=float(new_Q[rows].mean()),
            difference=float(change_Q[rows].mean()),
            low=float(low),
            high=float(high),
            p_value=float(p),
            p_corrected=float(corrected),
        )
        for (attribute, value, rows), low, high, p, corrected in zip(
            chosen, *bounds_2S, p_S, holm(p_S), strict=True
        )
    ]
    tested.sort(key=lambda one: (one.p_corrected, one.difference, one.attribute, one.value))
    return SliceTests(tested=tuple(tested), n_untested=len(members) - len(chosen))


def _bounds(total_GS: Floats, count_GS: Floats, *, seed: int, n_resamples: int) -> Floats:
    """Bounds [2, S] of the mean difference of each slice; resamples without any query of it do not count."""
    both_GC = np.concatenate([total_GS, count_GS], axis=1)
    each_G: Ints = np.ones(len(both_GC), dtype=np.int64)
    means_RC = resampled_shares(both_GC, each_G, seed=seed, n_resamples=n_resamples)
    total_RS, count_RS = np.split(means_RC, 2, axis=1)
    mean_RS = np.divide(total_RS, count_RS, out=np.full_like(total_RS, np.nan), where=count_RS > 0)
    bounds_2S: Floats = np.nanquantile(mean_RS, [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    return bounds_2S


def _members(slices: Mapping[str, Sequence[str | None]]) -> list[tuple[str, str, Ints]]:
    """Attribute, value and queries of every slice."""
    found: list[tuple[str, str, Ints]] = []
    for attribute, value_Q in slices.items():
        rows: dict[str, list[int]] = {}
        for query, value in enumerate(value_Q):
            if value is not None:
                rows.setdefault(value, []).append(query)
        found += [(attribute, value, np.array(those)) for value, those in rows.items()]
    return found
