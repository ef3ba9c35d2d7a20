"""Small catalogs of tiny, distinct images: folders, tars and Parquet files."""

import io
import os
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.catalog.listing import list_catalog
from pipeline.catalog.source import SourceSpec
from pipeline.catalog.table import Catalog, ListedImage, ListingBuilder
from pipeline.storage.local import LocalStore

GARBAGE = b"<html>503 Service Unavailable</html>"


@cache
def jpeg(number: int) -> bytes:
    """A JPEG of 8 x 8 pixels; another number, other colours and other bytes."""
    rng = np.random.default_rng(number)
    colour_C = rng.integers(30, 226, 3)
    pixels_HWC = np.clip(colour_C + rng.integers(-25, 26, (8, 8, 3)), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels_HWC).save(out, "JPEG", quality=95)
    return out.getvalue()


def black_jpeg() -> bytes:
    """All zeros: the pooling model's vector for it is zero."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG")
    return out.getvalue()


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Files below ``folder``; surrogate escapes in names stand for bytes that are not UTF-8."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_tar(path: Path, members: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    """A tar with these members in order; a TarInfo is written as it is, its size set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            if info.isreg():
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def tar_of(*numbers: int) -> list[tuple[str | tarfile.TarInfo, bytes]]:
    """Members ``0007.jpg`` and so on."""
    return [(f"{number:04d}.jpg", jpeg(number)) for number in numbers]


def write_parquet(path: Path, columns: Mapping[str, object], *, rows_per_group: int = 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path, row_group_size=rows_per_group)
    return path


def list_of(folder: Path, work: Path, store: LocalStore | None = None, **read: object) -> Catalog:
    """The catalog of a local folder, with its listings kept in a store, else in ``work``."""
    spec = SourceSpec(uri=str(folder), **read)  # type: ignore[arg-type]
    kept = store or LocalStore(work / "store")
    return list_catalog(LocalStore(folder), spec, kept, work / "cache", lambda done, total: None)


def listing(rows: Sequence[tuple[str, str]], *, container: str = "") -> pa.Table:
    """A listing of (image id, version) pairs."""
    builder = ListingBuilder()
    for image_id, version in rows:
        builder.add(
            ListedImage(
                image_id=image_id, version=version, size_bytes=1, locator=image_id, container=container
            )
        )
    return builder.table()


def rejects_of(catalog: Catalog) -> dict[str, str]:
    """Refused rows: locator and reason."""
    rows = catalog.refused().to_pylist()
    return {row["locator"]: row["reject"] for row in rows}


def ids_of(catalog: Catalog) -> list[str]:
    ids: list[str] = catalog.images()["image_id"].to_pylist()
    return ids


def age(path: Path, seconds: int = 10) -> None:
    """Moves a file's time of change, so that a write within the clock's tick is seen."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))
