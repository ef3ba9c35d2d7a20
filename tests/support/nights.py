"""Nights of a collection in one process: a source, a store, a tiny model; each night is checked."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jobs.imported import Importer
from jobs.reindex import Night, backfill, reindex
from jobs.run import Run
from jobs.sitting import Sitting
from pipeline.catalog.change_list import ChangeList
from pipeline.cluster.pool import Pool
from pipeline.config import CatalogConfig
from pipeline.fingerprint import sealed, unsealed
from pipeline.model.described import remembered
from pipeline.model.file import read_model
from pipeline.snapshot.open import OpenSnapshot
from pipeline.storage import layout
from pipeline.storage.local import LocalStore
from pipeline.storage.probe import prepare_store
from pipeline.telemetry import EventLog
from tests.support.inline_pool import InlinePool
from tests.support.models import pool_model
from tests.support.tiny_catalogs import jpeg, write_folder


class Silence:
    """Progress that nobody looks at."""

    def stage(self, name: str, total: int, unit: str) -> None:
        pass

    def advance(self, done: int, note: str = "") -> None:
        pass


@dataclass
class Collection:
    """A collection in ``folder``; ``night`` runs one and keeps its run and pool."""

    folder: Path
    model: bytes = field(default_factory=pool_model)
    settings: dict[str, Any] = field(default_factory=dict)
    pool: InlinePool = field(default_factory=InlinePool)
    cluster: Pool | None = None  # carries out the tasks in place of ``pool``
    run: Run | None = None
    n_runs: int = 0
    changes: ChangeList | None = None

    def __post_init__(self) -> None:
        self.source.mkdir(parents=True, exist_ok=True)
        self.use(self.model)

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.folder / "store")

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def use(self, model: bytes) -> None:
        """Takes this model; store and cache know it already, as after a first night: no child is started."""
        path = self.folder / "model.onnx"
        if not path.is_file() or path.read_bytes() != model:  # another driver may be reading it
            path.write_bytes(model)
        prepare_store(self.store)
        known = remembered(model, self.cache, partial(read_model, model, "tiny"))
        self.store.put(layout.model(known.model_id), model)

    def night(self, importer: Importer | None = None, **settings: Any) -> Night:
        """One night; what it published is checked against the identity and its own files."""
        return self._checked(reindex(self._run(settings), importer))

    def backfill(self, sitting: Sitting, **settings: Any) -> Night:
        """One sitting; the candidate that it ends with is checked."""
        return self._checked(backfill(self._run(settings), sitting))

    def _run(self, settings: dict[str, Any]) -> Run:
        self.n_runs += 1
        config = CatalogConfig.model_validate(
            {
                "source": str(self.source),
                "store": str(self.folder / "store"),
                "model": str(self.folder / "model.onnx"),
                **self.settings,
                **settings,
            }
        )
        self.pool = InlinePool(deadly=self.pool.deadly, before_task=self.pool.before_task)
        run_id = f"run-{self.n_runs:03d}"
        self.run = Run(
            run_id=run_id,
            config=config,
            store=LocalStore(config.store),
            source=LocalStore(config.source),
            cache=self.cache,
            pool=self.cluster or self.pool,
            progress=Silence(),
            events=EventLog(self.store, run_id),
        )
        self.run.changes = self.changes
        return self.run

    def _checked(self, night: Night) -> Night:
        assert self.run is not None
        self.run.events.flush()
        check(self, night)
        return night

    def open(self, night: Night) -> OpenSnapshot:
        return OpenSnapshot(store=self.store, manifest=night.manifest, cache=self.folder / "cache")

    def files(self) -> set[str]:
        """Every key of the store that is not about runs."""
        return {item.key for item in self.store.list_objects() if not item.key.startswith("runs/")}

    def backdate(self, sequence: int, created: str) -> None:
        """Makes a snapshot one that was published at another time."""
        key = layout.snapshot("main", sequence)
        document = unsealed(json.loads(self.store.get(key)))
        self.store.put(key, sealed(document | {"created": created}))


def check(collection: Collection, night: Night) -> None:
    """What holds after every night: the identity, and that manifest, parts and index agree."""
    coverage, content = night.manifest.coverage, night.manifest.content
    assert coverage.listed == (
        coverage.embedded + coverage.reused + coverage.stale + coverage.rejected + coverage.set_aside
    )
    opened = collection.open(night)
    ids = opened.live["image_id"].to_pylist()
    assert len(set(ids)) == len(ids) == content.live_rows
    if not coverage.set_aside:
        assert len(ids) == coverage.embedded + coverage.reused + coverage.stale
    assert coverage.rejected + coverage.stale == sum(content.rejected.values())
    searchable = [id_ for shard in opened.searcher.shards for id_ in alive_ids(shard)]
    assert sorted(searchable) == sorted(ids)
    np.testing.assert_allclose(np.linalg.norm(opened.vectors, axis=1), 1, atol=1e-5)


def alive_ids(shard: Any) -> list[str]:
    """The ids of an index shard's live rows."""
    ids = shard.ids.to_pylist()
    return ids if shard.alive_N is None else [i for i, alive in zip(ids, shard.alive_N, strict=True) if alive]


def live(collection: Collection, night: Night) -> dict[str, str]:
    """Id -> sha256 of the bytes whose vector is live."""
    table = collection.open(night).live
    return dict(zip(table["image_id"].to_pylist(), table["content_digest"].to_pylist(), strict=True))


def sha(data: bytes) -> str:
    """The sha256 of image bytes, as ``live`` tells it."""
    return hashlib.sha256(data).hexdigest()


def photos(*numbers: int) -> dict[str, bytes]:
    """Different photos by file name."""
    return {f"{number:03d}.jpg": jpeg(number) for number in numbers}


def photo_shop(folder: Path) -> Collection:
    """A folder of 30 photos, not yet indexed."""
    collection = Collection(folder)
    write_folder(collection.source, photos(*range(30)))
    return collection
