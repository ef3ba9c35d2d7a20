"""Embeds a sample of a snapshot's images again, from the bytes of the source, as a night does."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from jobs.evaluate.pictures import images_of
from jobs.models import model_bytes
from pipeline.embed.query import embed_queries
from pipeline.errors import SourceError
from pipeline.images.decode import quiet_decoder_warnings
from pipeline.model.session import EmbeddingSession
from pipeline.snapshot.open import OpenSnapshot

_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmbeddedSample:
    """The images that have a vector, in the order asked for, and how many were lost on the way."""

    ids: tuple[str, ...]
    x_ND: npt.NDArray[np.float32]
    n_gone: int
    """Not in the source any more."""
    n_rejected: int
    """Of which the pipeline made no vector."""
    images_per_s: float


def session_of(data: bytes, where: str) -> EmbeddingSession:
    """The model on this machine's cores."""
    quiet_decoder_warnings()
    return EmbeddingSession(data, threads=os.cpu_count() or 1, where=where)


def embed_sample(snapshot: OpenSnapshot, ids: Sequence[str], model: str) -> EmbeddedSample:
    """Vectors of images of a snapshot by the model file ``model``.

    Raises:
        SourceError: none of them is in the source.
        ModelError: the file is no model.
    """
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    n_rejected, begun = 0, time.perf_counter()
    with session_of(model_bytes(model), Path(model).name) as session:
        for names, data in image_batches(snapshot, ids):
            found = embed_queries(session, data)
            for name, x_D, reason in zip(names, found.xq_QD, found.reasons, strict=True):
                if reason is None:
                    vectors[name] = x_D
                else:
                    n_rejected += 1
    spent_s = time.perf_counter() - begun
    kept = tuple(image_id for image_id in ids if image_id in vectors)
    if not kept:
        raise SourceError(
            f"none of {len(ids)} images could be embedded again from {snapshot.manifest.source.uri}",
            fix="check that the source is still there",
        )
    return EmbeddedSample(
        ids=kept,
        x_ND=np.stack([vectors[image_id] for image_id in kept]),
        n_gone=len(ids) - len(kept) - n_rejected,
        n_rejected=n_rejected,
        images_per_s=round(len(kept) / spent_s, 2),
    )


def image_batches(
    snapshot: OpenSnapshot, ids: Sequence[str], size: int = _BATCH
) -> Iterator[tuple[list[str], list[bytes]]]:
    """Ids and bytes of those images that the source still has, some at a time.

    Raises:
        StorageError: the source's store failed.
    """
    there = ((image_id, image.data) for image_id, image in images_of(snapshot, ids) if image.reject is None)
    while batch := list(islice(there, size)):
        yield [image_id for image_id, _ in batch], [data for _, data in batch]
