"""``bitsieve evaluate reranking``: which re-ranker helps here, by how much, and at what cost."""

import time
from functools import partial
from typing import Annotated

import numpy as np
import typer

from jobs.evaluate.page import Page, write_page
from jobs.evaluate.subject import label_column, labelled_vectors
from jobs.learned_expansion import open_to_judge
from jobs.output import AsJson, print_result
from jobs.place import Collection, Config, SnapshotNumber, Store, find_place
from pipeline.evaluate.paired import MIN_GROUPS
from pipeline.evaluate.report.reranking_page import reranking_document
from pipeline.evaluate.reranking import N_QUERIES, Cost, Options, evaluate_reranking
from pipeline.evaluate.reranking_report import Gain, RerankingReport
from pipeline.rerank.base import Reranker
from pipeline.rerank.method import parse_reranker
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.reranking import IndexBase, reranked

_COST_QUERIES = 64
_COST_K = 10


def command(
    store: Store,
    label: Annotated[str | None, typer.Option(help="Attribute that makes two images relevant.")] = None,
    rerank: Annotated[
        list[str] | None, typer.Option(help="Only this one, with these settings; may be repeated.")
    ] = None,
    n_queries: Annotated[
        int, typer.Option("--queries", min=1, help="How many of each half of the identities ask at most.")
    ] = N_QUERIES,
    seed: Annotated[int, typer.Option(help="Of the halves, the queries and the bootstrap.")] = 0,
    collection: Collection = None,
    config: Config = None,
    sequence: SnapshotNumber = None,
    output: Page = None,
    as_json: AsJson = False,
) -> None:
    """Gain of each re-ranker over the plain ranking, its settings chosen on other identities than are judged.

    Example: bitsieve evaluate reranking --store index/ --label identity
    """
    snapshot = find_place(store, collection, config).snapshot(sequence)
    column = label_column(snapshot, label)
    opened = partial(open_to_judge, snapshot, column, seed)
    asked = {text: [parse_reranker(text, opened)] for text in rerank or ()}
    base = labelled_vectors(snapshot, column)
    options = Options(n_queries=n_queries, seed=seed)
    report = evaluate_reranking(base, asked or None, options, search_cost(snapshot, seed))
    result = {
        **report.to_json(),
        "label": column,
        "snapshot": snapshot.manifest.sequence,
        "digest": snapshot.manifest.digest,
        "model_id": snapshot.content.model.id,
    }
    if output is not None:
        write_page(output, reranking_document(result), result, snapshot)
    print_result(result, _in_words(report), as_json=as_json)


def search_cost(snapshot: OpenSnapshot, seed: int) -> Cost:
    """Measures CPU milliseconds of a search of ten through the index, one seeded query after the other."""
    searcher, n_rows = snapshot.searcher, len(snapshot.vectors)
    drawn = np.random.default_rng(seed).permutation(n_rows)[:_COST_QUERIES]
    xq_QD = snapshot.vectors[drawn]

    def cost(reranker: Reranker | None) -> float:
        base = IndexBase(searcher=searcher)
        for warm in (True, False):
            some_QD = xq_QD[:2] if warm else xq_QD
            begun = time.process_time()
            for q_D in some_QD:
                if reranker is None:
                    searcher.search(q_D[None], _COST_K)
                else:
                    reranked(base, reranker, q_D[None], _COST_K)
            spent_s = time.process_time() - begun
        return 1_000 * spent_s / max(len(xq_QD), 1)

    return cost


def _in_words(report: RerankingReport) -> str:
    lines = [
        f"{report.n_queries:,} queries of {report.n_identities:,} identities over {report.n_images:,} "
        f"images; settings chosen with {report.n_validation_queries:,} queries of others",
        f"  {'plain':<21} mAP {report.plain_map:.4f}  success@1 {report.plain_success_at_1:.4f}"
        f"{_cost(report.plain_cpu_ms_per_query)}",
    ]
    for row in report.rerankers:
        lines.append(
            f"  {row.name:<21} mAP {_said(row.map_gain)}  "
            f"success@1 {_said(row.success_at_1_gain)}{_cost(row.cpu_ms_per_query)}  {row.verdict}"
        )
        if row.name != row.settings:
            lines.append(f"  {'':<21} {row.settings}")
    if report.n_identities < MIN_GROUPS:
        lines.append(f"  nothing is concluded from fewer than {MIN_GROUPS} identities")
    return "\n".join(lines)


def _said(gain: Gain) -> str:
    return f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"


def _cost(cpu_ms: float | None) -> str:
    return "" if cpu_ms is None else f"  {cpu_ms:.2f} CPU ms"
