"""``bitsieve bench plan``: what planning costs, and how it grows with the number of listed objects.

A listing and the parts of a snapshot are generated, alike but for 1 % of the images, scattered, that have
another version. Then a process of its own plans the night (``plan_once``). Two kinds of listing: a Parquet
file of ours, and an S3 Inventory in Parquet as S3 writes it. No object is asked for, and nothing is embedded.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from jobs.bench.machine import load, machine_facts
from jobs.output import AsJson, JsonFile, print_result, say
from jobs.run import default_cache
from pipeline.errors import UsageError, WorkerError

EXAMPLE = "Example: bitsieve bench plan --rows 100000,1000000 --json"
CHANGED_SHARE = 0.01
_BUCKET = "bench"
_ROOT = f"s3://{_BUCKET}"
_BLOCK_ROWS = 1 << 18
_FILE_ROWS = 1 << 20


class Form(StrEnum):
    """What lists the images."""

    LISTING = "listing"
    INVENTORY = "inventory"


def command(
    rows: Annotated[
        str, typer.Option(help="Listed objects, as in 100000,1000000.")
    ] = "100000,300000,1000000",
    form: Annotated[Form, typer.Option(help="What lists them.")] = Form.LISTING,
    output: JsonFile = None,
    as_json: AsJson = False,
) -> None:
    """Seconds and memory of planning a night in which 1 % changed, by the number of listed objects."""
    counts = _counts(rows)
    cache = default_cache(os.environ)
    cache.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"machine": machine_facts(), "load_at_start": load(), "form": form.value}
    result["sizes"] = [measure(count, form, cache) for count in counts]
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")
    print_result(result, _in_words(result["sizes"]), as_json=as_json)


def measure(n_rows: int, form: Form, work: Path) -> dict[str, Any]:
    """The planning of ``n_rows`` listed objects; its files lie below ``work`` meanwhile."""
    with tempfile.TemporaryDirectory(prefix="bench-plan-", dir=work) as name:
        folder = Path(name)
        say(f"bench: listing {n_rows} objects")
        listing = write_night(folder, n_rows, form)
        command = [sys.executable, "-m", "jobs.bench.plan_once", str(listing), _ROOT, str(folder / "parts")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise WorkerError(f"planning {n_rows} objects failed: {done.stderr[-500:]}")
    found = json.loads(done.stdout)
    seconds = sum(stage["seconds"] for stage in found["stages"].values())
    cpu_seconds = sum(stage["cpu_seconds"] for stage in found["stages"].values())
    return {
        "rows": n_rows,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "peak_bytes_per_row": round(found["peak_bytes"] / n_rows),
        **found,
    }


def write_night(folder: Path, n_rows: int, form: Form) -> Path:
    """Writes a listing of ``n_rows`` images, and below ``parts`` a snapshot's rows of them; the listing."""
    (folder / "parts").mkdir()
    (folder / "data").mkdir()
    files = []
    for number, start in enumerate(range(0, n_rows, _FILE_ROWS)):
        stop = min(start + _FILE_ROWS, n_rows)
        _write_part(folder / "parts" / f"{number:04d}.parquet", start, stop)
        path = folder / "data" / f"{number:04d}.parquet"
        _write(path, (_listed(block, form) for block in _blocks(start, stop)))
        files.append(path)
    if form is Form.INVENTORY:
        return _write_manifest(folder, files)
    listing = folder / "listing.parquet"
    _write(listing, (pq.read_table(path) for path in files))
    return listing


def _blocks(start: int, stop: int) -> Iterator[npt.NDArray[np.int64]]:
    for first in range(start, stop, _BLOCK_ROWS):
        yield np.arange(first, min(first + _BLOCK_ROWS, stop), dtype=np.int64)


def _listed(number_N: npt.NDArray[np.int64], form: Form) -> pa.Table:
    """Rows of the listing: what the snapshot knows, but for the changed images."""
    columns = {"key": _keys(number_N), "size": _sizes(number_N), "e_tag": _etags(number_N, tonight=True)}
    if form is Form.INVENTORY:
        columns["bucket"] = pa.array([_BUCKET]).take(pa.array(np.zeros(len(number_N), dtype=np.int64)))
        columns["is_latest"] = pa.array(np.ones(len(number_N), dtype=bool))
        columns["is_delete_marker"] = pa.array(np.zeros(len(number_N), dtype=bool))
    return pa.table(columns)


def _write_part(path: Path, start: int, stop: int) -> None:
    """The columns of an embedding part that planning reads."""

    def rows(number_N: npt.NDArray[np.int64]) -> pa.Table:
        etags, sizes = _etags(number_N, tonight=False), _sizes(number_N).cast(pa.string())
        version = pc.binary_join_element_wise(etags, sizes, ":")
        digests = pc.binary_join_element_wise(etags, etags, "")
        return pa.table({"image_id": _keys(number_N), "version": version, "content_digest": digests})

    _write(path, (rows(block) for block in _blocks(start, stop)))


def _write(path: Path, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _keys(number_N: npt.NDArray[np.int64]) -> pa.Array:
    """Keys as a shop has them: a thousand images in a folder."""
    text = pc.utf8_lpad(pa.array(number_N).cast(pa.string()), 10, padding="0")
    folder = pc.utf8_slice_codeunits(text, start=0, stop=7)
    return pc.binary_join_element_wise("products/", folder, "/", text, ".jpg", "")


def _sizes(number_N: npt.NDArray[np.int64]) -> pa.Array:
    return pa.array(20_000 + number_N % 997)


def _etags(number_N: npt.NDArray[np.int64], *, tonight: bool) -> pa.Array:
    """32 hex digits that look random; of every hundredth image others than in the snapshot."""
    mixed_N = (number_N.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    is_changed_N = (mixed_N >> np.uint64(33)) % np.uint64(round(1 / CHANGED_SHARE)) == 0
    if tonight:
        mixed_N = np.where(is_changed_N, ~mixed_N, mixed_N)
    pairs_N2 = np.stack([mixed_N, mixed_N * np.uint64(0xD6E8FEB86659FD93)], axis=1)
    digits = np.frombuffer(pairs_N2.tobytes().hex().encode(), dtype=np.uint8)
    offsets = pa.array(np.arange(len(number_N) + 1, dtype=np.int32) * 32)
    return pa.StringArray.from_buffers(len(number_N), offsets.buffers()[1], pa.py_buffer(digits.tobytes()))


def _write_manifest(folder: Path, files: Sequence[Path]) -> Path:
    described = []
    for path in files:
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        described.append({"key": f"data/{path.name}", "size": path.stat().st_size, "MD5checksum": md5})
    manifest = {
        "sourceBucket": _BUCKET,
        "fileFormat": "Parquet",
        "fileSchema": "message s3.inventory {}",
        "files": described,
    }
    path = folder / "2026-01-01T00-00Z" / "manifest.json"
    path.parent.mkdir()
    path.write_text(json.dumps(manifest))
    return path


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise UsageError(f"--rows {text!r} is not a list of counts", fix="for example --rows 100000,1000000")
    return counts


def _in_words(sizes: Sequence[dict[str, Any]]) -> str:
    lines = []
    for one in sizes:
        stages = ", ".join(f"{name} {spent['cpu_seconds']:.1f}" for name, spent in one["stages"].items())
        lines.append(
            f"{one['rows']} listed: {one['seconds']:.1f} s, {one['cpu_seconds']:.1f} CPU s ({stages}), "
            f"{one['peak_bytes'] / 2**20:.0f} MiB; {one['to_embed']} to embed in {one['image_shards']} shards"
        )
    return "\n".join(lines)
