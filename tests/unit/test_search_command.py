"""``bitsieve search`` over a small collection: queries of every kind in, matches with attributes out."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import run
from tests.support.nights import Collection
from tests.support.tiny_catalogs import black_jpeg, jpeg, tar_of, write_folder, write_parquet, write_tar

N = 24


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """24 images of 5 products; the last one was taken away on the second night."""
    made = Collection(tmp_path_factory.mktemp("search"))
    for n in (N, N - 1):
        columns = {
            "image_id": [f"i{i:02d}" for i in range(n)],
            "image": [jpeg(i) for i in range(n)],
            "group_id": [f"g{i % 5}" for i in range(n)],
            "price": list(range(n)),
        }
        write_parquet(made.source / "shop.parquet", columns)
        made.night(label="group_id")
    return made


@pytest.fixture
def search(collection: Collection, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Runs the command; its exit code, its JSON and what it said."""

    def carry_out(*arguments: object) -> tuple[int, dict[str, Any], str]:
        store = ("--store", collection.folder / "store", "--json")
        code = run(["search", *map(str, [*arguments, *store])])
        out, err = capfd.readouterr()
        return code, json.loads(out), err

    return carry_out


@pytest.fixture
def query(tmp_path: Path) -> Path:
    (tmp_path / "query.jpg").write_bytes(jpeg(7))
    return tmp_path / "query.jpg"


def _ids(answer: dict[str, Any]) -> list[list[str]]:
    return [[match["id"] for match in one["matches"]] for one in answer["results"]]


def test_device_that_is_not_there_is_an_error_not_the_processor(
    search: Any, query: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITSIEVE_INDEX__DEVICE", "cuda")
    code, answer, _ = search(query)
    assert (code, answer["error"]["kind"]) == (1, "worker")
    assert "index.device = cuda" in answer["error"]["message"]
    code, answer, _ = search(query, "--ray")
    assert (code, answer["error"]["kind"]) == (2, "usage")
    monkeypatch.setenv("BITSIEVE_INDEX__DEVICE", "auto")
    assert search(query)[0] == 0


@pytest.mark.parametrize("given", ["queries", "queries/0.tar"])
def test_tars_as_queries_are_refused_with_a_way_out(search: Any, tmp_path: Path, given: str) -> None:
    write_tar(tmp_path / "queries" / "0.tar", tar_of(1, 2))
    code, said, _ = search(tmp_path / given)
    assert (code, said["error"]["kind"]) == (2, "usage")
    assert "tar -xf" in said["error"]["fix"]


def test_image_finds_itself_with_label_and_columns(search: Any, query: Path) -> None:
    code, answer, _ = search(query, "-k", 2, "--columns", "price,group_id")
    assert (code, answer["snapshot"], answer["queries"], answer["failed"]) == (0, 2, 1, 0)
    best = answer["results"][0]["matches"][0]
    assert best == {
        "id": "i07",
        "distance": 0.0,
        "label": "g2",
        "attributes": {"price": 7, "group_id": "g2"},
    }


def test_filter_and_collapse_give_one_image_of_each_product_that_matches(search: Any, query: Path) -> None:
    _, answer, _ = search(query, "-k", 10, "--collapse", "group", "--filter", "price >= 5 and price < 14")
    matches = answer["results"][0]["matches"]
    assert [match["label"] for match in matches].count("g2") == 1
    assert sorted(match["label"] for match in matches) == ["g0", "g1", "g2", "g3", "g4"]
    assert all(5 <= int(match["id"][1:]) < 14 for match in matches)
    distances = [match["distance"] for match in matches]
    assert distances == sorted(distances)


def test_dead_images_are_not_found_and_k_beyond_the_catalog_gives_all(search: Any, query: Path) -> None:
    _, answer, _ = search(query, "-k", 1000)
    assert sorted(_ids(answer)[0]) == [f"i{i:02d}" for i in range(N - 1)]
    _, before, _ = search(query, "-k", 1000, "--snapshot", 1)
    assert len(_ids(before)[0]) == N


def test_nothing_matches_is_an_empty_answer_with_a_notice(search: Any, query: Path) -> None:
    code, answer, said = search(query, "--filter", "price > 1000")
    assert (code, _ids(answer)) == (0, [[]])
    assert "no image matches the filter 'price > 1000'" in said


def test_broken_queries_are_answers_with_a_reason_and_the_others_are_found(
    search: Any, query: Path, tmp_path: Path
) -> None:
    write_folder(tmp_path / "q", {"a.jpg": b"words", "b.jpg": jpeg(3), "c.jpg": black_jpeg()})
    code, answer, said = search(tmp_path / "q", tmp_path / "gone.jpg", query, "-k", 1)
    assert code == 0
    assert _ids(answer) == [[], ["i03"], [], [], ["i07"]]
    errors = [one.get("error", "").partition(":")[0] for one in answer["results"]]
    assert errors == ["unidentified", "", "nonfinite_embedding", "source_missing", ""]
    assert answer["failed"] == 3
    assert "3 of 5 queries" in said


def test_no_query_that_can_be_searched_is_a_failure(search: Any, tmp_path: Path) -> None:
    (tmp_path / "words.jpg").write_text("words")
    code, answer, _ = search(tmp_path / "words.jpg", "-o", tmp_path / "out.parquet")
    assert (code, answer["error"]["kind"]) == (2, "usage")
    assert "none of 1 queries" in answer["error"]["message"]
    assert [file.name for file in tmp_path.iterdir()] == ["words.jpg"]


def test_parquet_of_images_in_and_parquet_of_results_out(search: Any, tmp_path: Path) -> None:
    images = [jpeg(4), None, b"words", jpeg(9)]
    write_parquet(tmp_path / "q.parquet", {"id": ["x", "y", "z", "w"], "image": images})
    out = tmp_path / "new" / "out.parquet"
    code, answer, _ = search(tmp_path / "q.parquet", "-k", 2, "-o", out, "--columns", "price")
    assert (code, answer["queries"], answer["failed"], answer["output"]) == (0, 4, 2, str(out))
    assert "results" not in answer
    table = pq.read_table(out)
    assert table.schema.names == ["query", "rank", "image_id", "distance", "label", "error", "price"]
    rows = table.to_pylist()
    assert [(row["query"], row["rank"]) for row in rows] == [
        ("x", 1), ("x", 2), ("y", None), ("z", None), ("w", 1), ("w", 2),
    ]  # fmt: skip
    assert [rows[0]["image_id"], rows[4]["image_id"], rows[4]["price"], rows[4]["label"]] == [
        "i04", "i09", 9, "g4",
    ]  # fmt: skip
    assert rows[2]["error"].startswith("empty")
    assert rows[3]["error"].startswith("unidentified")
    assert rows[2]["price"] is rows[2]["image_id"] is rows[0]["error"] is None


def _vectors(path: Path, x_ND: np.ndarray, metadata: dict[str, str] | None = None, **more: Any) -> Path:
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(x_ND.ravel(), pa.float32()), x_ND.shape[1])
    table = pa.table({"query": [f"q{i}" for i in range(len(x_ND))], "embedding": embedding} | more)
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def test_stored_vectors_as_queries_find_themselves(
    search: Any, collection: Collection, tmp_path: Path
) -> None:
    part = next(iter((collection.folder / "store" / "embeddings").rglob("*.parquet")))
    code, answer, _ = search(part, "-k", 1)
    assert code == 0
    queries = [one["query"] for one in answer["results"]]
    alive = [ids == [name] for name, ids in zip(queries, _ids(answer), strict=True) if name != f"i{N - 1}"]
    assert alive == [True] * (len(queries) - (f"i{N - 1}" in queries))


