"""``bitsieve evaluate index``: whether the index finds what exact search finds, and what it costs."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from jobs.evaluate.index_words import index_in_words
from jobs.evaluate.page import Page, write_page
from jobs.evaluate.subject import numbers
from jobs.output import AsJson, print_result, say
from jobs.place import Collection, Config, SnapshotNumber, Store, find_place
from pipeline.evaluate.evaluation import Estimate
from pipeline.evaluate.index_quality import IndexQuality, evaluate_index
from pipeline.evaluate.index_queries import fresh_queries, neighbour_distances
from pipeline.evaluate.report.facts import CurvePoint, IndexFacts
from pipeline.evaluate.report.index_page import index_document
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.selection import narrowed


def command(
    store: Store,
    ks: Annotated[str, typer.Option("-k", help="For which k recall is measured, with commas.")] = "1,10,100",
    n_queries: Annotated[int, typer.Option("--queries", min=1, help="How many fresh queries.")] = 1_000,
    seed: Annotated[int, typer.Option(help="Draws other queries.")] = 0,
    collection: Collection = None,
    config: Config = None,
    sequence: SnapshotNumber = None,
    output: Page = None,
    as_json: AsJson = False,
) -> None:
    """Recall of the index against exact search on fresh queries, and bits, lists, bytes, speed, age.

    Example: bitsieve evaluate index --store index/ -k 1,10,100
    """
    snapshot = find_place(store, collection, config).snapshot(sequence)
    quality, result = index_report(snapshot, numbers(ks), n_queries, seed)
    if output is not None:
        write_page(output, index_document(result, _curve_facts(snapshot, quality)), result, snapshot)
    for warning in result["warnings"]:
        say(f"bitsieve: warning: {warning}")
    print_result(result, index_in_words(result), as_json=as_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Staleness:
    """What past nights have left behind; compaction takes it away."""

    rows: int
    dead_rows: int
    dead_share: float
    worst_dead_share: float
    """Of the index shard with the largest share."""
    index_shards: int
    delta_shards: int
    """Index shards that came after the oldest ones."""
    attribute_layers: int


def index_report(
    snapshot: OpenSnapshot, ks: tuple[int, ...], n_queries: int, seed: int
) -> tuple[IndexQuality, dict[str, Any]]:
    """Measures the index of a snapshot; the values, and the JSON that scripts rely on."""
    manifest, searcher = snapshot.manifest, snapshot.searcher
    queries = fresh_queries(searcher, n_queries, seed)
    truth_QK, known = neighbour_distances(searcher, queries, max(ks), manifest.digest, snapshot.cache)
    quality = evaluate_index(searcher, queries, truth_QK, ks, narrowed)
    result = {
        "snapshot": manifest.sequence,
        "digest": manifest.digest,
        "target": snapshot.content.operating_point().target,
        "seed": seed,
        "truth_was_known": known,
        **quality.to_json(),
        "staleness": asdict(_staleness(snapshot)),
    }
    return quality, result | {"warnings": _warnings(snapshot, quality)}


def _staleness(snapshot: OpenSnapshot) -> Staleness:
    content, shards = snapshot.content, snapshot.searcher.shards
    since = {part.key: part.since for part in content.parts}
    first = [min((since[key] for key in ref.parts), default=0) for ref in content.index_shards]
    dead_share = [1 - shard.n_live / shard.n_rows if shard.n_rows else 0.0 for shard in shards]
    rows = sum(shard.n_rows for shard in shards)
    dead = rows - snapshot.searcher.n_live
    return Staleness(
        rows=rows,
        dead_rows=dead,
        dead_share=round(dead / rows, 4) if rows else 0.0,
        worst_dead_share=round(max(dead_share, default=0.0), 4),
        index_shards=len(shards),
        delta_shards=sum(one > min(first) for one in first),
        attribute_layers=len(content.attributes),
    )


def _warnings(snapshot: OpenSnapshot, quality: IndexQuality) -> list[str]:
    """What somebody should do something about."""
    point = snapshot.content.operating_point()
    said = []
    measured = quality.recall.get(point.k)
    if measured is not None and measured.high < point.target:
        said.append(
            f"ann_recall@{point.k} is {measured.mean:.4f} (at most {measured.high:.4f}), below the target of "
            f"{point.target}: run `bitsieve reindex --refit`"
        )
    for number, one in enumerate(quality.self_queries):
        if one.found < one.asked:
            said.append(
                f"index shard {number}: {one.asked - one.found} of {one.asked} rows do not find themselves"
            )
    if not quality.n_queries:
        said.append("there are no images to ask with: no recall is measured")
    return said


def _curve_facts(snapshot: OpenSnapshot, quality: IndexQuality) -> IndexFacts:
    """What the drawing of the curve needs, for the k that the snapshot is calibrated for or the nearest."""
    point = snapshot.content.operating_point()
    k = min(quality.recall, key=lambda k: abs(k - point.k), default=point.k)
    found = quality.recall.get(k)
    shown = [one for one in quality.curve if k in one.recall]
    return IndexFacts(
        method=quality.method,
        n_vectors=quality.n_vectors,
        bits=point.bits or 0,
        candidates=quality.candidates.get(k) or 0,
        recall_asked=point.target,
        recall=Estimate(mean=0, low=0, high=0) if found is None else Estimate(**asdict(found)),
        n_calibration_queries=quality.n_queries,
        k=k,
        curve=tuple(CurvePoint(candidates=one.candidates, recall=one.recall[k]) for one in shown),
    )
