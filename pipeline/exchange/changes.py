"""What another engine has to do to come from one snapshot to a later one: rows to upsert, ids to delete.

A row is to be upserted if its image is new or has other bytes, if the model is another, or, where attributes
go along, if one of them differs. How rows lie in parts does not matter: a compaction changes nothing.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.exchange.live import alive_masks
from pipeline.snapshot.attributes import differing
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.rows import Mask


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Changes:
    """``upserts`` marks rows of the later snapshot's parts (by key); ``deletes`` are ids in UTF-8 order."""

    upserts: dict[str, Mask]
    n_upserts: int
    deletes: pa.ChunkedArray


def changes_since(before: OpenSnapshot | None, after: OpenSnapshot, *, with_attributes: bool) -> Changes:
    """Compares two snapshots; ``before`` None stands for an engine that has nothing yet."""
    if before is None:
        return Changes(
            upserts=alive_masks(after),
            n_upserts=after.content.live_rows,
            deletes=pa.chunked_array([], type=pa.string()),
        )
    old, new = before.live, after.live
    if before.content.model.id == after.content.model.id:
        at = pc.index_in(new["image_id"], value_set=old["image_id"].combine_chunks())
        versions = old["version"].take(at)
        same = pc.fill_null(pc.equal(versions, new["version"]), fill_value=False)
        if with_attributes:
            table, present = (one.attributes.drop_columns(["locator"]) for one in (after, before))
            others = table["image_id"].filter(pa.array(differing(table, present))).combine_chunks()
            same = pc.and_(same, pc.invert(pc.is_in(new["image_id"], value_set=others)))
        moved_N = ~np.asarray(same.to_numpy(), dtype=bool)
    else:
        moved_N = np.ones(new.num_rows, dtype=bool)
    gone = old["image_id"].filter(
        pc.invert(pc.is_in(old["image_id"], value_set=new["image_id"].combine_chunks()))
    )
    return Changes(
        upserts=_masks(after, new.filter(pa.array(moved_N))),
        n_upserts=int(moved_N.sum()),
        deletes=gone.take(pc.sort_indices(gone)),
    )


def _masks(snapshot: OpenSnapshot, rows: pa.Table) -> dict[str, Mask]:
    """For each part (by key) which of its rows are among ``rows`` (``snapshot.rows.LIVE_SCHEMA``)."""
    masks = {part.key: np.zeros(part.rows, dtype=bool) for part in snapshot.content.parts}
    part_N, row_N = rows["part"].to_numpy(), rows["row"].to_numpy()
    for number in np.unique(part_N):
        masks[snapshot.content.parts[number].key][row_N[part_N == number]] = True
    return masks
