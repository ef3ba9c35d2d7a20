"""Writes the live rows as a plain Faiss IVFFlat index over float vectors, and its ids as Parquet beside it.

The index's ids are whole numbers that are the same in every export (``stable_ids``); the file of ids has
``faiss_id`` and ``image_id``, and the attributes if wanted. Memory holds the table of live rows, 12
bytes a row, a sample of 65,536 vectors to fit the lists on, and a batch.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UsageError
from pipeline.exchange.aside import written_aside
from pipeline.exchange.live import alive_masks, live_batches, live_ids
from pipeline.exchange.rows_file import Attributes, snapshot_metadata
from pipeline.exchange.stable_ids import check_distinct, stable_ids
from pipeline.index.arrays import Float32Array, IntArray
from pipeline.index.inverted_file import write_inverted_file
from pipeline.index.lists import choose_lists, fit_centroids
from pipeline.index.sample import FIT_ROWS, fit_sample, seeded_order
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.rows import live_vectors

IDS_SUFFIX = ".ids.parquet"
_PROBED_SHARE = 16  # one list in so many is looked into, unless the user of the index says otherwise


def write_faiss(snapshot: OpenSnapshot, path: Path, *, with_attributes: bool) -> int:
    """Writes ``path`` and, before it, its ids at ``path`` + ``.ids.parquet``; how many rows there are.

    Raises:
        UsageError: there are no rows, two ids have one number, or the place cannot be written to.
    """
    wanted = alive_masks(snapshot)
    if not snapshot.content.live_rows:
        raise UsageError("the snapshot has no live rows to make an index of", fix="export --format parquet")
    attributes = Attributes.of(snapshot, wanted) if with_attributes else None

    def batches() -> Iterator[tuple[IntArray, Float32Array]]:
        for batch in live_batches(snapshot, wanted):
            yield stable_ids(batch.ids.to_pylist()), batch.x_ND

    centroids_LD = _centroids(snapshot)
    with written_aside(path) as aside, written_aside(path.with_name(path.name + IDS_SUFFIX)) as ids_aside:
        numbers_N = _write_ids(snapshot, ids_aside, attributes)
        check_distinct(numbers_N, (ids.to_pylist() for ids in live_ids(snapshot, wanted)))
        n_probes = min(len(centroids_LD), max(8, len(centroids_LD) // _PROBED_SHARE))
        write_inverted_file(aside, centroids_LD, batches, n_probes)
    return len(numbers_N)


def _write_ids(snapshot: OpenSnapshot, path: Path, attributes: Attributes | None) -> IntArray:
    fields = [pa.field("faiss_id", pa.int64()), pa.field("image_id", pa.string())]
    schema = pa.schema([*fields, *(attributes.fields if attributes else [])])
    schema = schema.with_metadata(snapshot_metadata(snapshot))
    found = [np.empty(0, dtype=np.int64)]
    done = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for ids in live_ids(snapshot, alive_masks(snapshot)):
            found.append(stable_ids(ids.to_pylist()))
            more = attributes.rows(done, done + len(ids)) if attributes else []
            writer.write_table(pa.table([pa.array(found[-1]), ids, *more], schema=schema))
            done += len(ids)
    return np.concatenate(found)


def _centroids(snapshot: OpenSnapshot) -> Float32Array:
    """Lists fitted on a seeded sample; the same rows give the same lists."""
    live, content = snapshot.live, snapshot.content
    seed = int(content.settings["seed"])
    rows_N = fit_sample(seeded_order(live["image_id"], seed)).rows_N[:FIT_ROWS]
    sampled = live.take(pa.array(rows_N if len(rows_N) else np.zeros(1, dtype=np.int64)))
    x_ND = live_vectors(snapshot.store, sampled, content.parts, content.model.dim, snapshot.cache)
    return fit_centroids(x_ND, choose_lists(live.num_rows, len(x_ND)))
