"""What changed since the parent snapshot: an Arrow join of two tables, no image is read.

A row of the parent is *kept* if its id is listed with the same version. Everything else that is listed is
*new* and has to be embedded, unless the very same version of it was refused before: then it is *refused
again* without another try. A row of the parent whose id is listed no more is *gone*; one whose id is listed
with another version is *replaced* once the new bytes have a vector, and *stale* if they were refused.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog.table import Catalog


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """The difference between a catalog and the live rows of its parent snapshot.

    ``fresh``, ``refused_again`` and ``refused_listing`` (refused while listing) are rows of the listing, in
    plan order; ``kept`` and ``gone`` are boolean masks over the parent's live rows; ``changed`` marks those
    whose id is listed with another version.
    """

    fresh: pa.Table
    refused_again: pa.Table
    refused_listing: pa.Table
    kept: npt.NDArray[np.bool_]
    changed: npt.NDArray[np.bool_]
    gone: npt.NDArray[np.bool_]


def diff(catalog: Catalog, live: pa.Table, refused: pa.Table) -> Change:
    """Compares the catalog with the parent snapshot.

    Args:
        catalog: tonight's listing.
        live: the parent's live rows with columns ``image_id`` and ``version``, ids unique.
        refused: what was refused before, columns ``image_id`` and ``version``, for the same model.
    """
    listed = catalog.images()
    still_listed = _marked(live.num_rows, _places(catalog.refused()["image_id"], live["image_id"]))
    place_N = _places(listed["image_id"], live["image_id"])
    still_listed |= _marked(live.num_rows, place_N)
    is_known = place_N >= 0
    same = pc.equal(
        listed["version"].filter(pa.array(is_known)), live["version"].take(pa.array(place_N[is_known]))
    )
    is_kept_row = is_known.copy()
    is_kept_row[is_known] = same.to_numpy()
    kept = _marked(live.num_rows, place_N[is_kept_row])
    is_refused_row = _with_version(listed, refused) & ~is_kept_row
    is_fresh_row = ~is_kept_row & ~is_refused_row
    return Change(
        fresh=listed if is_fresh_row.all() else listed.filter(pa.array(is_fresh_row)),
        refused_again=listed.filter(pa.array(is_refused_row)),
        refused_listing=catalog.refused(),
        kept=kept,
        changed=still_listed & ~kept,
        gone=~still_listed,
    )


def contains(values: pa.ChunkedArray, value_set: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Which of ``values`` occur in ``value_set``; bool [len(values)]."""
    if len(values) == 0 or len(value_set) == 0:
        return np.zeros(len(values), dtype=bool)
    found = pc.is_in(values, value_set=value_set.combine_chunks())
    return np.asarray(
        found.to_numpy(zero_copy_only=False) if isinstance(found, pa.Array) else found.to_numpy()
    )


def _places(values: pa.ChunkedArray, value_set: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Where each of ``values`` stands in ``value_set``, -1 for nowhere; int64 [len(values)]."""
    if len(values) == 0 or len(value_set) == 0:
        return np.full(len(values), -1, dtype=np.int64)
    found = pc.index_in(values, value_set=value_set.combine_chunks())
    return np.asarray(pc.fill_null(found, -1).to_numpy(), dtype=np.int64)


def _marked(n: int, place_N: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of ``n`` rows are among the places; -1 is none; bool [n]."""
    marked = np.zeros(n, dtype=bool)
    marked[place_N[place_N >= 0]] = True
    return marked


def _with_version(listed: pa.Table, refused: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows of a listing are in ``refused`` with the same version; an id may be there with several."""
    found = contains(listed["image_id"], refused["image_id"])
    where = np.flatnonzero(found)
    found[where] = contains(_keys(listed.take(pa.array(where))), _keys(refused))
    return found


def _keys(table: pa.Table) -> pa.ChunkedArray:
    """Id and version as one string; NUL cannot occur in either."""
    return pc.binary_join_element_wise(table["image_id"], table["version"], "\0")
