"""Index shards on disk: plain files, id order, same bytes, and refusals that name the part and the row."""

from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DataCorrupt
from pipeline.index.balance import count_ones
from pipeline.index.build import BuiltShard, build_index_shard
from pipeline.index.encoder import Encoder, fit_encoder
from pipeline.index.lists import assign_lists
from tests.support.index_shards import open_built, unit_rows, write_part

D = 16
IDS_A = ["zebra", "b", "é", "a/10", "a/9"]
IDS_B = ["b", "😀", "Z", ""]


@pytest.fixture
def encoder() -> Encoder:
    return fit_encoder(unit_rows(50, D, seed=0), bits=64)


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    return [
        write_part(tmp_path / "a.parquet", IDS_A, unit_rows(5, D, seed=1), row_group_size=2),
        write_part(tmp_path / "b.parquet", IDS_B, unit_rows(4, D, seed=2)),
    ]


def _build(parts: list[Path], encoder: Encoder, folder: Path) -> BuiltShard:
    folder.mkdir()
    return build_index_shard(parts, encoder, folder)


def _files(built: BuiltShard) -> list[bytes]:
    return [path.read_bytes() for path in (built.codes_path, built.vectors_path, built.rows_path)]


def test_three_files_open_with_plain_faiss_numpy_and_pyarrow(
    parts: list[Path], encoder: Encoder, tmp_path: Path
) -> None:
    built = _build(parts, encoder, tmp_path / "shard")
    index = faiss.read_index_binary(str(built.codes_path))
    vectors_ND = np.load(built.vectors_path)
    with pa.ipc.open_file(str(built.rows_path)) as file:
        rows = file.read_all()
    both = np.concatenate([unit_rows(5, D, seed=1), unit_rows(4, D, seed=2)])
    expected = sorted(
        [(name, 0, row) for row, name in enumerate(IDS_A)]
        + [(name, 1, row) for row, name in enumerate(IDS_B)],
        key=lambda entry: (entry[0].encode(), entry[1], entry[2]),
    )
    found = list(zip(*(rows[name].to_pylist() for name in ("image_id", "part", "row")), strict=True))
    assert found == expected
    for position, (_, part, row) in enumerate(expected):
        x_D = both[row + 5 * part]
        np.testing.assert_array_equal(vectors_ND[position], x_D)
        np.testing.assert_array_equal(index.reconstruct(position), encoder.encode(x_D[None])[0])
    assert (index.ntotal, index.d, built.n_rows, built.d, built.bits) == (9, 64, 9, D, 64)
    assert built.ones_B.sum() == np.bitwise_count(encoder.encode(both)).sum()


def test_plain_faiss_search_finds_a_stored_vector_first(
    parts: list[Path], encoder: Encoder, tmp_path: Path
) -> None:
    built = _build(parts, encoder, tmp_path / "shard")
    index = faiss.read_index_binary(str(built.codes_path))
    distance, row = index.search(encoder.encode(np.load(built.vectors_path)[3:4]), 1)
    assert (distance.tolist(), row.tolist()) == ([[0]], [[3]])


def test_same_input_gives_the_same_bytes_whatever_the_row_groups(encoder: Encoder, tmp_path: Path) -> None:
    ids, x_ND = [f"{i % 700:04d}/{i}" for i in range(2000)], unit_rows(2000, D, seed=3)
    small = write_part(tmp_path / "small.parquet", ids, x_ND, row_group_size=37)
    large = write_part(tmp_path / "large.parquet", ids, x_ND)
    assert _files(_build([small], encoder, tmp_path / "1")) == _files(
        _build([large], encoder, tmp_path / "2")
    )


def test_float16_vectors_have_the_codes_of_what_is_stored(
    parts: list[Path], encoder: Encoder, tmp_path: Path
) -> None:
    built = build_index_shard(parts, encoder, tmp_path, vector_dtype="float16")
    vectors_ND = np.load(built.vectors_path)
    index = faiss.read_index_binary(str(built.codes_path))
    assert vectors_ND.dtype == np.float16
    codes_NW = faiss.vector_to_array(index.xb).reshape(9, 8)
    np.testing.assert_array_equal(codes_NW, encoder.encode(vectors_ND))


def test_float16_parts_give_the_shard_of_their_rounded_vectors(encoder: Encoder, tmp_path: Path) -> None:
    x_ND = unit_rows(9, D, seed=4).astype(np.float16)
    ids = [str(number) for number in range(9)]
    halves = write_part(tmp_path / "halves.parquet", ids, x_ND)
    floats = write_part(tmp_path / "floats.parquet", ids, x_ND.astype(np.float32))
    assert _files(_build([halves], encoder, tmp_path / "1")) == _files(
        _build([floats], encoder, tmp_path / "2")
    )


@pytest.mark.parametrize("n_parts", [0, 1])
def test_shard_without_rows_is_three_files_without_rows(
    n_parts: int, encoder: Encoder, tmp_path: Path
) -> None:
    parts = [write_part(tmp_path / "none.parquet", [], np.empty((0, D)))][:n_parts]
    built = _build(parts, encoder, tmp_path / "shard")
    assert faiss.read_index_binary(str(built.codes_path)).ntotal == 0
    assert np.load(built.vectors_path).shape == (0, D)
    with pa.ipc.open_file(str(built.rows_path)) as file:
        assert file.read_all().num_rows == 0
    assert (built.n_rows, built.bit_balance) == (0, 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 0.5])
