"""What every stage of a run needs: store, source, cache folder, events, progress, and a pool to work in."""

import datetime
import importlib.metadata
import os
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.catalog.change_list import ChangeList
from pipeline.catalog.source import SourceFormat, SourceSpec
from pipeline.cluster.metrics import BYTES, IMAGES, TASKS, Metric
from pipeline.cluster.pool import ClusterOptions, Done, Pool
from pipeline.config import CatalogConfig
from pipeline.errors import ConfigError
from pipeline.index.balance import Drift
from pipeline.progress import Progress
from pipeline.storage.receipts import Receipt
from pipeline.storage.store import ObjectStore
from pipeline.telemetry import EventLog

_CACHE_GB = 50
_SOFTWARE = ("bitsieve", "ray", "numpy", "pyarrow", "pillow", "onnxruntime", "faiss-cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What the workers of a run took for its images, beside what was predicted for as many workers.

    ``predicted`` and ``actual`` have the requests by kind and the bytes read; of a local source lists are not
    counted, and missing.
    """

    predicted_s: float
    actual_s: float
    images: int
    workers: int
    planned: str
    predicted: Mapping[str, int]
    actual: Mapping[str, int]

    def in_words(self) -> str:
        """Two lines for the end of a run."""
        ratio = self.actual_s / self.predicted_s
        counts = ", ".join(f"{kind} {self.predicted[kind]} : {count}" for kind, count in self.actual.items())
        return (
            f"predicted {self.predicted_s:.1f} s on {self.workers} workers for {self.images} images, "
            f"took {self.actual_s:.1f} s: {ratio:.2f} times the prediction\n"
            f"requests and bytes, predicted : actual: {counts}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What a compaction did: parts and index shards that were written again, and dead rows left behind."""

    parts: int
    index_shards: int
    dropped_rows: int


@dataclass(slots=True, kw_only=True)
class Run:
    """One run of a job.

    ``seconds`` is the time of each stage, ``bytes_written`` what its tasks wrote; ``embed_seconds`` and
    ``images_now`` (by outcome) are what the embedding tasks of this sitting say of themselves,
    and ``traffic`` what they asked for, by the kinds of ``storage.traffic``; ``ended`` is how the run ended,
    in a word.
    """

    run_id: str
    config: CatalogConfig
    store: ObjectStore
    source: ObjectStore
    cache: Path
    pool: Pool
    progress: Progress
    events: EventLog
    seconds: dict[str, float] = field(default_factory=dict)
    asked: CatalogConfig = field(init=False)
    embed_seconds: dict[str, float] = field(default_factory=dict)
    images_now: dict[str, int] = field(default_factory=dict)
    embed_workers: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    traffic: Counter[str] = field(default_factory=Counter)
    ended: str = ""
    compared: Compared | None = None
    drift: Drift | None = None
    changes: ChangeList | None = None
    compacted: Compacted | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keeps what was asked for: ``config`` also takes over what the collection has."""
        self.asked = self.config

    @property
    def source_spec(self) -> SourceSpec:
        """How the source is read."""
        read = self.config.read
        kind = None if read.format is None else SourceFormat(read.format)
        is_listed = kind in (SourceFormat.LISTING, SourceFormat.INVENTORY)
        return SourceSpec(
            uri=read.root or self.config.source,
            listing=self.config.source if is_listed else None,
            format=kind,
            include=read.include,
            exclude=read.exclude,
            id_template=read.id_template,
            id_column=read.id_column,
            image_column=read.image_column,
        )

    def add_embed_seconds(self, stage: str, spent_s: float) -> None:
        """Adds what one embedding task says of its time in ``stage``."""
        self.embed_seconds[stage] = self.embed_seconds.get(stage, 0.0) + spent_s

    def add_images(self, outcome: str, count: int) -> None:
        """Adds images that a task of this sitting settled."""
        self.images_now[outcome] = self.images_now.get(outcome, 0) + count

    def record_done(self, outcome: Done[Receipt]) -> None:
        """Records that a task wrote its receipt."""
        receipt = outcome.result
        n_bytes = sum(file.size_bytes for file in receipt.files.values())
        self.bytes_written += n_bytes
        self.measure(BYTES, n_bytes, direction="written")
        self.measure(TASKS, 1, stage=receipt.stage, outcome="succeeded")
        self.events.record(
            "task_succeeded",
            stage=receipt.stage,
            key=receipt.key,
            counts=dict(receipt.counts),
            bytes=n_bytes,
            worker=outcome.worker,
            peak_bytes=outcome.peak_bytes,
        )

    def record_set_aside(self, stage: str, n_images: int, reason: str) -> None:
        """Records that a task killed its workers and is not given to another one."""
        self.add_images("set_aside", n_images)
        self.measure(IMAGES, n_images, outcome="set_aside")
        self.measure(TASKS, 1, stage=stage, outcome="set_aside")
        self.events.record("task_set_aside", stage=stage, images=n_images, reason=reason)

    def measure(self, metric: Metric, value: float, **labels: str) -> None:
        """Counts for Prometheus, under the name of the collection."""
        self.pool.measure(metric, value, {"collection": self.config.collection, **labels})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage and records it."""
        with self.events.stage(name, self.seconds):
            yield


def worker_memory_bytes(memory_budget: int | None) -> int:
    """What a worker may hold beside its model: the budget, else 1/8 of its core's share, 64 to 256 MiB."""
    if memory_budget is not None:
        return memory_budget
    return min(256 << 20, max(64 << 20, memory_bytes() // (8 * (os.cpu_count() or 1))))


def memory_bytes() -> int:
    """The memory this process may use: the machine's, or its control group's where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            text = limit.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def new_run_id(now: datetime.datetime) -> str:
    """A run's name: its start in UTC and a random part; it sorts by time and occurs once."""
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def utc_now() -> datetime.datetime:
    """Now, in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def default_cache(environ: Mapping[str, str]) -> Path:
    """Where downloads go: ``BITSIEVE_CACHE``, else the user's cache folder."""
    if "BITSIEVE_CACHE" in environ:
        return Path(environ["BITSIEVE_CACHE"])
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitsieve"


def cache_limit_bytes(environ: Mapping[str, str]) -> int:
    """How much of downloads may stay: ``BITSIEVE_CACHE_GB``, else 50 GB.

    Raises:
        ConfigError: not a number of at least 0.
    """
    text = environ.get("BITSIEVE_CACHE_GB", str(_CACHE_GB))
    try:
        limit_gb = float(text)
    except ValueError:
        limit_gb = -1.0
    if not 0 <= limit_gb < float("inf"):
        raise ConfigError(
            f"BITSIEVE_CACHE_GB must be a number from 0, got {text!r}", fix="as in BITSIEVE_CACHE_GB=20"
        )
    return int(limit_gb * 1e9)


def software_versions() -> dict[str, str]:
    """The versions of what made a snapshot; packages that are not installed are left out."""
    versions = {}
    for name in _SOFTWARE:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def cluster_options(config: CatalogConfig) -> ClusterOptions:
    """The actors that the configuration asks for; on one machine the cores are divided among them."""
    embed = config.embed
    on_gpu = embed.provider != "cpu"
    threads = embed.threads or 1
    return ClusterOptions(
        address=embed.ray_address,
        n_workers=embed.workers,
        cpus_per_worker=1.0 if on_gpu else float(min(threads, os.cpu_count() or 1)),
        gpus_per_worker=1.0 if on_gpu else 0.0,
    )
