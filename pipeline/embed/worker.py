"""Embeds one image shard: fetch, decode, preprocess, infer, write one part and its rejects, then the receipt.

The worker is a plain class; Ray makes an actor of it elsewhere. It reads the source and writes the store
itself, so that only the shard's listing goes in and only a receipt comes out. Its output depends on the
shard, the model and the decode limits, never on batch size, threads or who runs it.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.catalog.plan import ImageShard
from pipeline.catalog.read import FetchedImage, read_images
from pipeline.catalog.source import SourceSpec
from pipeline.embed.outcome import Outcome, ShardOutcomes
from pipeline.embed.overlap import Stopwatch, ahead, mapped
from pipeline.embed.table import part_bytes, rejects_bytes
from pipeline.embed.watchdog import Watchdog
from pipeline.errors import DataCorrupt, StorageError, WorkerError
from pipeline.fingerprint import canonical_json, digest, task_key
from pipeline.images.decode import DecodeLimits, ImageRejected, quiet_decoder_warnings
from pipeline.images.isolate import IsolatedLoader
from pipeline.images.preprocess import LoadedImage, load_pixels
from pipeline.model.session import EmbeddingSession, Provider
from pipeline.storage import layout
from pipeline.storage.open import open_store
from pipeline.storage.receipts import DataFile, Receipt, read_receipt, upload, write_receipt
from pipeline.values import RejectReason

STAGE = "embed"
STAGE_VERSION = 2
PART = "embeddings"
REJECTS = "rejects"

_Pixels = npt.NDArray[Any]
_Load = Callable[[bytes], LoadedImage]


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
    fetch_ahead_bytes: int = 64 << 20


def embed_key(shard: ImageShard, model_id: str, limits: DecodeLimits, provider: Provider) -> str:
    """The key of a shard's part: the embed config, and the images with their versions and redo counter."""
    config = _config(model_id, limits, provider)
    if shard.redo:
        config["redo"] = shard.redo
    return task_key(STAGE, STAGE_VERSION, config, [shard.digest])


def config_digest(model_id: str, limits: DecodeLimits, provider: Provider) -> str:
    """The digest of the embed config: model, precision, provider family, decode limits."""
    return digest(_config(model_id, limits, provider))