def test_bad_vector_is_refused_naming_part_and_row(value: float, encoder: Encoder, tmp_path: Path) -> None:
    x_ND = unit_rows(7, D, seed=1)
    x_ND[4] *= value
    x_ND[4, 0] = value
    part = write_part(tmp_path / "spoilt.parquet", [str(i) for i in range(7)], x_ND, row_group_size=3)
    with pytest.raises(DataCorrupt, match=r"spoilt\.parquet, row 4"):
        build_index_shard([part], encoder, tmp_path)


def test_part_of_another_dimension_is_refused_with_both_types(encoder: Encoder, tmp_path: Path) -> None:
    part = write_part(tmp_path / "p.parquet", ["a"], unit_rows(1, 8, seed=0))
    with pytest.raises(DataCorrupt, match=r"float>\[16\], got .*\[8\]"):
        build_index_shard([part], encoder, tmp_path)


def test_part_that_is_not_parquet_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    part = tmp_path / "p.parquet"
    part.write_bytes(b"PAR1 or not")
    with pytest.raises(DataCorrupt, match=r"p\.parquet"):
        build_index_shard([part], encoder, tmp_path)


@pytest.mark.parametrize("column", ["image_id", "embedding"])
def test_part_without_a_column_is_refused_naming_it(column: str, encoder: Encoder, tmp_path: Path) -> None:
    part = write_part(tmp_path / "p.parquet", ["a"], unit_rows(1, D, seed=0))
    pq.write_table(pq.read_table(part).drop_columns([column]), part)
    with pytest.raises(DataCorrupt, match=f"no column {column}"):
        build_index_shard([part], encoder, tmp_path)


@pytest.mark.parametrize("column", ["image_id", "embedding"])
def test_null_in_a_part_is_refused(column: str, encoder: Encoder, tmp_path: Path) -> None:
    part = write_part(tmp_path / "p.parquet", ["a"], unit_rows(1, D, seed=0))
    table = pq.read_table(part)
    empty = table.schema.empty_table().set_column(
        table.schema.get_field_index(column), column, pa.nulls(0, table.schema.field(column).type)
    )
    other = next(name for name in table.column_names if name != column)
    spoilt = pa.table({column: pa.nulls(1, empty.schema.field(column).type), other: table[other]})
    pq.write_table(spoilt, part)
    with pytest.raises(DataCorrupt, match=r"p\.parquet"):
        build_index_shard([part], encoder, tmp_path)


@pytest.fixture
def list_encoder() -> Encoder:
    return fit_encoder(unit_rows(80, D, seed=0), bits=64, n_lists=4)


def test_lists_form_orders_rows_by_list_and_id(
    parts: list[Path], list_encoder: Encoder, tmp_path: Path
) -> None:
    flat = open_built(
        _build(parts, _without_lists(list_encoder), tmp_path / "flat"), _without_lists(list_encoder)
    )
    built = _build(parts, list_encoder, tmp_path / "lists")
    assert list_encoder.centroids_LD is not None
    offsets_L, order_N = np.load(built.extra["offsets"]), np.load(built.extra["order"])
    assert (offsets_L.dtype, order_N.dtype, len(offsets_L)) == (np.int64, np.int32, 5)
    shard = open_built(built, list_encoder)
    list_N = assign_lists(flat.vectors_ND, list_encoder.centroids_LD)
    expected = sorted(range(flat.n_rows), key=lambda row: (list_N[row], row))
    assert order_N.tolist() == expected
    assert np.diff(offsets_L).tolist() == np.bincount(list_N, minlength=4).tolist()
    assert shard.ids.to_pylist() == flat.ids.take(pa.array(expected)).to_pylist()
    assert (shard.vectors_ND == flat.vectors_ND[expected]).all()
    assert shard.codes_NW is not None
    assert flat.codes_NW is not None
    assert (shard.codes_NW == flat.codes_NW[expected]).all()
    assert (shard.part_N == flat.part_N[expected]).all()
    assert built.list_imbalance >= 1


def _without_lists(encoder: Encoder) -> Encoder:
    """The same encoder without lists."""
    return replace(encoder, centroids_LD=None)


def test_codes_file_is_what_faiss_itself_would_write(
    parts: list[Path], encoder: Encoder, tmp_path: Path
) -> None:
    built = _build(parts, encoder, tmp_path / "shard")
    index = faiss.IndexBinaryFlat(64)
    index.add(encoder.encode(np.load(built.vectors_path)))
    faiss.write_index_binary(index, str(tmp_path / "faiss"))
    assert built.codes_path.read_bytes() == (tmp_path / "faiss").read_bytes()


def test_int8_is_within_half_a_step_of_the_float16_beside_it(
    parts: list[Path], list_encoder: Encoder, tmp_path: Path
) -> None:
    folder = tmp_path / "shard"
    folder.mkdir()
    built = build_index_shard(parts, list_encoder, folder, vector_dtype="int8")
    x_ND, int8_ND, scale_N = (
        np.load(p) for p in (built.vectors_path, built.extra["int8"], built.extra["scales"])
    )
    assert (x_ND.dtype, int8_ND.dtype, scale_N.dtype) == (np.float16, np.int8, np.float32)
    error_ND = np.abs(int8_ND * scale_N[:, None] - x_ND.astype(np.float32))
    assert (error_ND <= 0.5001 * scale_N[:, None]).all()
    assert (np.abs(int8_ND).max(axis=1) == 127).all()


def test_sums_and_ones_are_those_of_the_stored_rows(
    parts: list[Path], encoder: Encoder, tmp_path: Path
) -> None:
    built = _build(parts, encoder, tmp_path / "shard")
    vectors_ND = np.load(built.vectors_path)
    np.testing.assert_allclose(built.sum_D, vectors_ND.sum(axis=0, dtype=np.float64), atol=2e-6)
    assert (built.ones_B == count_ones(encoder.encode(vectors_ND))).all()
