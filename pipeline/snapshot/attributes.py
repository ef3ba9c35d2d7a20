"""The attributes table: labels, groups and any other columns of the catalog, apart from the embeddings.

It is kept in layers: a night writes one small layer with the rows that are new or different, and a later
layer's row replaces an earlier one's. When there are more than eight layers the next one holds everything
again. Price, stock and labels thus change without touching an embedding.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.fingerprint import sha256_hex, task_key
from pipeline.snapshot.manifest import AttributesRef
from pipeline.storage.receipts import Receipt, fetch, read_receipt, upload, write_receipt
from pipeline.storage.store import ObjectStore

STAGE = "attributes"
STAGE_VERSION = 1
MAX_LAYERS = 8
_KEYS = ("image_id", "locator")


def attributes_table(listed: pa.Table) -> pa.Table:
    """``image_id``, ``locator`` and a typed column for each attribute that occurs in ``listed``."""
    encoded = pc.dictionary_encode(listed["attributes"].combine_chunks())
    objects = [json.loads(text) for text in encoded.dictionary.to_pylist()]
    names = sorted({name for fields in objects for name in fields} - set(_KEYS))
    columns = {name: listed[name] for name in _KEYS}
    for name in names:
        values = _typed([fields.get(name) for fields in objects])
        columns[name] = values.take(encoded.indices)
    return pa.table(columns)


def read_attributes(store: ObjectStore, layers: Sequence[AttributesRef], cache: Path) -> pa.Table:
    """The layers merged: one row per id, the latest; columns of all layers."""
    merged = pa.table({name: pa.array([], type=pa.string()) for name in _KEYS})
    for layer in layers:
        merged = overlay(merged, pq.read_table(fetch(store, layer.file, cache)))
    return merged


def add_layer(
    store: ObjectStore, layers: Sequence[AttributesRef], table: pa.Table, cache: Path
) -> list[AttributesRef]:
    """The layers after tonight's ``table``: unchanged, or with one more that holds what differs."""
    present = read_attributes(store, layers, cache)
    delta = table.filter(pa.array(differing(table, present)))
    if delta.num_rows == 0 and layers:
        return list(layers)
    if len(layers) >= MAX_LAYERS:
        return [write_layer(store, table)]
    return [*layers, write_layer(store, delta)]


def write_layer(store: ObjectStore, table: pa.Table) -> AttributesRef:
    """Stores ``table`` as a layer, unless there is the same already."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink, compression="zstd")
    data = bytes(sink.getvalue())
    key = task_key(STAGE, STAGE_VERSION, {}, [sha256_hex(data)])
    receipt = read_receipt(store, STAGE, key)
    if receipt is None:
        file = upload(store, "attributes", key, ".parquet", data)
        receipt = write_receipt(
            store,
            Receipt(stage=STAGE, key=key, files={"table": file}, counts={"rows": table.num_rows}, facts={}),
        )
    return AttributesRef(key=key, rows=table.num_rows, file=receipt.files["table"])


def differing(table: pa.Table, present: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows of ``table`` are not in ``present`` with the same values."""
    where = pc.index_in(table["image_id"], value_set=present["image_id"].combine_chunks())
    differs = pc.is_null(where)
    old = present.take(pc.fill_null(where, 0)) if present.num_rows else present
    if present.num_rows == 0:
        return np.ones(table.num_rows, dtype=bool)
    for name in table.schema.names:
        if name not in old.schema.names:
            differs = pc.or_(differs, pc.is_valid(table[name]))
            continue
        left, right = _same_type(table[name], old[name])
        same = pc.fill_null(pc.equal(left, right), fill_value=False)
        both_null = pc.and_(pc.is_null(left), pc.is_null(right))
        differs = pc.or_(differs, pc.invert(pc.or_(same, both_null)))
    for name in set(present.schema.names) - set(table.schema.names):  # no image has it any more
        differs = pc.or_(differs, pc.is_valid(old[name]))
    return np.asarray(differs.to_numpy(), dtype=bool)


def overlay(lower: pa.Table, upper: pa.Table) -> pa.Table:
    """One table of attributes over another: where both have an id, the row of ``upper`` counts."""
    keep = pc.invert(pc.is_in(lower["image_id"], value_set=upper["image_id"].combine_chunks()))
    lower = lower.filter(keep)
    for name in set(lower.schema.names) & set(upper.schema.names):
        left, right = _same_type(lower[name], upper[name])
        lower = lower.set_column(lower.schema.get_field_index(name), name, left)
        upper = upper.set_column(upper.schema.get_field_index(name), name, right)
    return pa.concat_tables([lower, upper], promote_options="default")


def _same_type(left: pa.ChunkedArray, right: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """The two columns in one type: their own if equal, numbers as doubles, else text."""
    if left.type == right.type:
        return left, right
    numbers = all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (left.type, right.type))
    common = pa.float64() if numbers else pa.string()
    return left.cast(common, safe=False), right.cast(common, safe=False)


def _typed(values: list[object]) -> pa.Array:
    """A column: bool, int64, double or, when the types are mixed or an integer is too large, text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool}:
        return pa.array(values, type=pa.bool_())
    small = all(abs(value) < 2**63 for value in values if isinstance(value, int))
    if kinds == {int} and small:
        return pa.array(values, type=pa.int64())
    if kinds <= {int, float} and small:
        return pa.array([None if value is None else float(value) for value in values], type=pa.float64())  # type: ignore[arg-type]
    return pa.array([None if value is None else _text(value) for value in values], type=pa.string())


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
