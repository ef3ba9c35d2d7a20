"""``bitsieve evaluate robustness``: what damaged images still find, level by level."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
import typer

from jobs.evaluate.benchmark import labels_for
from jobs.evaluate.embedded_sample import image_batches, session_of
from jobs.evaluate.page import Page, write_page
from jobs.evaluate.robustness_words import robustness_in_words
from jobs.evaluate.subject import label_column
from jobs.models import model_bytes
from jobs.output import AsJson, print_result
from jobs.place import Collection, Config, SnapshotNumber, Store, find_place
from jobs.progress import TerminalProgress
from jobs.run import software_versions
from pipeline.embed.query import embed_queries
from pipeline.errors import SourceError, UsageError
from pipeline.evaluate.aggregate import RESAMPLES
from pipeline.evaluate.coded_vectors import code_qualities, projected_qualities
from pipeline.evaluate.label_sample import sample_by_label
from pipeline.evaluate.published import published_val
from pipeline.evaluate.report.robustness_page import robustness_document
from pipeline.evaluate.robustness import FAR, CleanImages, Vectors, own_places
from pipeline.images.damage import Damage, DamageKind, damaged, usual_damages
from pipeline.images.decode import ImageRejected
from pipeline.index.sample import seeded_order
from pipeline.model.session import EmbeddingSession
from pipeline.snapshot.open import OpenSnapshot
from pipeline.storage import layout

_BATCH = 16
_MOST_PER_LABEL = 10
_FIT_ROWS = 20_000
_DIMS = (8, 16, 32, 64, 128, 256, 512)
_FOUND_AT = 10


def command(
    store: Store,
    label: Annotated[str | None, typer.Option(help="Attribute that makes two images relevant.")] = None,
    sample: Annotated[
        int, typer.Option(min=20, max=2_000, help="About how many images; each is embedded at every level.")
    ] = 300,
    model: Annotated[str | None, typer.Option(help="An ONNX file; the snapshot's model if absent.")] = None,
    damage: Annotated[
        list[DamageKind] | None, typer.Option(help="Only this kind; may be repeated. All if absent.")
    ] = None,
    far: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="False accept rate at which VAL is shown.")
    ] = FAR,
    seed: Annotated[int, typer.Option(help="Of the sample, of places and angles, of the bootstrap.")] = 0,
    collection: Collection = None,
    config: Config = None,
    sequence: SnapshotNumber = None,
    output: Page = None,
    as_json: AsJson = False,
) -> None:
    """Embeds a sample again under JPEG, fewer pixels, watermarks, blur, crop, rotation and other light.

    Example: bitsieve evaluate robustness --store index/ --label identity --sample 300 --damage jpeg
    """
    snapshot = find_place(store, collection, config).snapshot(sequence)
    column = label_column(snapshot, label)
    ids = snapshot.live["image_id"].to_pylist()
    labels = labels_for(snapshot, ids, column)
    rows = sample_by_label(ids, labels, sample, seed=seed, least_per_label=2, most_per_label=_MOST_PER_LABEL)
    if not len(rows):
        raise UsageError(
            f"no two images share their {column!r}", fix="choose a label that several images share"
        )
    sampled = {ids[row]: labels[row] or "" for row in rows.tolist()}
    where = model or layout.model(snapshot.content.model.id)
    data = snapshot.store.get(where) if model is None else model_bytes(model)
    with session_of(data, where) as session:
        levels = usual_damages(frozenset(damage or DamageKind), min(session.model.preprocess.size))
        embedded = _embed(snapshot, session, list(sampled), levels, seed)
        model_id = session.model.model_id
    result = {
        "label": column,
        "snapshot": snapshot.manifest.sequence,
        "digest": snapshot.manifest.digest,
        "model_id": model_id,
        **_judge(snapshot, embedded, sampled, model_id, far=far, seed=seed),
        "software": software_versions(),
    }
    if output is not None:
        write_page(output, robustness_document(result), result, snapshot)
    print_result(result, robustness_in_words(result), as_json=as_json)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Embedded:
    """Vectors by image id: of the images as they are, and of each level; what was rejected is absent."""

    clean: dict[str, Vectors] = field(default_factory=dict)
    levels: dict[Damage, dict[str, Vectors]] = field(default_factory=dict)


def _embed(
    snapshot: OpenSnapshot, session: EmbeddingSession, ids: Sequence[str], levels: Sequence[Damage], seed: int
) -> _Embedded:
    """Reads every image once and takes it through the pipeline as it is and at every level."""
    found = _Embedded(levels={one: {} for one in levels})
    with TerminalProgress() as progress, ThreadPoolExecutor(os.cpu_count()) as threads:
        progress.stage("robustness", len(ids), "images")
        done = 0
        for names, images in image_batches(snapshot, ids, _BATCH):
            _keep(session, names, images, found.clean)
            for one, vectors in found.levels.items():
                seeds = [seed] * len(names) if one.kind is DamageKind.WATERMARK else _own_seeds(names, seed)
                changed = threads.map(_damaged, images, [one] * len(names), seeds)
                _keep(session, names, list(changed), vectors)
            done += len(names)
            progress.advance(done)
    return found


def _own_seeds(names: Sequence[str], seed: int) -> list[int]:
    """Every image has places and angles of its own; a watermark is the same for all."""
    return [int(key) for key in seeded_order(names, seed)]


def _damaged(data: bytes, damage: Damage, seed: int) -> bytes | None:
    try:
        return damaged(data, damage, seed=seed)
    except ImageRejected:
        return None


def _keep(
    session: EmbeddingSession,
    names: Sequence[str],
    images: Sequence[bytes | None],
    vectors: dict[str, Vectors],
) -> None:
    embedded = embed_queries(session, images)
    rows = zip(names, embedded.xq_QD, embedded.reasons, strict=True)
    vectors.update({name: x_D for name, x_D, reason in rows if reason is None})


def _judge(
    snapshot: OpenSnapshot,
    embedded: _Embedded,
    labels: dict[str, str],
    model_id: str,
    *,
    far: float,
    seed: int,
) -> dict[str, Any]:
    ids = [image_id for image_id in labels if image_id in embedded.clean]
    if not ids:
        raise SourceError(
            f"none of {len(labels)} images could be embedded from {snapshot.manifest.source.uri}",
            fix="check that the source is still there",
        )
    x_ND = np.stack([embedded.clean[image_id] for image_id in ids])
    clean = CleanImages(x_ND, [labels[image_id] for image_id in ids], far=far, seed=seed)
    same_model = model_id == snapshot.content.model.id
    live = {name: row for row, name in enumerate(snapshot.live["image_id"].to_pylist()) if name in labels}
    row_of = {name: live[name] for name in ids}
    levels = [
        _level(snapshot if same_model else None, row_of, clean, damage, vectors)
        for damage, vectors in embedded.levels.items()
    ]
    encoder = snapshot.searcher.encoder if same_model else None
    codes = [*code_qualities(clean, x_ND, encoder)]
    others_ND = _others(snapshot, set(ids)) if same_model else None
    fitted_on_ND = x_ND if others_ND is None else others_ND
    dims = [d for d in _DIMS if d < x_ND.shape[1]]
    codes += projected_qualities(clean, x_ND, fitted_on_ND, dims)
    return {
        "far": far,
        "n_images": len(ids),
        "n_labels": len({labels[image_id] for image_id in ids}),
        "n_lost": len(labels) - len(ids),
        "dim": x_ND.shape[1],
        "clean": asdict(clean.quality()),
        "levels": levels,
        "codes": [one.to_json() for one in codes],
        "n_projection_fitted_on": len(fitted_on_ND),
        "projection_fitted_on_sample": others_ND is None,
        "seed": seed,
        "n_resamples": RESAMPLES,
    }


def _level(
    snapshot: OpenSnapshot | None,
    row_of: Mapping[str, int],
    clean: CleanImages,
    damage: Damage,
    vectors: dict[str, Vectors],
) -> dict[str, Any]:
    """What one level does; ``row_of`` are the clean images, in order, with their rows in the snapshot."""
    ids = list(row_of)
    rows_Q = np.array([row for row, image_id in enumerate(ids) if image_id in vectors], dtype=np.int64)
    about = {**asdict(damage), "name": damage.name, "n_rejected": len(ids) - len(rows_Q)}
    if not clean.enough(rows_Q):
        return {**about, "n_images": len(rows_Q)}
    names = [ids[row] for row in rows_Q.tolist()]
    x_QD = np.stack([vectors[name] for name in names])
    found_at: dict[str, float | None] = dict.fromkeys(
        ("finds_itself@1", f"finds_itself@{_FOUND_AT}", "median_place")
    )
    if snapshot is not None:
        answers = snapshot.searcher.search(x_QD, _FOUND_AT).ids
        for k in (1, _FOUND_AT):
            hits = [name in answer[:k] for name, answer in zip(names, answers, strict=True)]
            found_at[f"finds_itself@{k}"] = float(np.mean(hits))
        own_Q = np.array([row_of[name] for name in names], dtype=np.int64)
        found_at["median_place"] = float(np.median(own_places(x_QD, snapshot.vectors, own_Q)))
    return {
        **about,
        **asdict(clean.damaged(x_QD, rows_Q)),
        **found_at,
        "published_val": published_val(damage.kind.value, damage.level),
    }


def _others(snapshot: OpenSnapshot, sampled: set[str]) -> Vectors | None:
    """Vectors of images that are not in the sample, to fit a projection on; None if there are too few."""
    others = [row for row, one in enumerate(snapshot.live["image_id"].to_pylist()) if one not in sampled]
    step = max(1, len(others) // _FIT_ROWS)
    vectors: Vectors = snapshot.vectors
    return vectors[others[::step]] if len(others) >= vectors.shape[1] else None
