"""Embeds one image shard: fetch, decode, preprocess, infer, write one part and its rejects, then the receipt.

The worker is a plain class; Ray makes an actor of it elsewhere. It reads the source and writes the store
itself, so that only the shard's listing goes in and only a receipt comes out. Its output depends on the
shard, the model and the decode limits, never on batch size, threads or who runs it.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.catalog.plan import ImageShard
from pipeline.catalog.read import FetchedImage, read_images
from pipeline.catalog.source import SourceSpec
from pipeline.embed.outcome import Outcome, ShardOutcomes
from pipeline.embed.table import EmbeddedImage, part_bytes, rejects_bytes
from pipeline.errors import WorkerError
from pipeline.fingerprint import task_key
from pipeline.images.decode import DecodeLimits, ImageRejected, quiet_decoder_warnings
from pipeline.images.preprocess import load_pixels
from pipeline.model.session import EmbeddingSession, Provider
from pipeline.storage import layout
from pipeline.storage.open import open_store
from pipeline.storage.receipts import DataFile, Receipt, read_receipt, upload, write_receipt
from pipeline.values import Reject

STAGE = "embed"
STAGE_VERSION = 1
PART = "embeddings"
REJECTS = "rejects"

_Pixels = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSettings:
    """What an embedding worker has to know; small and picklable.

    ``provider``, ``threads`` and ``batch_size`` say how to compute, not what: they are in no key.
    """

    store_uri: str
    source: SourceSpec
    model_id: str
    cache: Path
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    provider: Provider = "cpu"
    threads: int = 1
    batch_size: int = 8


def embed_key(shard: ImageShard, model_id: str, limits: DecodeLimits, provider: Provider) -> str:
    """The key of a shard's part: model, precision, provider family, decode limits, images and versions."""
    config = {"model_id": model_id, "provider": provider, "dtype": "float32", "limits": asdict(limits)}
    return task_key(STAGE, STAGE_VERSION, config, [shard.digest])


class EmbedWorker:
    """Loads the model once and embeds shards, one at a time."""

    def __init__(self, settings: EmbedSettings) -> None:
        quiet_decoder_warnings()
        self._settings = settings
        self._store = open_store(settings.store_uri)
        self._source = open_store(settings.source.uri)
        where = layout.model(settings.model_id)
        self._session = EmbeddingSession(
            self._store.get(where), provider=settings.provider, threads=settings.threads, where=where
        )
        self._model = self._session.model

    def run(self, shard: ImageShard) -> Receipt:
        """Embeds the shard unless it has a receipt, and returns the receipt.

        Raises:
            StorageError: source or store failed; nothing was decided about the images.
            WorkerError: rows and rejects do not add up to the shard (a bug, never to be ignored).
        """
        settings = self._settings
        key = embed_key(shard, settings.model_id, settings.limits, settings.provider)
        done = read_receipt(self._store, STAGE, key)
        if done is not None:
            return done
        outcomes = ShardOutcomes()
        for batch in self._batches(shard, outcomes):
            self._infer(batch)
        rows, vectors, rejects = outcomes.settled()
        if len(rows) + len(rejects) != shard.n_images:
            raise WorkerError(
                f"{shard.n_images} images went in, {len(rows)} rows and {len(rejects)} rejects came out",
                fix="report this as a bug of bitsieve; nothing was written",
            )
        vectors_ND = np.array(vectors, dtype=np.float32).reshape(len(rows), self._model.card.dim)
        return self._write(key, rows, vectors_ND, rejects)

    def _batches(self, shard: ImageShard, outcomes: ShardOutcomes) -> Iterator[list[tuple[Outcome, _Pixels]]]:
        batch: list[tuple[Outcome, _Pixels]] = []
        for image in read_images(self._source, self._settings.source, shard.table, self._settings.cache):
            outcome = outcomes.add(image)
            pixels = self._pixels(image, outcome)
            if pixels is not None:
                batch.append((outcome, pixels))
            if len(batch) == self._settings.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _pixels(self, image: FetchedImage, outcome: Outcome) -> _Pixels | None:
        """The model's input for the image; None if its outcome is settled without the model."""
        if outcome.reject is not None or outcome.same_as is not None:
            return None
        try:
            loaded = load_pixels(image.data, self._model.preprocess, self._settings.limits)
        except ImageRejected as exc:
            outcome.reject, outcome.detail = exc.reason, exc.detail
            return None
        outcome.width_px, outcome.height_px = loaded.width_px, loaded.height_px
        return loaded.pixels

    def _infer(self, batch: list[tuple[Outcome, _Pixels]]) -> None:
        vectors_ND, ok_N = self._session.embed(np.stack([pixels for _, pixels in batch]))
        for (outcome, _), vector_D, ok in zip(batch, vectors_ND, ok_N, strict=True):
            outcome.vector_D = vector_D if ok else None

    def _write(
        self, key: str, rows: list[EmbeddedImage], vectors_ND: npt.NDArray[np.float32], rejects: list[Reject]
    ) -> Receipt:
        metadata = {
            "bitsieve.model_id": self._settings.model_id,
            "bitsieve.source": self._settings.source.uri,
            "bitsieve.stage": f"{STAGE}/{STAGE_VERSION}",
        }
        files: dict[str, DataFile] = {}
        counts = {"rows": len(rows), "rejected": len(rejects)}
        facts: dict[str, float] = {}
        if rows:
            files[PART] = upload(
                self._store, "embeddings", key, ".parquet", part_bytes(rows, vectors_ND, metadata)
            )
            norms = np.linalg.norm(vectors_ND.astype(np.float64), axis=1)
            facts = {"norm_min": float(norms.min()), "norm_max": float(norms.max())}
        if rejects:
            files[REJECTS] = upload(self._store, "rejects", key, ".parquet", rejects_bytes(rejects))
        for reject in rejects:
            name = f"rejected.{reject.reason.value}"
            counts[name] = counts.get(name, 0) + 1
        return write_receipt(
            self._store, Receipt(stage=STAGE, key=key, files=files, counts=counts, facts=facts)
        )
