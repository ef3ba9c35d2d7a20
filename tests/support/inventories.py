"""S3 Inventories as S3 writes them: a manifest.json, and gzip CSV or Parquet files beside it."""

import gzip
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage.store import ObjectStore

_SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One version of one object."""

    key: str
    size: int | None = 100
    etag: str | None = "0" * 32
    latest: bool = True
    deleted: bool = False
    bucket: str = "photos"


def write_inventory(
    store: ObjectStore,
    files: Sequence[Sequence[Item]],
    *,
    form: str = "CSV",
    config: str = "inv/photos/daily",
    bucket: str = "photos",
    wrong_md5: bool = False,
) -> str:
    """Writes one data file per sequence of items, and the manifest; the manifest's key."""
    entries = []
    for number, items in enumerate(files):
        data = _csv(items) if form == "CSV" else _parquet(items)
        key = f"{config}/data/{number:08d}-aaaa.{'csv.gz' if form == 'CSV' else 'parquet'}"
        store.put(key, data)
        digest = hashlib.md5(b"other" if wrong_md5 else data, usedforsecurity=False).hexdigest()
        entries.append({"key": key, "size": len(data), "MD5checksum": digest})
    manifest = {
        "sourceBucket": bucket,
        "destinationBucket": "arn:aws:s3:::reports",
        "version": "2016-11-30",
        "creationTimestamp": "1514944800000",
        "fileFormat": form,
        "fileSchema": _SCHEMA if form == "CSV" else "message s3.inventory { … }",
        "files": entries,
    }
    key = f"{config}/2026-01-02T01-00Z/manifest.json"
    store.put(key, json.dumps(manifest).encode())
    return key


def _csv(items: Sequence[Item]) -> bytes:
    lines = []
    for item in items:
        size = "" if item.size is None else str(item.size)
        flags = [str(item.latest).lower(), str(item.deleted).lower()]
        key = quote_plus(item.key, safe="/")
        tail = [size, "2026-01-01T00:00:00.000Z", item.etag or "", "STANDARD"]
        cells = [item.bucket, key, "v1", *flags, *tail]
        lines.append(",".join(f'"{cell}"' for cell in cells) + "\n")
    return gzip.compress("".join(lines).encode(), mtime=0)


def _parquet(items: Sequence[Item]) -> bytes:
    sink = io.BytesIO()
    table = pa.table(
        {
            "bucket": [item.bucket for item in items],
            "key": [item.key for item in items],
            "version_id": ["v1"] * len(items),
            "is_latest": [item.latest for item in items],
            "is_delete_marker": [item.deleted for item in items],
            "size": pa.array([item.size for item in items], type=pa.int64()),
            "e_tag": pa.array([item.etag for item in items], type=pa.string()),
        }
    )
    pq.write_table(table, sink)
    return sink.getvalue()
