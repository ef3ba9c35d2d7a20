"""What a snapshot refused: counts by reason, and the images behind them.

Counts are the run's own. The images come from the rejects beside the parts, which are never rewritten, so
those that have a vector by now are left out here; an image that was refused and then left the catalog
cannot be told from one that is still listed, and stays.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.embed.table import REJECTS_SCHEMA
from pipeline.snapshot.manifest import Content
from pipeline.snapshot.rows import dead_masks, live_rows, refused_rows
from pipeline.storage.receipts import fetch
from pipeline.storage.store import ObjectStore

_COLUMNS = REJECTS_SCHEMA.names


def refused_images(store: ObjectStore, content: Content, cache: Path) -> pa.Table:
    """The refused images (``REJECTS_SCHEMA`` and ``in_listing``), one row each, its newest refusal.

    ``in_listing`` marks what the listing itself refused, which is judged anew every night.
    """
    embedded = _without_vector(store, content, _newest(refused_rows(store, content.parts, cache)), cache)
    tables = [_marked(embedded.select(_COLUMNS), in_listing=False)]
    if content.listing_rejects is not None:
        listed = pq.read_table(fetch(store, content.listing_rejects, cache), schema=REJECTS_SCHEMA)
        tables.append(_marked(listed, in_listing=True))
    return pa.concat_tables(tables)


def _newest(refused: pa.Table) -> pa.Table:
    """The last row of each id: parts are in the order in which they were published."""
    if refused.num_rows == 0:
        return refused
    codes = pc.dictionary_encode(refused["image_id"].combine_chunks()).indices.to_numpy()
    _, last = np.unique(codes[::-1], return_index=True)
    return refused.take(pa.array(np.sort(len(codes) - 1 - last)))


def _without_vector(store: ObjectStore, content: Content, refused: pa.Table, cache: Path) -> pa.Table:
    """Less the images that got a vector in the same snapshot or later; a stale vector is older."""
    live = live_rows(store, content.parts, dead_masks(store, content, cache), cache)
    if refused.num_rows == 0 or live.num_rows == 0:
        return refused
    since = np.array([part.since for part in content.parts], dtype=np.int64)
    where = pc.index_in(refused["image_id"], value_set=live["image_id"].combine_chunks())
    is_live: npt.NDArray[np.bool_] = np.asarray(pc.is_valid(where))
    parts = live["part"].to_numpy()[np.asarray(pc.fill_null(where, 0))]
    return refused.filter(pa.array(~is_live | (since[parts] < refused["since"].to_numpy())))


def _marked(table: pa.Table, *, in_listing: bool) -> pa.Table:
    return table.append_column("in_listing", pa.array([in_listing] * table.num_rows, type=pa.bool_()))
