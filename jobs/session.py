"""Opens what a command works on: a run with its pool and progress, or a snapshot to read."""

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from jobs.progress import TerminalProgress
from jobs.run import Run, cache_limit_bytes, cluster_options, default_cache, new_run_id, utc_now
from pipeline.catalog.settle import settle_source
from pipeline.catalog.source import SourceFormat, SourceSpec
from pipeline.cluster.ray_pool import RayPool
from pipeline.config import COLLECTION_PATTERN, CatalogConfig
from pipeline.errors import BitsieveError, SourceError, UsageError
from pipeline.progress import Both, StoredProgress
from pipeline.snapshot.contents import snapshot_files
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.publish import snapshot
from pipeline.storage.cache import sweep
from pipeline.storage.open import S3Access, open_existing_store, open_store, use_accesses
from pipeline.telemetry import EventLog
from pipeline.values import SearchDevice


@contextmanager
def open_run(config: CatalogConfig, *, quiet: bool = False) -> Iterator[Run]:
    """A run over ``config``: Ray is shut down and events are written when it is left, however it is left."""
    reach_s3_by(config)
    config = _settled(config)
    _check_source_is_there(config.source)
    _check_apart(config.source, config.store)
    store = open_store(config.store)
    run_id = new_run_id(utc_now())
    events = EventLog(store, run_id)
    with TerminalProgress(quiet=quiet) as terminal, RayPool(cluster_options(config)) as pool:
        run = Run(
            run_id=run_id,
            config=config,
            store=store,
            source=open_store(config.read.root or config.source),
            cache=_swept_cache(),
            pool=pool,
            progress=terminal,
            events=events,
        )
        stored = StoredProgress(store, run_id, partial(_facts, run))
        run.progress = Both(terminal, stored)
        how: dict[str, object] = {"ended": "failed"}
        try:
            yield run
            how = {"ended": run.ended}
        except BaseException as exc:
            message = str(exc)[:2000]
            how["error"] = {"kind": getattr(exc, "kind", type(exc).__name__), "message": message}
            if events.begun:
                events.record("run_failed", error=type(exc).__name__, message=message)
            raise
        finally:
            if events.begun:
                events.record("run_ended", seconds=run.seconds, ray_started=pool.started)
            with contextlib.suppress(BitsieveError):  # never hide how the run itself ended
                events.flush()
            stored.end(how)


def reach_s3_by(config: CatalogConfig) -> None:
    """From now on all of S3 is reached as ``config`` says."""
    use_accesses(
        S3Access(
            uri=uri,
            profile=how.profile,
            endpoint_url=how.endpoint,
            region=how.region,
            role_arn=how.role_arn,
        )
        for uri, how in config.s3.items()
    )


def _facts(run: Run) -> dict[str, object]:
    """What the stored progress says beside the stage."""
    return {
        "collection": run.config.collection,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "images": dict(run.images_now),
        "workers": run.embed_workers,
    }


def _settled(config: CatalogConfig) -> CatalogConfig:
    """The configuration with absolute places and, where a file lists the images, their root."""
    root = None if config.read.root is None else absolute(config.read.root)
    source = absolute(config.source)
    kind = None if config.read.format is None else SourceFormat(config.read.format)
    spec = settle_source(source, root, SourceSpec(uri=source, format=kind))
    update: dict[str, object] = {"source": source, "store": absolute(config.store)}
    if spec.listing is not None:
        update["read"] = config.read.model_copy(update={"format": spec.format, "root": spec.uri})
    return config.model_copy(update=update)


def _check_source_is_there(source: str) -> None:
    """A local source that does not exist is refused before a store is made for it."""
    if "://" not in source and not Path(source).exists():
        raise SourceError(f"the catalog source {source} does not exist", fix="check the path")


def _check_apart(source: str, store: str) -> None:
    real_source, real_store = (uri if "://" in uri else os.path.realpath(uri) for uri in (source, store))
    if f"{real_store}/".startswith(f"{real_source}/"):
        raise UsageError(
            f"the store {store} lies in the source {source}: its files would be listed as images",
            fix="choose a store beside the catalog",
        )


def open_snapshot(
    store_uri: str, collection: str, sequence: int | None, device: SearchDevice = "cpu"
) -> OpenSnapshot:
    """The snapshot with this sequence, or the newest, for reading; makes room for it in the cache folder."""
    store = open_existing_store(absolute(store_uri))
    manifest = snapshot(store, checked_collection(collection), sequence)
    its_files = frozenset(file.file.sha256 for file in snapshot_files(manifest.content))
    return OpenSnapshot(store=store, manifest=manifest, cache=_swept_cache(its_files), device=device)


def _swept_cache(keep: frozenset[str] = frozenset()) -> Path:
    """The cache folder, within its limit but for what is in use."""
    cache = default_cache(os.environ)
    sweep(cache, cache_limit_bytes(os.environ), time.time(), keep)
    return cache


def checked_collection(name: str) -> str:
    """The name, if a collection may have it."""
    if not re.fullmatch(COLLECTION_PATTERN, name):
        raise UsageError(
            f"{name!r} is no name of a collection",
            fix="a letter or digit, then letters, digits, '.', '_' or '-'",
        )
    return name


def absolute(uri: str) -> str:
    """A local path made absolute and plain; a URI as it is, for ``open_store`` to take or refuse."""
    scheme, colon, rest = uri.partition("://")
    if colon:
        return f"{scheme.lower()}://{rest.rstrip('/')}"
    return os.path.abspath(Path(uri).expanduser())