def _config(model_id: str, limits: DecodeLimits, provider: Provider) -> dict[str, Any]:
    return {"model_id": model_id, "provider": provider, "dtype": "float32", "limits": asdict(limits)}


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
        if self._model.model_id != settings.model_id:
            raise DataCorrupt(
                f"{where} in {settings.store_uri} holds another model: its id is {self._model.model_id}",
                fix="delete the object and run again with --model, which puts the right file there",
            )
        self._watchdog = Watchdog(settings.limits.max_seconds)

    def run(self, shard: ImageShard) -> Receipt:
        """Embeds the shard unless it has a receipt, and returns the receipt.

        Raises:
            StorageError: source or store failed; nothing was decided about the images.
            WorkerError: rows and rejects do not add up to the shard (a bug, never to be ignored).
        """
        return self._embed(shard, self._load)

    def run_carefully(self, shard: ImageShard) -> Receipt:
        """As ``run``, but every image is decoded in a child that may die: slower, and finds the culprit."""
        with IsolatedLoader(self._model.preprocess, self._settings.limits) as loader:
            return self._embed(shard, loader.load)

    def _embed(self, shard: ImageShard, load: _Load) -> Receipt:
        settings = self._settings
        key = embed_key(shard, settings.model_id, settings.limits, settings.provider)
        done = read_receipt(self._store, STAGE, key)
        if done is not None:
            return done
        watch, outcomes = Stopwatch(), ShardOutcomes()
        with watch.measure("wall"):
            for batch in self._batches(shard, outcomes, load, watch):
                self._infer(batch, watch)
            self._check_source(outcomes)
            with watch.measure("write"):
                files, counts, facts = self._write(key, shard, outcomes)
        facts["seconds"] = {stage: round(spent, 4) for stage, spent in sorted(watch.seconds.items())}
        receipt = Receipt(stage=STAGE, key=key, files=files, counts=counts, facts=facts)
        return write_receipt(self._store, receipt)

    def _batches(
        self, shard: ImageShard, outcomes: ShardOutcomes, load: _Load, watch: Stopwatch
    ) -> Iterator[list[tuple[Outcome, _Pixels]]]:
        """Prepared images, several at a time, while the next ones are fetched and decoded."""
        settings = self._settings

        def prepare(entry: tuple[FetchedImage, Outcome]) -> tuple[Outcome, _Pixels | None]:
            with watch.measure("decode"):
                return entry[1], _pixels(*entry, load)

        fetched = read_images(self._source, settings.source, shard.table, settings.cache)
        waiting = ahead(fetched, _held_bytes, settings.fetch_ahead_bytes)
        entries = ((image, outcomes.add(image)) for image in _timed(waiting, watch))
        wanted = max(settings.batch_size, self._session.preferred_images)
        batch: list[tuple[Outcome, _Pixels]] = []
        for outcome, pixels in mapped(entries, prepare, settings.threads, wanted):
            if pixels is not None:
                batch.append((outcome, pixels))
            if len(batch) == wanted:
                yield batch
                batch = []
        if batch:
            yield batch

    def _check_source(self, outcomes: ShardOutcomes) -> None:
        """A shard of which nothing is there says something of the source, not of its images."""
        if any(outcome.reject is not RejectReason.SOURCE_MISSING for outcome in outcomes.outcomes):
            return
        if next(self._source.list_objects(), None) is None:
            raise StorageError(
                f"the catalog source {self._source.uri} is gone: nothing that was listed is there",
                fix="bring the source back and run again; nothing was recorded of its images",
            )

    def _load(self, data: bytes) -> LoadedImage:
        with self._watchdog.guard():
            return load_pixels(data, self._model.preprocess, self._settings.limits)

    def _infer(self, batch: list[tuple[Outcome, _Pixels]], watch: Stopwatch) -> None:
        with watch.measure("infer"):
            vectors_ND, ok_N = self._session.embed(np.stack([pixels for _, pixels in batch]))
        for (outcome, _), vector_D, ok in zip(batch, vectors_ND, ok_N, strict=True):
            outcome.vector_D = vector_D if ok else None

    def _write(
        self, key: str, shard: ImageShard, outcomes: ShardOutcomes
    ) -> tuple[dict[str, DataFile], dict[str, int], dict[str, Any]]:
        """Uploads the part and the rejects; their files, counts and facts for the receipt."""
        rows, vectors, rejects = outcomes.settled()
        if len(rows) + len(rejects) != shard.n_images:
            raise WorkerError(
                f"{shard.n_images} images went in, {len(rows)} rows and {len(rejects)} rejects came out",
                fix="report this as a bug of bitsieve; nothing was written",
            )
        files: dict[str, DataFile] = {}
        counts = {"rows": len(rows), "rejected": len(rejects)}
        facts: dict[str, Any] = {}
        if rows:
            vectors_ND = np.array(vectors, dtype=np.float32)
            data = part_bytes(rows, vectors_ND, self._metadata(shard))
            files[PART] = upload(self._store, "embeddings", key, ".parquet", data)
            norms = np.linalg.norm(vectors_ND.astype(np.float64), axis=1)
            facts = {"norm_min": float(norms.min()), "norm_max": float(norms.max())}
        if rejects:
            files[REJECTS] = upload(self._store, "rejects", key, ".parquet", rejects_bytes(rejects))
        for reject in rejects:
            name = f"rejected.{reject.reason.value}"
            counts[name] = counts.get(name, 0) + 1
        return files, counts, facts

    def _metadata(self, shard: ImageShard) -> dict[str, str]:
        """What the part says of itself: only what its key decides, so that a key has one content anywhere."""
        return {
            "bitsieve.model_id": self._settings.model_id,
            "bitsieve.preprocess": canonical_json(asdict(self._model.preprocess)).decode(),
            "bitsieve.source_digest": shard.digest,
            "bitsieve.stage": f"{STAGE}/{STAGE_VERSION}",
        }


def _pixels(image: FetchedImage, outcome: Outcome, load: _Load) -> _Pixels | None:
    """The model's input for the image; None if its outcome is settled without the model."""
    if outcome.reject is not None or outcome.same_as is not None:
        return None
    try:
        loaded = load(image.data)
    except ImageRejected as exc:
        outcome.reject, outcome.detail = exc.reason, exc.detail
        return None
    outcome.width_px, outcome.height_px = loaded.width_px, loaded.height_px
    return loaded.pixels


def _held_bytes(image: FetchedImage) -> int:
    return len(image.data) + 1024  # what the object itself takes, roughly


def _timed(items: Iterator[FetchedImage], watch: Stopwatch) -> Iterator[FetchedImage]:
    """The items; the time until each is there counts as waiting for the source."""
    while True:
        with watch.measure("fetch_wait"):
            item = next(items, None)
        if item is None:
            return
        yield item
