"""Embedding parts are plain Parquet: other people's readers open them without our code."""

import duckdb
import numpy as np
import polars as pl
import pytest

from pipeline.embed.table import EmbeddedImage, rejects_bytes
from pipeline.values import Reject, RejectReason
from tests.support.parts import part_bytes

DIM = 8


@pytest.fixture
def vectors():
    drawn = np.random.default_rng(0).standard_normal((5, DIM))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def part(tmp_path, vectors):
    images = [
        EmbeddedImage(
            image_id=f"shoes/{number} ü.jpg",
            version=f"v{number}",
            content_digest=f"{number:064x}",
            locator=f"a.tar::shoes/{number} ü.jpg",
            width_px=640 + number,
            height_px=480,
        )
        for number in range(len(vectors))
    ]
    path = tmp_path / "part.parquet"
    path.write_bytes(part_bytes(images, vectors, {"bitsieve.model_id": "m"}))
    return path


def test_part_polars_reads_rows_and_vectors(part, vectors):
    frame = pl.read_parquet(part)
    assert frame.columns == [
        "image_id",
        "version",
        "content_digest",
        "locator",
        "width",
        "height",
        "embedding",
    ]
    assert frame["image_id"][3] == "shoes/3 ü.jpg"
    assert frame["embedding"].dtype == pl.Array(pl.Float32, DIM)
    assert np.array_equal(frame["embedding"].to_numpy(), vectors)


def test_part_duckdb_finds_the_nearest_by_sql(part, vectors):
    query = vectors[2].tolist()
    rows = duckdb.execute(
        f"""
        SELECT image_id, array_distance(embedding::FLOAT[{DIM}], ?::FLOAT[{DIM}]) AS distance
        FROM read_parquet(?) ORDER BY distance LIMIT 2
        """,
        [query, str(part)],
    ).fetchall()
    assert rows[0] == ("shoes/2 ü.jpg", 0.0)
    assert rows[1][1] > 0


def test_part_of_float16_is_read_by_polars_and_duckdb(tmp_path, vectors):
    image = EmbeddedImage(image_id="a", version="v", content_digest="c", locator="l", width_px=1, height_px=1)
    path = tmp_path / "half.parquet"
    path.write_bytes(part_bytes([image] * len(vectors), vectors, {}, "float16"))
    wanted = vectors.astype(np.float16).astype(np.float32)
    assert np.array_equal(pl.read_parquet(path)["embedding"].to_numpy().astype(np.float32), wanted)
    rows = duckdb.execute("SELECT embedding FROM read_parquet(?)", [str(path)]).fetchall()
    assert np.array_equal(np.array([row[0] for row in rows], dtype=np.float32), wanted)


def test_part_duckdb_reads_the_file_metadata(part):
    pairs = dict(duckdb.execute("SELECT key, value FROM parquet_kv_metadata(?)", [str(part)]).fetchall())
    assert pairs[b"bitsieve.model_id"] == b"m"


def test_rejects_duckdb_counts_by_reason(tmp_path):
    path = tmp_path / "rejects.parquet"
    rejects = [
        Reject(image_id=str(number), version="v", reason=reason, detail="")
        for number, reason in enumerate([RejectReason.EMPTY, RejectReason.EMPTY, RejectReason.TRUNCATED])
    ]
    path.write_bytes(rejects_bytes(rejects))
    counts = duckdb.execute(
        "SELECT reason, count(*) FROM read_parquet(?) GROUP BY reason ORDER BY reason", [str(path)]
    ).fetchall()
    assert counts == [("empty", 2), ("truncated", 1)]
