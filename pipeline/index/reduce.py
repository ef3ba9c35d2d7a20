"""The fit and reduce stages: an encoder from a sample, index shards from embedding parts.

A reduce task fetches the parts it is given, builds the shard's files in a scratch folder, uploads them
and writes the receipt. Which parts go into which shard is decided here too: parts stay together in the order
they were published, so that an index shard, once built, is never built again.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.fingerprint import sha256_hex, task_key
from pipeline.index.arrays import VectorArray
from pipeline.index.build import VectorDtype, build_index_shard
from pipeline.index.encoder import Encoder, Recipe, Thresholds, fit_encoder
from pipeline.index.shard import ShardFile
from pipeline.storage.open import open_store
from pipeline.storage.receipts import DataFile, Receipt, fetch, read_receipt, upload, write_receipt
from pipeline.storage.store import ObjectStore

FIT_STAGE = "fit"
FIT_VERSION = 3
REDUCE_STAGE = "reduce"
REDUCE_VERSION = 2
ENCODER = "encoder"

_SUFFIXES: dict[ShardFile, str] = {
    "codes": ".codes.faiss",
    "vectors": ".vectors.npy",
    "row_ids": ".rows.arrow",
    "offsets": ".offsets.npy",
    "order": ".order.npy",
    "int8": ".int8.npy",
    "scales": ".scales.npy",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFile:
    """An embedding part as the reducer sees it."""

    key: str
    rows: int
    file: DataFile


@dataclass(frozen=True, slots=True, kw_only=True)
class ReduceTask:
    """One index shard to build; the order of ``parts`` numbers them in the shard."""

    parts: tuple[PartFile, ...]
    encoder_digest: str
    encoder_file: DataFile
    vector_dtype: VectorDtype

    @property
    def key(self) -> str:
        """The key of the index shard: its encoder, its vectors' type and its parts' content."""
        config = {"vector_dtype": self.vector_dtype}
        inputs = [self.encoder_digest, *(part.file.sha256 for part in self.parts)]
        return task_key(REDUCE_STAGE, REDUCE_VERSION, config, inputs)

    @property
    def rows(self) -> int:
        """How many rows the shard will have."""
        return sum(part.rows for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """What decides an encoder, besides its sample; the arguments of `fit_encoder`."""

    bits: int
    seed: int
    recipe: Recipe
    thresholds: Thresholds
    n_lists: int | None
    fit_threshold: str


def group_parts(parts: Sequence[PartFile], max_rows: int) -> list[tuple[PartFile, ...]]:
    """Consecutive parts for each index shard, at most ``max_rows`` rows unless a single part has more."""
    groups: list[list[PartFile]] = []
    rows = 0
    for part in parts:
        if not groups or rows + part.rows > max_rows:
            groups.append([])
            rows = 0
        groups[-1].append(part)
        rows += part.rows
    return [tuple(group) for group in groups]


def fit_stage(
    store: ObjectStore, x_ND: VectorArray, settings: FitSettings, *, cache: Path
) -> tuple[Encoder, Receipt]:
    """The encoder fitted on the sample ``x_ND``, from its receipt if the same sample was fitted before."""
    config = asdict(settings)
    sample = np.ascontiguousarray(x_ND, dtype=np.float32)
    key = task_key(FIT_STAGE, FIT_VERSION, config, [sha256_hex(sample.tobytes()), str(sample.shape)])
    receipt = read_receipt(store, FIT_STAGE, key)
    if receipt is None:
        encoder = fit_encoder(sample, **config)
        file = upload(store, "encoders", key, ".npz", encoder.to_bytes())
        receipt = write_receipt(
            store,
            Receipt(
                stage=FIT_STAGE, key=key, files={ENCODER: file}, counts={"sample": len(sample)}, facts={}
            ),
        )
    return read_encoder(store, receipt.files[ENCODER], cache), receipt


def read_encoder(store: ObjectStore, file: DataFile, cache: Path) -> Encoder:
    """The stored encoder."""
    return Encoder.from_bytes(fetch(store, file, cache).read_bytes())


class ReduceWorker:
    """Builds index shards; a plain class that Ray makes an actor of."""

    def __init__(self, store_uri: str, cache: Path) -> None:
        self._store = open_store(store_uri)
        self._cache = cache

    def run(self, task: ReduceTask) -> Receipt:
        """Builds the shard unless it has a receipt, and returns the receipt.

        Raises:
            DataCorrupt: a part is not what its receipt says, or holds a row that is no unit vector.
        """
        done = read_receipt(self._store, REDUCE_STAGE, task.key)
        if done is not None:
            return done
        encoder = read_encoder(self._store, task.encoder_file, self._cache)
        paths = [fetch(self._store, part.file, self._cache, verify=True) for part in task.parts]
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._cache) as folder:
            built = build_index_shard(paths, encoder, Path(folder), vector_dtype=task.vector_dtype)
            files: dict[str, DataFile] = {
                name: upload(self._store, "index", task.key, _SUFFIXES[name], path)
                for name, path in built.files.items()
            }
        counts = {"rows": built.n_rows}
        facts = {
            "ones": [int(ones) for ones in built.ones_B],
            "sum": [float(total) for total in built.sum_D],
            "list_imbalance": built.list_imbalance,
        }
        return write_receipt(
            self._store, Receipt(stage=REDUCE_STAGE, key=task.key, files=files, counts=counts, facts=facts)
        )
