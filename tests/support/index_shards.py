"""Small embedding parts and index shards on disk, and oracles that share no code with the sieve."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.index.arrays import BoolArray, ByteArray, Float32Array, Int32Array, VectorArray
from pipeline.index.build import BuiltShard, VectorDtype, build_index_shard
from pipeline.index.encoder import Encoder
from pipeline.index.lists import probe_order
from pipeline.index.shard import IndexShard


def unit_rows(n: int, d: int, seed: int, *, n_clusters: int | None = None) -> Float32Array:
    """Random unit vectors, around seeded cluster centres if asked."""
    rng = np.random.default_rng(seed)
    x_ND = rng.standard_normal((n, d))
    if n_clusters:
        x_ND = 0.6 * x_ND + rng.standard_normal((n_clusters, d))[rng.integers(0, n_clusters, n)]
    unit_ND: Float32Array = (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)
    return unit_ND


def write_part(
    path: Path, ids: Sequence[str], x_ND: VectorArray, *, row_group_size: int | None = None
) -> Path:
    """An embedding part with just the columns that an index shard is built from."""
    stored_ND = x_ND if x_ND.dtype == np.float16 else x_ND.astype(np.float32)
    flat = pa.array(stored_ND.ravel())
    embedding = pa.FixedSizeListArray.from_arrays(flat, x_ND.shape[1])
    table = pa.table({"image_id": pa.array(ids, pa.string()), "embedding": embedding})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def open_shard(
    folder: Path,
    ids: Sequence[str],
    x_ND: VectorArray,
    encoder: Encoder,
    *,
    dead: Sequence[str] = (),
    vector_dtype: VectorDtype = "float32",
) -> IndexShard:
    """One shard built from one part and opened; every row whose id is in ``dead`` is not alive."""
    folder.mkdir(parents=True, exist_ok=True)
    part = write_part(folder / "part.parquet", ids, x_ND)
    built = build_index_shard([part], encoder, folder, vector_dtype=vector_dtype)
    shard = open_built(built, encoder)
    dead_ids = set(dead)
    alive = np.array([image_id not in dead_ids for image_id in shard.ids.to_pylist()], dtype=np.bool_)
    return open_built(built, encoder, alive)


def open_built(built: BuiltShard, encoder: Encoder, alive: BoolArray | None = None) -> IndexShard:
    """Opens what `build_index_shard` built."""
    return IndexShard.open(
        built.codes_path, built.vectors_path, built.rows_path, encoder, alive, extra=built.extra
    )


def spread(
    folder: Path,
    ids: Sequence[str],
    x_ND: VectorArray,
    encoder: Encoder,
    shard_of_row: Sequence[int],
    *,
    dead: Sequence[str] = (),
) -> list[IndexShard]:
    """The same rows over several shards; ``shard_of_row`` says where each goes."""
    numbers = np.asarray(shard_of_row)
    return [
        open_shard(
            folder / f"shard-{number}",
            [ids[row] for row in np.flatnonzero(numbers == number).tolist()],
            x_ND[numbers == number],
            encoder,
            dead=dead,
        )
        for number in range(int(numbers.max(initial=0)) + 1)
    ]


def hamming_oracle(codes_NW: ByteArray, codes_QW: ByteArray) -> Int32Array:
    """All Hamming distances, int32 [Q, N], by popcount over everything."""
    differing: Int32Array = np.bitwise_count(codes_QW[:, None] ^ codes_NW[None]).sum(axis=2, dtype=np.int32)
    return differing


def nearest_oracle(
    x_ND: VectorArray, ids: Sequence[str], alive_N: BoolArray, xq_QD: VectorArray, k: int
) -> list[list[str]]:
    """Ids of the exact k nearest live rows by (float32 of the float64 distance, UTF-8 bytes)."""
    found = []
    for q_D in xq_QD.astype(np.float64):
        distance_N = [np.float32(((x_D.astype(np.float64) - q_D) ** 2).sum()) for x_D in x_ND]
        live = [row for row in range(len(ids)) if alive_N[row]]
        found.append([ids[row] for row in sorted(live, key=lambda r: (distance_N[r], ids[r].encode()))[:k]])
    return found


def nearest_lists(xq_QD: VectorArray, centroids_LD: Float32Array, n_probes: int) -> Int32Array:
    """The lists that a search with so many probes looks into, by number: int32 [Q, P]."""
    probed_QL = probe_order(xq_QD, centroids_LD) < n_probes
    return np.nonzero(probed_QL)[1].astype(np.int32).reshape(len(probed_QL), -1)
