"""The same measures over parts of the queries: where does it work, and where not?

A slice is the queries with one value of an attribute; numbers with many values are cut into quarters. Every
slice has its interval: with many slices some look bad by chance, so a difference is a reason to look, not a
proof (``comparison`` corrects for their number).
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from pipeline.evaluate.aggregate import RESAMPLES, mean_interval
from pipeline.evaluate.evaluation import Estimate, Slice
from pipeline.evaluate.metrics import Floats

_VALUES_AT_MOST = 12  # a number with more of them is cut into quarters
_NONE = "(none)"


def slices_by(
    column: str,
    attribute_Q: Sequence[object],
    values: Mapping[str, Floats],
    groups_Q: Sequence[Hashable] | None,
    *,
    seed: int,
    n_resamples: int = RESAMPLES,
) -> tuple[Slice, ...]:
    """A slice for each value of an attribute, the largest first.

    Args:
        column: Name of the attribute.
        attribute_Q: Its value for each query; None where it has none, a slice of its own.
        values: Per measure one value per query.
        groups_Q: What is resampled as a whole; each query by itself if absent.
        seed: Of the bootstrap.
        n_resamples: Of the bootstrap.
    """
    members: dict[str, list[int]] = {}
    for query, name in enumerate(_names(attribute_Q)):
        members.setdefault(name, []).append(query)
    values_QM = np.stack(list(values.values()), axis=1)
    found = []
    for name, queries in members.items():
        some_SM = values_QM[queries]
        groups = None if groups_Q is None else [groups_Q[query] for query in queries]
        low_M, high_M = mean_interval(some_SM, groups, seed=seed, n_resamples=n_resamples)
        figures = zip(values, some_SM.mean(axis=0), low_M, high_M, strict=True)
        metrics = {
            measure: Estimate(mean=float(mean), low=float(low), high=float(high))
            for measure, mean, low, high in figures
        }
        found.append(Slice(column=column, value=name, n_queries=len(queries), metrics=metrics))
    return tuple(sorted(found, key=lambda one: (-one.n_queries, one.value)))


def _names(attribute_Q: Sequence[object]) -> list[str]:
    given = [value for value in attribute_Q if value is not None]
    numbers = [
        float(value) for value in given if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    if len(numbers) < len(given) or len(set(numbers)) <= _VALUES_AT_MOST:
        return [_NONE if value is None else str(value) for value in attribute_Q]
    edges = np.unique(np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1]))
    return [_NONE if value is None else _quarter(float(str(value)), edges) for value in attribute_Q]


def _quarter(number: float, edges: Floats) -> str:
    if not np.isfinite(number):
        return str(number)
    at = min(int(np.searchsorted(edges, number, side="right")), len(edges) - 1)
    return f"{edges[at - 1]:g} to {edges[at]:g}"
