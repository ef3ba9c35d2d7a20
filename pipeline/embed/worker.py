"""Embeds one image shard: fetch, decode, preprocess, infer, write one part and its rejects, then the receipt.

The worker is a plain class; Ray makes an actor of it elsewhere. It reads the source and writes the store
itself, so that only the shard's listing goes in and only a receipt comes out. Its output depends on the
shard, the model and the decode limits, never on batch size, threads or who runs it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy.typing as npt

from pipeline.allocator import give_back_freed_memory
from pipeline.catalog.plan import ImageShard
from pipeline.catalog.read import FetchedImage, read_images
from pipeline.embed.outcome import Outcome, ShardBooks
from pipeline.embed.overlap import Room, Stopwatch, mapped
from pipeline.embed.read_ahead import ReadAhead, Source
from pipeline.embed.reuse import EarlierVectors
from pipeline.embed.table import part_schema
from pipeline.embed.task import PART, REJECTS, REUSED, STAGE, STAGE_VERSION, EmbedSettings, embed_key
from pipeline.embed.watchdog import Watchdog
from pipeline.errors import DataCorrupt, StorageError, WorkerError
from pipeline.fingerprint import canonical_json
from pipeline.images.decode import ImageRejected, quiet_decoder_warnings
from pipeline.images.isolate import IsolatedLoader
from pipeline.images.preprocess import LoadedImage, load_pixels
from pipeline.model.session import EmbeddingSession
from pipeline.storage import layout
from pipeline.storage.open import open_store
from pipeline.storage.receipts import DataFile, Receipt, read_receipt, upload, write_receipt
from pipeline.storage.traffic import BYTES, GET, PUT
from pipeline.values import RejectReason

_SAME = ("bitsieve.model_id", "bitsieve.preprocess", "bitsieve.stage")  # in parts that may serve again
_MOST_SETTLED = 1024  # outcomes without a vector that may wait for those before them

_Pixels = npt.NDArray[Any]
_Prepared = tuple[Outcome, _Pixels | None]
_Load = Callable[[bytes], LoadedImage]


class EmbedWorker:
    """Loads the model once and embeds shards, one at a time."""

    def __init__(self, settings: EmbedSettings) -> None:
        quiet_decoder_warnings()
        self._settings = settings
        self._store = open_store(settings.store_uri)
        self._source = open_store(settings.source.uri)
        where = layout.model(settings.model_id)
        self._session = EmbeddingSession(
            self._store.get(where),
            provider=settings.provider,
            precision=settings.precision,
            threads=settings.threads,
            batch_size=settings.batch_size,
            cache=settings.cache,
            where=where,
        )
        self._model = self._session.model
        if self._model.model_id != settings.model_id:
            raise DataCorrupt(
                f"{where} in {settings.store_uri} holds another model: its id is {self._model.model_id}",
                fix="delete the object and run again with --model, which puts the right file there",
            )
        self._watchdog = Watchdog(settings.limits.max_seconds)
        self._decoding = Room(settings.memory_budget_bytes // 4)
        self._fetching = ReadAhead(_held_bytes, settings.memory_budget_bytes // 8)
        self._upcoming: Source[FetchedImage] | None = None
        self._told: Counter[str] = Counter()

    def expect(self, shard: ImageShard) -> None:
        """See ``ExpectantWorker``: the shard's images are fetched once those of the one before it are."""
        self._upcoming = self._images(shard)

    def run(self, shard: ImageShard) -> Receipt:
        """Embeds the shard unless it has a receipt, and returns the receipt.

        Raises:
            StorageError: source or store failed; nothing was decided about the images.
            WorkerError: rows and rejects do not add up to the shard (a bug, never to be ignored).
        """
        return self._embed(shard, self._load, self._settings.threads)

    def run_carefully(self, shard: ImageShard) -> Receipt:
        """As ``run``, but every image is decoded in a child that may die: slower, and finds the culprit."""
        with IsolatedLoader(self._model.preprocess, self._settings.limits) as loader:
            return self._embed(shard, loader.load, 1)

    def _embed(self, shard: ImageShard, load: _Load, threads: int) -> Receipt:
        key = embed_key(shard, self._settings)
        upcoming, self._upcoming = self._upcoming, None
        done = read_receipt(self._store, STAGE, key)
        if done is not None:
            return done
        watch = Stopwatch()
        with (
            watch.measure("wall"),
            self._books(shard) as books,
        ):
            images = self._fetching.items(self._images(shard), upcoming)
            for batch in self._batches(images, books, load, threads, watch):
                self._infer(batch, watch)
                with watch.measure("write"):
                    books.settle([outcome for outcome, _ in batch])
            self._check_source(shard, books)
            with watch.measure("write"):
                files, counts, facts = self._write(key, shard, books)
        facts["requests"], facts["bytes_read"] = self._asked()
        facts["seconds"] = {stage: round(spent, 4) for stage, spent in sorted(watch.seconds.items())}
        receipt = Receipt(stage=STAGE, key=key, files=files, counts=counts, facts=facts)
        give_back_freed_memory()  # else what one shard left in pieces grows with the number of shards
        return write_receipt(self._store, receipt)

    def _images(self, shard: ImageShard) -> Source[FetchedImage]:
        read_ahead = self._settings.memory_budget_bytes // 4
        read = partial(read_images, self._source, self._settings.source, shard.table, budget_bytes=read_ahead)
        return Source(shard.digest, read)

    def _batches(
        self,
        images: Iterator[FetchedImage],
        books: ShardBooks,
        load: _Load,
        threads: int,
        watch: Stopwatch,
    ) -> Iterator[list[_Prepared]]:
        """Images in plan order, prepared if they need the model, while the next are fetched and decoded."""
        settings = self._settings

        def prepare(entry: tuple[FetchedImage, Outcome]) -> _Prepared:
            with watch.measure("decode"):
                return entry[1], _pixels(*entry, load)

        entries = ((image, books.open(image)) for image in _timed(images, watch))
        wanted = max(settings.batch_size, self._session.preferred_images)
        affordable = settings.memory_budget_bytes // 4 // self._model.input_bytes
        wanted = max(1, min(wanted, affordable // 2))
        batch: list[_Prepared] = []
        n_inputs = 0
        prepared_images = mapped(
            entries,
            prepare,
            threads=threads,
            waiting=wanted,
            size_bytes=lambda entry: _held_bytes(entry[0]),
            budget_bytes=settings.memory_budget_bytes // 8,
        )
        for prepared in prepared_images:
            batch.append(prepared)
            n_inputs += prepared[1] is not None
            if n_inputs == wanted or len(batch) >= wanted + _MOST_SETTLED:
                yield batch
                batch, n_inputs = [], 0
        if batch:
            yield batch

    def _check_source(self, shard: ImageShard, books: ShardBooks) -> None:
        """A shard of which nothing is there says something of the source, not of its images."""
        if books.reject_counts.get(RejectReason.SOURCE_MISSING, 0) < shard.n_images:
            return
        if next(self._source.list_objects(), None) is None:
            raise StorageError(
                f"the catalog source {self._source.uri} is gone: nothing that was listed is there",
                fix="bring the source back and run again; nothing was recorded of its images",
            )

    def _load(self, data: bytes) -> LoadedImage:
        with self._decoding.guest() as take, self._watchdog.guard() as restart:

            def make_room(pixel_bytes: int) -> None:
                take(pixel_bytes)
                restart()

            return load_pixels(data, self._model.preprocess, self._settings.limits, make_room)

    def _infer(self, batch: list[_Prepared], watch: Stopwatch) -> None:
        inputs = [(outcome, pixels) for outcome, pixels in batch if pixels is not None]
        if not inputs:
            return
        with watch.measure("infer"):
            vectors_ND, ok_N = self._session.embed([pixels for _, pixels in inputs])
        for (outcome, _), vector_D, ok in zip(inputs, vectors_ND, ok_N, strict=True):
            outcome.vector_D = vector_D if ok else None

    def _books(self, shard: ImageShard) -> ShardBooks:
        """Empty books that know where earlier parts have vectors of such images."""
        settings, dim = self._settings, self._model.card.dim
        metadata = self._metadata(shard)
        earlier = None
        if shard.hints is not None:
            marks = {name: metadata[name] for name in _SAME}
            schema = part_schema(dim, settings.dtype)
            earlier = EarlierVectors(self._store, settings.cache, shard.hints, schema, marks)
        return ShardBooks(settings.cache, dim, metadata, settings.dtype, earlier)

    def _write(
        self, key: str, shard: ImageShard, books: ShardBooks
    ) -> tuple[dict[str, DataFile], dict[str, int], dict[str, Any]]:
        """Uploads the part and the rejects; their files, counts and facts for the receipt."""
        n_rejected = sum(books.reject_counts.values())
        if books.n_rows + n_rejected != shard.n_images:
            raise WorkerError(
                f"{shard.n_images} images went in, {books.n_rows} rows and {n_rejected} rejects came out",
                fix="report this as a bug of bitsieve; nothing was written",
            )
        part, rejects = books.close()
        files: dict[str, DataFile] = {}
        counts = {"rows": books.n_rows, "rejected": n_rejected}
        counts |= {f"rejected.{reason.value}": n for reason, n in sorted(books.reject_counts.items())}
        if books.n_reused:
            counts[REUSED] = books.n_reused
        facts: dict[str, Any] = {}
        if part is not None:
            files[PART] = upload(self._store, "embeddings", key, ".parquet", part)
            facts = {"norm_min": books.norm_min, "norm_max": books.norm_max}
        if rejects is not None:
            files[REJECTS] = upload(self._store, "rejects", key, ".parquet", rejects)
        return files, counts, facts

    def _asked(self) -> tuple[dict[str, int], int]:
        """Since the last shard: GETs of the source, PUTs to the store (and the receipt to come), bytes."""
        source, store = self._source.traffic.so_far(), self._store.traffic.so_far()
        so_far = Counter({GET: source[GET], PUT: store[PUT] + 1, BYTES: source[BYTES]})
        now = so_far - self._told
        self._told = so_far
        return {GET: now[GET], PUT: now[PUT]}, now[BYTES]

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
    if outcome.reject is not None or outcome.is_repeat:
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
