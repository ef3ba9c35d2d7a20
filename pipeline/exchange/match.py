"""Which row of existing embeddings belongs to which listed image: by id, the first row of an id wins.

Memory holds all ids once, beside the catalog, and one number a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import SourceError
from pipeline.exchange.blocks import Block

NOWHERE = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matched:
    """For every row in order, the row of the fresh listing that it is for, or -1; and where the others went.

    ``without_image`` rows have an id that the source does not list as an image, ``not_needed`` ones belong to
    an image that has a vector already or was refused, ``duplicates`` to one that an earlier row is for.
    """

    fresh_M: npt.NDArray[np.int64]
    n_fresh: int
    without_image: int
    not_needed: int
    duplicates: int

    @property
    def n_matched(self) -> int:
        """Rows that are for an image."""
        return int((self.fresh_M != NOWHERE).sum())

    def sample(self, n: int, seed: int) -> npt.NDArray[np.int64]:
        """``n`` matched rows at random, all if there are fewer; ascending."""
        matched = np.flatnonzero(self.fresh_M != NOWHERE)
        chosen = np.random.default_rng(seed).choice(matched, min(n, len(matched)), replace=False)
        return np.sort(chosen)


def match(blocks: Sequence[Block], images: pa.Table, fresh: pa.Table, strip: Sequence[str]) -> Matched:
    """Finds the image of every row.

    Args:
        blocks: the embeddings.
        images: the listing of all usable images, ids unique.
        fresh: the rows of it that have no vector yet.
        strip: prefixes; the first that an id begins with is taken off it.

    Raises:
        SourceError: no row has the id of an image.
    """
    ids = pa.chunked_array([pa.array([], type=pa.string()), *(block.ids() for block in blocks)])
    if len(ids) == 0:
        raise SourceError("there are no rows to import", fix="check the path")
    ids = _stripped(ids, strip)
    is_known = pc.is_in(ids, value_set=images["image_id"].combine_chunks(), skip_nulls=True)
    n_known = pc.sum(is_known).as_py()
    if not n_known:
        raise SourceError(
            f"none of {len(ids)} rows has the id of an image: the first is {_first(ids)}, "
            f"the source's first {_first(images['image_id'])}",
            fix="choose the column with --id-column, or take a prefix off the ids with --strip",
        )
    place = pc.fill_null(pc.index_in(ids, value_set=fresh["image_id"].combine_chunks()), NOWHERE)
    fresh_M = np.asarray(place.to_numpy(), dtype=np.int64)
    found_M = np.flatnonzero(fresh_M != NOWHERE)
    _, first = np.unique(fresh_M[found_M], return_index=True)
    later = np.ones(len(found_M), dtype=bool)
    later[first] = False
    fresh_M[found_M[later]] = NOWHERE
    return Matched(
        fresh_M=fresh_M,
        n_fresh=fresh.num_rows,
        without_image=len(ids) - n_known,
        not_needed=n_known - len(found_M),
        duplicates=int(later.sum()),
    )


def _stripped(ids: pa.ChunkedArray, strip: Sequence[str]) -> pa.ChunkedArray:
    """The ids without the first of the prefixes that they begin with."""
    done = ids
    for prefix in reversed(strip):
        shorter = pc.utf8_slice_codeunits(ids, start=len(prefix))
        done = pc.if_else(pc.starts_with(ids, prefix), shorter, done)
    return done


def _first(ids: pa.ChunkedArray) -> str:
    known = pc.drop_null(ids)
    return repr(known[0].as_py()) if len(known) else "none"
