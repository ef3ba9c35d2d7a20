"""Makes listing rows of whole columns, for those rows of a batch that nothing special is to be said of.

A row is *plain* if its key is an ordinary name below the root, it says its version, and it is not too large.
What a row becomes is decided row by row in ``listed_keys``; here the same is done for many at once, and a
row with anything out of the ordinary is left to it.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog.listed_batch import ListedBatch
from pipeline.catalog.source import SourceSpec
from pipeline.catalog.table import LISTING_SCHEMA, MAX_IMAGE_BYTES, attributes_json, listed_objects
from pipeline.catalog.versions import own_version

MAX_KEY_BYTES = 1024
URL = r"[A-Za-z][A-Za-z0-9+.-]*:/|(?:data|file|ftp|https?|pipe|s3):"
_Mask = npt.NDArray[np.bool_]
_ODD = r"[\\\x00]"
_LEADS_OUT = rf"^/|(^|/)\.\.(/|$)|(?i)^(?:{URL})"


def plain_rows(
    batch: ListedBatch,
    spec: SourceSpec,
    *,
    has_ids: bool,
    literal: bool,
    is_ours: Callable[[str], bool] | None,
) -> tuple[_Mask, pa.Table]:
    """Which rows of ``batch`` are plain, and their listing rows, in order.

    Args:
        batch: rows of a listing file.
        spec: the source.
        has_ids: whether the file has a column of ids.
        literal: whether keys are spelled as S3 itself spells them.
        is_ours: asked of every key that is plain otherwise; None if it would not know better.
    """
    none = np.zeros(len(batch), dtype=bool)
    if not _is_text(batch):
        return none, LISTING_SCHEMA.empty_table()
    key = batch.key
    if not literal:
        root = f"{spec.uri.rstrip('/')}/"
        inside = pc.utf8_slice_codeunits(key, start=len(root))
        key = pc.if_else(pc.starts_with(key, root), inside, key)
    version = _versions(batch, spec)
    plain = (
        _is_true(pc.not_equal(key, "")) & ~_is_true(pc.ends_with(key, "/")) & _is_true(pc.is_valid(version))
    )
    plain &= ~_is_true(pc.match_substring_regex(key, _ODD))
    plain &= _is_true(pc.less_equal(pc.binary_length(key), MAX_KEY_BYTES))
    size_bytes = (
        pc.fill_null(batch.size_bytes, 0) if batch.size_bytes is not None else pa.array([0] * len(batch))
    )
    plain &= _is_true(pc.less_equal(size_bytes, MAX_IMAGE_BYTES))
    plain[list(batch.foreign)] = False
    ids = key
    if has_ids:
        ids = batch.image_id if batch.image_id is not None else pa.nulls(len(batch), pa.string())
        plain &= _is_true(pc.not_equal(ids, "")) & ~_is_true(pc.match_substring_regex(ids, _ODD))
    if not literal:
        plain &= ~_is_true(pc.match_substring_regex(key, _LEADS_OUT))
    if is_ours is not None:
        asked = np.flatnonzero(plain)
        plain[asked] = [is_ours(name) for name in _at(key, asked).to_pylist()]
    where = np.flatnonzero(plain)
    locator = _at(key, where)
    return plain, listed_objects(
        image_id=_at(ids, where) if has_ids else locator,
        version=_at(version, where),
        size_bytes=_at(size_bytes, where),
        locator=locator,
        attributes=_attributes(batch, where, locator),
        reject=pa.nulls(len(where), pa.string()),
        detail=pa.array([""]).take(pa.array(np.zeros(len(where), dtype=np.int64))),
    )


def _is_text(batch: ListedBatch) -> bool:
    """Whether all texts are UTF-8: a Parquet file may claim so of bytes that are not."""
    try:
        for column in (batch.key, batch.image_id, batch.etag, batch.version):
            if column is not None:
                column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return not batch.odd_keys


def _versions(batch: ListedBatch, spec: SourceSpec) -> pa.Array:
    """The version that the file itself gives each row, null where it gives none: `listed_keys._version`."""
    none = pa.nulls(len(batch), pa.string())
    own = own_version("", spec.uri)
    version = none if batch.version is None else pc.if_else(pc.equal(batch.version, ""), none, batch.version)
    version = pc.binary_join_element_wise(own, version, "")
    if batch.etag is None:
        return version
    etag = pc.utf8_trim(batch.etag, characters='"')
    etag = pc.if_else(pc.equal(etag, ""), none, etag)
    if not spec.uri.startswith("s3://"):
        return pc.coalesce(version, pc.binary_join_element_wise(own, etag, ""))
    size = none if batch.size_bytes is None else batch.size_bytes.cast(pa.string())
    return pc.coalesce(version, pc.binary_join_element_wise(etag, size, ":"))


def _attributes(batch: ListedBatch, positions: npt.NDArray[np.int64], locator: pa.Array) -> pa.Array:
    """The attributes of the rows as JSON: their folder, and what the file says."""
    if not batch.attributes:
        return folder_attributes(locator)
    named = zip(_folders(locator).to_pylist(), positions.tolist(), strict=True)
    texts = [attributes_json({**_folder(name), **batch.attributes_at(row)}) for name, row in named]
    return pa.array(texts, type=pa.string())


def folder_attributes(locator: pa.Array) -> pa.Array:
    """The attributes, as JSON, of objects of which only the key is known: their folder."""
    encoded = pc.dictionary_encode(_folders(locator))
    texts = [attributes_json(_folder(name)) for name in encoded.dictionary.to_pylist()]
    return pa.array(texts, type=pa.string()).take(encoded.indices)


def _folders(locator: pa.Array) -> pa.Array:
    """What stands before the last slash of each key; empty where there is none."""
    return pc.replace_substring_regex(locator, pattern=r"/?[^/]*$", replacement="", max_replacements=1)


def _folder(name: str) -> dict[str, object]:
    return {"folder": name} if name else {}


def _at(column: pa.Array, positions: npt.NDArray[np.int64]) -> pa.Array:
    return column if len(positions) == len(column) else column.take(pa.array(positions))


def _is_true(mask: pa.Array) -> _Mask:
    found: _Mask = pc.fill_null(mask, fill_value=False).to_numpy(zero_copy_only=False)
    return found
