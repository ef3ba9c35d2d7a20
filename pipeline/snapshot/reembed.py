"""Does the source still give the vectors that are published? A seeded sample is read and embedded again."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.catalog.fetched import FetchedImage
from pipeline.catalog.listing import rows_at
from pipeline.catalog.read import read_images
from pipeline.catalog.source import SourceSpec
from pipeline.embed.query import embed_queries
from pipeline.model.session import EmbeddingSession
from pipeline.snapshot.findings import Finding, Flaw
from pipeline.snapshot.manifest import PartRef
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.rows import live_vectors
from pipeline.storage.receipts import fetch
from pipeline.storage.store import ObjectStore

LEAST_COSINE = 0.9999
_BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Reembedded:
    """Of ``asked`` images: how many gave a vector to compare, and what the least cosine was.

    ``changed`` have other bytes in the source by now, ``gone`` are not there, ``unreadable`` are refused now.
    """

    asked: int
    compared: int
    changed: int
    gone: int
    unreadable: int
    least_cosine: float | None
    findings: tuple[Finding, ...]


def reembed_sample(
    snapshot: OpenSnapshot,
    session: EmbeddingSession,
    source: ObjectStore,
    spec: SourceSpec,
    n: int,
    seed: int,
) -> Reembedded:
    """Embeds ``n`` live images again, fewer if there are fewer, and compares with the stored vectors.

    The bytes must be those of the stored row, by their sha256, or by their version where an import did not
    know that; else there is nothing to compare. Imported vectors need only agree as well as was proven then.

    Raises:
        StorageError: the source cannot be read.
    """
    live = snapshot.live
    rng = np.random.default_rng(seed)
    rows = live.take(pa.array(np.sort(rng.choice(live.num_rows, min(n, live.num_rows), replace=False))))
    stored_ND = live_vectors(
        snapshot.store, rows, snapshot.content.parts, snapshot.content.model.dim, snapshot.cache
    )
    place = {image_id: number for number, image_id in enumerate(rows["image_id"].to_pylist())}
    digests, versions = rows["content_digest"].to_pylist(), rows["version"].to_pylist()
    found = {"compared": 0, "changed": 0, "unreadable": 0}
    cosines: dict[str, float] = {}
    for batch in _batches(snapshot, source, spec, rows):
        at = [place[image.image_id] for image in batch]
        same = [
            image
            for image, row in zip(batch, at, strict=True)
            if image.content_digest == digests[row] or (not digests[row] and image.version == versions[row])
        ]
        found["changed"] += len(batch) - len(same)
        embedded = embed_queries(session, [image.data for image in same])
        for image, x_D, reason in zip(same, embedded.xq_QD, embedded.reasons, strict=True):
            if reason is not None:
                found["unreadable"] += 1
                continue
            cosines[image.image_id] = _cosine(x_D, stored_ND[place[image.image_id]])
    found["compared"] = len(cosines)
    return Reembedded(
        asked=rows.num_rows,
        gone=rows.num_rows - sum(found.values()),
        **found,
        least_cosine=min(cosines.values(), default=None),
        findings=tuple(_findings(snapshot, rows, cosines)),
    )


def _batches(
    snapshot: OpenSnapshot, source: ObjectStore, spec: SourceSpec, rows: pa.Table
) -> Iterator[list[FetchedImage]]:
    """The images as the source has them now; those that are gone are left out."""
    table = snapshot.attributes.select(["image_id", "locator"])
    table = table.filter(pc.is_in(table["image_id"], value_set=rows["image_id"].combine_chunks()))
    id_at = dict(zip(table["locator"].to_pylist(), table["image_id"].to_pylist(), strict=True))
    known = set(id_at.values())
    listed = rows_at(source, spec, snapshot.store, list(id_at), snapshot.cache)
    batch: list[FetchedImage] = []
    for image in read_images(source, spec, listed):
        if image.reject is None and image.image_id in known:
            batch.append(image)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch


def _cosine(x_D: npt.NDArray[np.float32], stored_D: npt.NDArray[np.float32]) -> float:
    a_D, b_D = x_D.astype(np.float64), stored_D.astype(np.float64)
    return float(a_D @ b_D / (np.linalg.norm(a_D) * np.linalg.norm(b_D)))


def _findings(snapshot: OpenSnapshot, rows: pa.Table, cosines: dict[str, float]) -> Iterator[Finding]:
    """One for each part, naming its worst image."""
    parts = snapshot.content.parts
    least = {number: _least_cosine(snapshot, parts[number]) for number in pc.unique(rows["part"]).to_pylist()}
    worst: dict[str, tuple[float, str]] = {}
    for image_id, number in zip(rows["image_id"].to_pylist(), rows["part"].to_pylist(), strict=True):
        file = parts[number].embeddings
        if file is not None and not cosines.get(image_id, 1.0) >= least[number]:
            worst[file.key] = min(worst.get(file.key, (2.0, "")), (cosines[image_id], image_id))
    for key, (cosine, image_id) in worst.items():
        detail = (
            f"the source's bytes of {image_id} now give a vector of cosine {cosine:.6f} with the stored one"
        )
        yield Finding(flaw=Flaw.EMBEDDING, key=key, detail=detail)


def _least_cosine(snapshot: OpenSnapshot, part: PartRef) -> float:
    """How well a vector of the part must agree."""
    if part.embeddings is None:
        return LEAST_COSINE
    metadata = pq.read_schema(fetch(snapshot.store, part.embeddings, snapshot.cache)).metadata or {}
    return float(metadata.get(b"bitsieve.least_cosine", LEAST_COSINE))
