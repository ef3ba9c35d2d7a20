"""Export: what other engines get is what is live, whatever lies in the parts."""

import hashlib
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import run
from pipeline.errors import UsageError
from pipeline.exchange.changes import changes_since
from pipeline.exchange.faiss_index import write_faiss
from pipeline.exchange.rows_file import write_changes, write_rows
from pipeline.exchange.stable_ids import check_distinct, stable_ids
from pipeline.index.inverted_file import write_inverted_file
from tests.support.nights import Collection
from tests.support.tiny_catalogs import jpeg, write_parquet


def write_source(collection: Collection, rows: dict[str, tuple[int, int]]) -> None:
    """One Parquet file: id -> (number of its picture, price)."""
    columns = {
        "id": list(rows),
        "image": [jpeg(number) for number, _ in rows.values()],
        "price": [price for _, price in rows.values()],
    }
    write_parquet(collection.source / "shop.parquet", columns)


@pytest.fixture(scope="module")
def two_nights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Collection, Any, Any]:
    """b gets another picture, c another price, d goes, e comes; a stays."""
    collection = Collection(tmp_path_factory.mktemp("export"))
    write_source(collection, {"a": (1, 10), "b": (2, 20), "c": (3, 30), "d": (4, 40)})
    first = collection.night()
    write_source(collection, {"a": (1, 10), "b": (5, 20), "c": (3, 33), "e": (6, 60)})
    second = collection.night(gates={"max_shrink_share": 1})
    return collection, collection.open(first), collection.open(second)


def vectors_of(table: pa.Table) -> dict[str, list[float] | None]:
    return dict(zip(table["image_id"].to_pylist(), table["embedding"].to_pylist(), strict=True))


def expected(snapshot: Any) -> dict[str, list[float]]:
    return dict(zip(snapshot.live["image_id"].to_pylist(), snapshot.vectors.tolist(), strict=True))


def test_rows_are_the_live_ones_with_their_attributes(two_nights: Any, tmp_path: Path) -> None:
    _, _, snapshot = two_nights
    assert write_rows(snapshot, tmp_path / "rows.parquet", with_attributes=True) == 4
    table = pq.read_table(tmp_path / "rows.parquet")
    assert vectors_of(table) == expected(snapshot)
    prices = dict(zip(table["image_id"].to_pylist(), table["price"].to_pylist(), strict=True))
    assert prices == {"a": 10, "b": 20, "c": 33, "e": 60}
    assert table.schema.metadata[b"bitsieve.model_id"].decode() == snapshot.content.model.id
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


@pytest.mark.parametrize(("with_attributes", "upserts"), [(False, {"b", "e"}), (True, {"b", "c", "e"})])
def test_changes_bring_another_engine_from_one_snapshot_to_the_next(
    two_nights: Any, tmp_path: Path, with_attributes: bool, upserts: set[str]
) -> None:
    _, before, after = two_nights
    changes = changes_since(before, after, with_attributes=with_attributes)
    write_changes(after, changes, 1, tmp_path / "changes.parquet", with_attributes=with_attributes)
    rows = pq.read_table(tmp_path / "changes.parquet").to_pylist()
    assert {row["image_id"] for row in rows if row["change"] == "upsert"} == upserts
    assert len(rows) == changes.n_upserts + 1
    engine: dict[str, Any] = dict(expected(before))
    for row in rows:
        if row["change"] == "delete":
            assert row["embedding"] is None
            del engine[row["image_id"]]
        else:
            engine[row["image_id"]] = row["embedding"]
            assert row.get("price") == (
                {"b": 20, "c": 33, "e": 60}[row["image_id"]] if with_attributes else None
            )
    assert engine == expected(after)


def test_changes_since_nothing_are_all_rows_and_no_deletes(two_nights: Any) -> None:
    _, _, after = two_nights
    changes = changes_since(None, after, with_attributes=False)
    assert (changes.n_upserts, len(changes.deletes)) == (4, 0)


def test_changes_between_equal_snapshots_are_none(two_nights: Any) -> None:
    _, _, after = two_nights
    changes = changes_since(after, after, with_attributes=True)
    assert (changes.n_upserts, len(changes.deletes)) == (0, 0)


def test_plain_faiss_opens_the_index_and_finds_every_image_at_distance_zero(
    two_nights: Any, tmp_path: Path
) -> None:
    _, _, snapshot = two_nights
    assert write_faiss(snapshot, tmp_path / "x.faiss", with_attributes=True) == 4
    index = faiss.read_index(str(tmp_path / "x.faiss"))
    ids = pq.read_table(tmp_path / "x.faiss.ids.parquet")
    name_of = dict(zip(ids["faiss_id"].to_pylist(), ids["image_id"].to_pylist(), strict=True))
    distance_Q1, number_Q1 = index.search(snapshot.vectors, 1)
    assert [name_of[number] for number in number_Q1[:, 0].tolist()] == snapshot.live["image_id"].to_pylist()
    assert distance_Q1.max() < 1e-6
    assert ids["price"].to_pylist() == [
        {"a": 10, "b": 20, "c": 33, "e": 60}[i] for i in ids["image_id"].to_pylist()
    ]


def test_index_of_many_lists_answers_as_one_that_faiss_filled_itself(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    xb_ND = rng.normal(size=(3_000, 24)).astype(np.float32)
    ids_N = rng.permutation(10**12 + np.arange(3_000))
    centroids_LD = np.round(xb_ND[:40] * 2**11) / np.float32(2**11)

    def batches() -> Any:
        for start in range(0, 3_000, 700):
            yield ids_N[start : start + 700], xb_ND[start : start + 700]

    write_inverted_file(tmp_path / "x.faiss", centroids_LD, batches, 5)
    ours = faiss.read_index(str(tmp_path / "x.faiss"))
    quantiser = faiss.IndexFlatL2(24)
    quantiser.add(centroids_LD)
    theirs = faiss.IndexIVFFlat(quantiser, 24, 40, faiss.METRIC_L2)
    theirs.is_trained, theirs.nprobe = True, 5
    theirs.add_with_ids(xb_ND, ids_N)
    distance_QK, number_QK = ours.search(xb_ND[:200], 10)
    their_distance_QK, their_number_QK = theirs.search(xb_ND[:200], 10)
    assert (number_QK == their_number_QK).mean() > 0.99  # a row between two lists may be in either
    np.testing.assert_allclose(distance_QK[:, 0], their_distance_QK[:, 0], atol=1e-4)
    assert ours.nprobe == 5


def test_stable_ids_are_the_first_63_bits_of_sha256() -> None:
    head = int.from_bytes(hashlib.sha256("schön.jpg".encode()).digest()[:8], "big")
    assert stable_ids(["schön.jpg"]).tolist() == [head % 2**63]


def test_two_ids_with_one_number_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="'b' and 'b'"):
        check_distinct(stable_ids(["a", "b", "b"]), [["a", "b"], ["b"]])
    check_distinct(stable_ids(["a", "b"]), [])


def test_since_goes_with_changes_only(
    two_nights: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collection, _, _ = two_nights
    command = ["export", "--store", collection.store.uri, "-o", str(tmp_path / "x.parquet")]
    assert run([*command, "--since", "1"]) == 2
    assert run([*command, "--format", "changes"]) == 2
    assert run([*command, "--format", "changes", "--since", "9"]) == 2
    assert list(tmp_path.iterdir()) == []
    assert run([*command, "--format", "changes", "--since", "1"]) == 0
    assert "2 upserts and 1 deletes since snapshot 1" in capsys.readouterr().out
