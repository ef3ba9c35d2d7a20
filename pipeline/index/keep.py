"""Keeps an operating point for another night: C and probes stay, their recall is measured on tonight's rows.

The queries are those `calibrate` would verify with, drawn from tonight's rows by the same seed; the recall is
that of the real `Searcher.search` against their exact neighbours, at every k. C and probes were chosen, and
measured under filters, for rows that were nearly the same: what is published of them is what was found then.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from pipeline.index.arrays import KeyArray
from pipeline.index.bootstrap import Bootstrap, queries_needed
from pipeline.index.calibrate import EXACT_BELOW, check_self_queries, search_recall
from pipeline.index.calibration import GATHERED_ROWS, Calibration
from pipeline.index.encoder import Encoder
from pipeline.index.order import Neighbours
from pipeline.index.queries import QuerySet, catalog_queries, keys_of, share_of
from pipeline.index.sample import MAX_QUERIES
from pipeline.index.search import Searcher
from pipeline.index.shard import IndexShard

Truth: TypeAlias = Callable[[Sequence[IndexShard], QuerySet, int], Neighbours]
"""The exact k nearest rows of queries: `nearest`, or neighbours that are known already."""


def kept(
    point: Calibration,
    encoder: Encoder,
    shards: Sequence[IndexShard],
    truth: Truth,
    *,
    threads: int | None = None,
) -> Calibration | None:
    """``point`` with tonight's recall; None where it does not hold and C has to be chosen anew.

    It holds if the lower bound reaches the target at every k at which it did before, and no share of the rows
    is scanned under a filter of which all were compared when C was chosen. Deterministic, whatever the index
    shards, the threads, and how ``truth`` came about.

    Args:
        point: of an earlier night, chosen from catalog rows for the same encoder and settings.
        encoder: as then.
        shards: all index shards of tonight's candidate, with their live rows.
        truth: finds the exact neighbours.
        threads: of the Hamming scans.
    """
    n_live = sum(shard.n_live for shard in shards)
    if point.method != "hamming" or not point.met or point.queries != "catalog" or n_live < EXACT_BELOW:
        return None
    needed = queries_needed(point.target)
    keys = keys_of(shards, encoder.seed)
    if _outgrown(point, shards, keys):
        return None
    _, queries = catalog_queries(shards, keys, encoder.fit_threshold, max(MAX_QUERIES, needed))
    if len(queries) < needed:
        return None
    draft = replace(point, n_live=n_live, n_verification=len(queries), kept=point.kept + 1)
    searcher = Searcher(encoder, shards, draft, threads=threads)
    check_self_queries(searcher, draft.budget)
    distance_QK = truth(shards, queries, max(draft.candidates)).distance_QK
    bootstrap = Bootstrap(len(queries), draft.seed + 1)
    found = {}
    for k, candidates in draft.candidates.items():
        found[k] = bootstrap.interval(search_recall(searcher, queries, k, distance_QK[:, k - 1], candidates))
        if found[k].low < point.target <= point.ann_recall[k].low:
            return None
    return replace(draft, ann_recall=found)


def _outgrown(point: Calibration, shards: Sequence[IndexShard], keys: Sequence[KeyArray]) -> bool:
    """Whether a filter leaves too many rows to compare all of them, for which no C was measured."""
    return any(
        under.candidates is None
        and sum(shard.n_live for shard in share_of(shards, keys, under.share)) > GATHERED_ROWS
        for under in point.filtered
    )
