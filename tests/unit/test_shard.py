"""Opening an index shard: files that do not belong together are refused with both values."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from pipeline.errors import DataCorrupt
from pipeline.index.build import BuiltShard, build_index_shard
from pipeline.index.encoder import Encoder, fit_encoder
from pipeline.index.shard import IndexShard, ShardFile
from tests.support.index_shards import open_built, unit_rows, write_part

D, N = 16, 20
ENCODER = fit_encoder(unit_rows(50, D, seed=0), bits=64, seed=1)


@pytest.fixture
def built(tmp_path: Path) -> BuiltShard:
    part = write_part(tmp_path / "p.parquet", [f"{i:02d}" for i in range(N)], unit_rows(N, D, seed=1))
    return build_index_shard([part], ENCODER, tmp_path)


def _open(built: BuiltShard, encoder: Encoder = ENCODER, alive: np.ndarray | None = None) -> IndexShard:
    return open_built(built, encoder, alive)


def test_opened_shard_has_the_rows_and_maps_its_vectors(built: BuiltShard) -> None:
    shard = _open(built)
    assert (shard.n_rows, shard.n_live) == (N, N)
    assert shard.ids.to_pylist()[:2] == ["00", "01"]
    assert not shard.vectors_ND.flags.writeable
    assert shard.codes_NW is not None
    assert not shard.codes_NW.flags.writeable


def test_dead_rows_are_counted_out_and_not_found(built: BuiltShard) -> None:
    alive = np.ones(N, dtype=np.bool_)
    alive[3] = False
    shard = _open(built, alive=alive)
    assert shard.n_live == N - 1
    assert shard.find("03").tolist() == []
    assert shard.find("04").tolist() == [4]


def test_find_knows_first_last_missing_and_prefix_ids(built: BuiltShard) -> None:
    shard = _open(built)
    assert [shard.find(name).tolist() for name in ("00", "19", "2", "", "0")] == [[0], [19], [], [], []]


def test_find_gives_every_row_of_an_id(tmp_path: Path) -> None:
    part = write_part(tmp_path / "p.parquet", ["a", "b", "b", "bb"], unit_rows(4, D, seed=1))
    built = build_index_shard([part], ENCODER, tmp_path)
    assert _open(built).find("b").tolist() == [1, 2]


def test_shard_without_rows_opens(tmp_path: Path) -> None:
    shard = _open(build_index_shard([], ENCODER, tmp_path), alive=np.empty(0, dtype=np.bool_))
    assert (shard.n_rows, shard.n_live, shard.find("a").tolist()) == (0, 0, [])


def test_shard_opens_without_codes_for_exact_search(built: BuiltShard) -> None:
    assert IndexShard.open(None, built.vectors_path, built.rows_path, None).codes_NW is None


def test_codes_of_another_encoder_are_refused(built: BuiltShard) -> None:
    other = fit_encoder(unit_rows(50, D, seed=0), bits=64, seed=2)
    with pytest.raises(DataCorrupt, match="another encoder"):
        _open(built, other)


def test_encoder_of_other_sizes_is_refused_with_both(built: BuiltShard) -> None:
    other = fit_encoder(unit_rows(50, D, seed=0), bits=128)
    with pytest.raises(DataCorrupt, match="128 bits from 16 dimensions, the files hold 64 bits"):
        _open(built, other)


def test_live_flags_of_another_length_are_refused_with_both(built: BuiltShard) -> None:
    with pytest.raises(DataCorrupt, match="20 vectors, 20 rows, 20 codes, 19 live flags"):
        _open(built, alive=np.ones(19, dtype=np.bool_))


def test_files_of_different_length_are_refused_with_both(built: BuiltShard) -> None:
    np.save(built.vectors_path, np.load(built.vectors_path)[:-1].copy())
    with pytest.raises(DataCorrupt, match="19 vectors, 20 rows, 20 codes"):
        _open(built)


@pytest.mark.parametrize("which", ["codes_path", "vectors_path", "rows_path"])
@pytest.mark.parametrize("keep", [0, 10, 100])
def test_cut_off_file_is_refused_as_corrupt(which: str, keep: int, built: BuiltShard) -> None:
    path: Path = getattr(built, which)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataCorrupt, match=path.name):
        _open(built)


@pytest.mark.parametrize("which", ["codes_path", "vectors_path", "rows_path"])
def test_missing_file_is_refused_as_corrupt(which: str, built: BuiltShard) -> None:
    getattr(built, which).unlink()
    with pytest.raises(DataCorrupt):
        _open(built)


def test_another_kind_of_faiss_index_is_refused(built: BuiltShard) -> None:
    faiss.write_index_binary(faiss.IndexBinaryHNSW(64, 4), str(built.codes_path))
    with pytest.raises(DataCorrupt, match="IBHf"):
        _open(built)


@pytest.mark.parametrize(("at", "value"), [(4, 1 << 30), (12, 1 << 60), (12, 19), (25, 1 << 60), (20, 7)])
def test_header_that_does_not_fit_the_file_is_refused_before_faiss_reads_it(
    built: BuiltShard, at: int, value: int
) -> None:
    """A mutant or a size bomb: dimension, number of codes, flags, or length of the vector."""
    data = bytearray(built.codes_path.read_bytes())
    n_bytes = 4 if at == 4 else 1 if at == 20 else 8
    data[at : at + n_bytes] = (value % 2 ** (8 * n_bytes)).to_bytes(n_bytes, "little")
    built.codes_path.write_bytes(data)
    with pytest.raises(DataCorrupt, match="do not agree"):
        _open(built)


LISTS = fit_encoder(unit_rows(80, D, seed=0), bits=64, n_lists=4)


@pytest.fixture
def in_lists(tmp_path: Path) -> BuiltShard:
    part = write_part(tmp_path / "p.parquet", [f"{i % 15:02d}" for i in range(N)], unit_rows(N, D, seed=1))
    return build_index_shard([part], LISTS, tmp_path, vector_dtype="int8")


def test_lists_form_finds_every_row_of_an_id(in_lists: BuiltShard) -> None:
    shard = _open(in_lists, LISTS)
    ids = shard.ids.to_pylist()
    for image_id in {*ids, "none", "", "0"}:
        assert shard.find(image_id).tolist() == [row for row, name in enumerate(ids) if name == image_id]


def test_files_of_the_lists_form_must_fit_the_others(in_lists: BuiltShard) -> None:
    cases: tuple[tuple[ShardFile, np.ndarray, str], ...] = (
        ("offsets", np.array([0, 3, 5, 9, 19]), "19 rows in lists"),
        ("offsets", np.array([0, 9, 5, 9, 20]), "-1 rows in lists"),
        ("order", np.arange(3, dtype=np.int32), "3 id ranks"),
        ("int8", np.zeros((5, D), dtype=np.int8), "5 int8"),
        ("scales", np.zeros(N), "1-D array of float32"),
    )
    for name, wrong, said in cases:
        kept = in_lists.extra[name].read_bytes()
        np.save(in_lists.extra[name], wrong)
        with pytest.raises(DataCorrupt, match=said):
            _open(in_lists, LISTS)
        in_lists.extra[name].write_bytes(kept)


def test_rows_in_the_list_of_another_are_refused(in_lists: BuiltShard) -> None:
    np.save(in_lists.extra["offsets"], np.array([0, 0, 0, 0, N]))
    with pytest.raises(DataCorrupt, match="lie in a list that encoder"):
        _open(in_lists, LISTS)


def test_lists_of_an_encoder_without_lists_are_refused(in_lists: BuiltShard) -> None:
    with pytest.raises(DataCorrupt, match="encoder has None lists, the shard 4"):
        _open(in_lists, fit_encoder(unit_rows(80, D, seed=0), bits=64))