def test_vectors_that_are_not_unit_are_answers_with_a_reason(search: Any, tmp_path: Path) -> None:
    x_ND = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    x_ND[1], x_ND[2] = 0, np.nan
    _, answer, _ = search(_vectors(tmp_path / "v.parquet", x_ND), "-k", 1)
    assert ["error" in one for one in answer["results"]] == [False, True, True, False]
    assert "got length nan" in answer["results"][2]["error"]


@pytest.mark.parametrize(
    ("x_ND", "metadata", "flags", "kind", "message"),
    [
        (np.eye(4, dtype=np.float32), None, (), "usage", "have 4 dimensions, the snapshot's have 3"),
        (np.eye(3, dtype=np.float32), {"bitsieve.model_id": "f" * 64}, (), "store", "of model ffffffffffff"),
        (np.eye(3, dtype=np.float32) * 2, None, (), "usage", "none of 3 queries.*got length 2"),
        (np.eye(3, dtype=np.float32), None, ("--query-column", "vec"), "usage", "no column 'vec'"),
        (np.eye(3, dtype=np.float32), None, ("--query-column", "query"), "usage", "query holds vectors"),
    ],
)
def test_vectors_of_something_else_are_refused(
    x_ND: np.ndarray,
    metadata: Any,
    flags: tuple[str, ...],
    kind: str,
    message: str,
    search: Any,
    tmp_path: Path,
) -> None:
    code, answer, _ = search(_vectors(tmp_path / "v.parquet", x_ND, metadata), *flags)
    assert (code, answer["error"]["kind"]) == (2, kind)
    assert re.search(message, answer["error"]["message"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--filter", "prise < 3"), "no attribute 'prise'"),
        (("--filter", "price <"), "is not an expression"),
        (("--collapse", "maker"), "no attribute 'maker'"),
        (("--columns", "label"), "no attribute 'label'"),
        (("--columns", "price,price"), "twice"),
        (("--query-id", "id"), "no Parquet file"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(
    flags: tuple[str, ...], message: str, search: Any, query: Path
) -> None:
    code, answer, _ = search(query, *flags)
    assert code == 2
    assert message in answer["error"]["message"]
    assert answer["error"]["fix"]


def test_file_that_is_no_parquet_is_refused(search: Any, tmp_path: Path) -> None:
    (tmp_path / "q.parquet").write_text("words")
    code, answer, _ = search(tmp_path / "q.parquet")
    assert code == 2
    assert "not a Parquet file" in answer["error"]["message"]


def test_catalogs_of_one_image_and_of_none_are_searched(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], query: Path
) -> None:
    made = Collection(tmp_path / "small")
    write_folder(made.source, {"only.jpg": jpeg(1)})
    made.night()
    (made.source / "only.jpg").write_bytes(b"")
    allowed = dict.fromkeys(("rejected_share", "shrink", "not_empty"), "a test")
    made.night(stale_nights=0, max_reembed=1, gates={"override": allowed})
    found = []
    for sequence in ("1", "2"):
        assert (
            run(
                [
                    "search",
                    str(query),
                    "--store",
                    str(made.folder / "store"),
                    "--snapshot",
                    sequence,
                    "--json",
                ]
            )
            == 0
        )
        out, err = capfd.readouterr()
        found.append((_ids(json.loads(out)), "the snapshot is empty" in err))
    assert found == [([["only.jpg"]], False), ([[]], True)]
