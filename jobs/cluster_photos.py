"""``bitsieve cluster-photos``: which images show the same, without a query; or nearly the same picture."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from jobs.evaluate.page import write_page
from jobs.grouping import Grouping, largest_groups, sizes
from jobs.near_duplicates import census
from jobs.output import AsJson, print_result, visible
from jobs.place import Collection, Config, SnapshotNumber, Store, find_place
from jobs.search_answers import labels_of
from pipeline.errors import UsageError
from pipeline.evaluate.clustering import Linkage, cluster
from pipeline.evaluate.clustering_quality import ClusteringQuality, clustering_quality
from pipeline.evaluate.hubness import Hubness, hubness
from pipeline.evaluate.ranking import LabelledVectors
from pipeline.evaluate.report.clusters_page import clusters_document
from pipeline.evaluate.verification import Options, Subject, verify_all_pairs
from pipeline.snapshot.neighbour_graph import neighbour_graph
from pipeline.snapshot.open import OpenSnapshot

_MOST_IN_PAIRS = 20_000  # labelled images whose pairs choose the threshold
_CLUSTERS_SHOWN = 40
_IMAGES_SHOWN = 12


def command(
    store: Store,
    label: Annotated[
        str | None, typer.Option(help="Attribute that judges the clusters and chooses the threshold.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Squared distance at which images stay apart; by --far if absent.")
    ] = None,
    far: Annotated[float, typer.Option(help="False accept rate that chooses the threshold.")] = 0.001,
    linkage: Annotated[str, typer.Option(help="average, complete or single.")] = "average",
    neighbours: Annotated[
        int, typer.Option(min=1, help="With how many others an image may be connected.")
    ] = 32,
    near_duplicates: Annotated[
        bool, typer.Option("--near-duplicates", help="Groups of images whose codes are nearly equal instead.")
    ] = False,
    radius: Annotated[
        int | None, typer.Option(help="With --near-duplicates: differing bits at most; 4 % if absent.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="With --near-duplicates: the attribute that groups are counted by.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Parquet file of image_id and cluster.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="HTML contact sheet; JSON beside it.")] = None,
    collection: Collection = None,
    config: Config = None,
    sequence: SnapshotNumber = None,
    as_json: AsJson = False,
) -> None:
    """Clusters of images that show the same; with --near-duplicates groups of copies.

    Example: bitsieve cluster-photos --store index/ --label identity -o clusters.parquet --page clusters.html
    """
    if not near_duplicates and (radius is not None or by is not None):
        raise UsageError("--radius and --by are about near duplicates", fix="add --near-duplicates")
    how = _linkage(linkage)
    if not 0 < far < 1:
        raise UsageError(f"a false accept rate is above 0 and below 1, got {far:g}")
    snapshot = find_place(store, collection, config).snapshot(sequence)
    if snapshot.content.live_rows == 0:
        raise UsageError("the snapshot is empty: there is nothing to put together")
    if near_duplicates:
        grouping = census(snapshot, radius, None if by is None else by.removeprefix("@"))
    else:
        column = label.removeprefix("@") if label else snapshot.manifest.source.label
        chosen = threshold if threshold is not None else _threshold_at(snapshot, column, far)
        grouping = _clusters(snapshot, column, chosen, how, neighbours)
    result: dict[str, Any] = {
        "snapshot": snapshot.manifest.sequence,
        "digest": snapshot.manifest.digest,
        "model_id": snapshot.content.model.id,
        **grouping.result,
    }
    if output is not None:
        grouping.write(output)
        result["output"] = str(output)
    if page is not None:
        write_page(page, grouping.document, result, snapshot)
    where = [f"written to {file}" for file in (output, page) if file is not None]
    print_result(result, "\n".join([grouping.words, *where]), as_json=as_json)


def _linkage(name: str) -> Linkage:
    known: dict[str, Linkage] = {"average": "average", "complete": "complete", "single": "single"}
    if name not in known:
        raise UsageError(f"there is no linkage {name!r}", fix=f"choose one of {', '.join(known)}")
    return known[name]


def _threshold_at(snapshot: OpenSnapshot, column: str | None, far: float) -> float:
    """The distance below which ``far`` of the pairs with different labels lie.

    Raises:
        UsageError: no labels, or too few different pairs.
    """
    if column is None:
        raise UsageError(
            "without labels nothing says at which distance images show something else",
            fix="pass --threshold, a squared distance such as 0.8, or --label NAME",
        )
    ids = snapshot.live["image_id"].to_pylist()
    labels = labels_of(snapshot, ids, column)
    labelled = np.array([row for row, image_id in enumerate(ids) if image_id in labels], dtype=np.int64)
    rows = np.sort(np.random.default_rng(0).permutation(labelled)[:_MOST_IN_PAIRS])
    names = [ids[row] for row in rows.tolist()]
    base = LabelledVectors(x_ND=snapshot.vectors[rows], ids=names, labels=[labels[name] for name in names])
    asked = Options(fars=(far,), n_resamples=1)
    found = verify_all_pairs(base, Subject(model_id=""), asked).val_at_far[f"{far:g}"]
    if found.threshold is None:
        raise UsageError(f"--far {far:g}: {found.reason}", fix="pass --threshold, or a larger --far")
    return found.threshold


def _clusters(
    snapshot: OpenSnapshot, column: str | None, threshold: float, linkage: Linkage, neighbours: int
) -> Grouping:
    graph = neighbour_graph(snapshot.searcher, neighbours)
    x_ND = snapshot.searcher.vectors(graph.place_N)
    ids = snapshot.searcher.ids(graph.place_N)
    found = cluster(x_ND, graph.neighbour_NK, graph.distance_NK, threshold, linkage=linkage)
    by_id = {} if column is None else labels_of(snapshot, ids.to_pylist(), column)
    labels = [by_id.get(image_id) for image_id in ids.to_pylist()]
    quality = clustering_quality(found.cluster_N, labels) if by_id else None
    hubs = hubness(graph.neighbour_NK, ids.to_pylist())
    result = {
        "threshold": threshold,
        "linkage": linkage,
        "neighbours": neighbours,
        **sizes(found.cluster_N),
        "n_components_cut": found.n_components_cut,
        "n_crowded": found.n_crowded,
        "label": column,
        "quality": None if quality is None else asdict(quality),
        "hubness": hubs.to_json(),
        "clusters": largest_groups(ids, found.cluster_N, _CLUSTERS_SHOWN, _IMAGES_SHOWN),
    }
    return Grouping(
        ids=ids,
        group_N=found.cluster_N,
        column="cluster",
        result=result,
        words=_in_words(result, quality, hubs),
        document=clusters_document(result, snapshot.manifest.sequence, snapshot.manifest.digest),
    )


def _in_words(result: dict[str, Any], quality: ClusteringQuality | None, hubs: Hubness) -> str:
    lines = [
        f"{result['n_groups']:,} clusters of {result['n_images']:,} images, {result['n_singletons']:,} of "
        f"one image, the largest of {result['largest']:,} ({result['linkage']} linkage, threshold "
        f"{result['threshold']:.4f})"
    ]
    if result["n_crowded"]:
        lines.append(
            f"  {result['n_crowded']:,} images have {result['neighbours']} neighbours or more below the "
            "threshold: with more --neighbours clusters may join"
        )
    if quality is not None:
        for name, agreement in (("BCubed", quality.bcubed), ("pairwise", quality.pairwise)):
            lines.append(
                f"  {name:<9} precision {agreement.precision:.4f}  recall {agreement.recall:.4f}  "
                f"F {agreement.f:.4f}"
            )
        lines.append(f"  ARI {quality.ari:.4f}  NMI {quality.nmi:.4f}")
    often = ", ".join(f"{visible(hub.image_id)} ({hub.occurrences})" for hub in hubs.hubs[:3])
    lines.append(
        f"  among the {hubs.k} nearest: {hubs.n_never:,} images of nobody, skewness {hubs.skewness:.2f}, "
        f"most often {often or 'nobody'}"
    )
    return "\n".join(lines)
