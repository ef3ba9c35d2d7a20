"""Listing Parquet files: which columns are taken, which rows are refused, which files."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import SourceError
from tests.support.tiny_catalogs import ids_of, jpeg, list_of, rejects_of, write_folder, write_parquet


def test_parquet_binary_rows_and_row_groups_are_listed_in_order(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "src" / "a.parquet",
        {
            "id": [f"i{n}" for n in range(7)],
            "image": [jpeg(n) for n in range(7)],
            "price": [1.5, None, 3.0, 4.0, float("nan"), 6.0, 7.0],
            "sold": [True, False, None, True, True, True, True],
            "tags": [["x"]] * 7,
            "colour": pa.array(["red", "blue"] * 3 + [None]).dictionary_encode(),
        },
        rows_per_group=3,
    )
    catalog = list_of(tmp_path / "src", tmp_path)
    assert ids_of(catalog) == [f"i{n}" for n in range(7)]
    rows = catalog.table.to_pylist()
    assert [(row["row_group"], row["offset"]) for row in rows] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
        (2, 0),
    ]
    assert [row["version"] for row in rows] == [hashlib.sha256(jpeg(n)).hexdigest() for n in range(7)]
    assert json.loads(rows[0]["attributes"]) == {"price": 1.5, "sold": True, "colour": "red"}
    assert json.loads(rows[4]["attributes"]) == {"sold": True, "colour": "red"}
    assert json.loads(rows[6]["attributes"]) == {"price": 7.0, "sold": True}
    assert catalog.format == "parquet"


def test_parquet_hugging_face_struct_is_an_image_column(tmp_path: Path) -> None:
    images = [
        {"bytes": jpeg(1), "path": "1.jpg"},
        {"bytes": None, "path": "elsewhere/2.jpg"},
        None,
        {"bytes": b"", "path": None},
    ]
    write_parquet(
        tmp_path / "src" / "a.parquet", {"image": images, "image_id": list("abcd"), "label": [3] * 4}
    )
    catalog = list_of(tmp_path / "src", tmp_path)
    assert ids_of(catalog) == ["a", "d"]  # no bytes are listed and left to the decoder
    assert rejects_of(catalog) == {"a.parquet::b": "empty", "a.parquet::c": "empty"}
    assert json.loads(catalog.table["attributes"][0].as_py()) == {"label": 3}


@pytest.mark.parametrize(
    "kind", [pa.int64(), pa.uint8(), pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet_ids_of_this_type_become_text(kind: pa.DataType, tmp_path: Path) -> None:
    values = [7, 8] if pa.types.is_integer(kind) else ["7", "8"]
    columns = {"id": pa.array(values, type=kind), "image": [jpeg(1), jpeg(2)]}
    write_parquet(tmp_path / "src" / "a.parquet", columns)
    assert ids_of(list_of(tmp_path / "src", tmp_path)) == ["7", "8"]


def test_parquet_null_and_empty_ids_are_refused_the_rest_stays(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "src" / "a.parquet",
        {"id": [None, "", "row 0/0", "c\\d"], "image": [jpeg(1), jpeg(2), jpeg(3), jpeg(4)]},
    )
    catalog = list_of(tmp_path / "src", tmp_path)
    assert ids_of(catalog) == ["row 0/0", "c\\\\d"]
    assert list(rejects_of(catalog).values()) == ["bad_id", "bad_id"]
    assert catalog.n_listed == 4


def test_parquet_named_columns_are_taken_before_usual_ones(tmp_path: Path) -> None:
    columns = {"id": ["a", "b"], "sku": ["x", "y"], "image": [jpeg(1), jpeg(2)], "back": [jpeg(3), jpeg(4)]}
    write_parquet(tmp_path / "src" / "a.parquet", columns)
    catalog = list_of(tmp_path / "src", tmp_path, id_column="sku", image_column="back")
    assert ids_of(catalog) == ["x", "y"]
    assert catalog.table["version"][0].as_py() == hashlib.sha256(jpeg(3)).hexdigest()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a"], "picture": [b"x"]}, "no usable image column.*picture: binary"),
        ({"number": ["a"], "image": [b"x"]}, "no usable id column.*number: string"),
        ({"id": [1.5], "image": [b"x"]}, "no usable id column.*id: double"),
        ({"id": ["a"], "image": ["not bytes"]}, "no usable image column.*image: string"),
        ({"id": ["a"], "image": [{"path": "x"}]}, "no usable image column"),
        ({"id": ["a"], "image": [{"bytes": "text"}]}, "no usable image column"),
        ({"id": ["a"], "image": [{"bytes": 5}]}, "no usable image column"),
    ],
)
def test_parquet_without_usable_columns_names_what_is_there(
    columns: dict[str, list[object]], message: str, tmp_path: Path
) -> None:
    write_parquet(tmp_path / "src" / "a.parquet", columns)
    with pytest.raises(SourceError, match=message) as caught:
        list_of(tmp_path / "src", tmp_path)
    assert "-column" in caught.value.fix


def test_parquet_asked_column_that_is_absent_is_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "src" / "a.parquet", {"id": ["a"], "image": [b"x"]})
    with pytest.raises(SourceError, match="'sku'"):
        list_of(tmp_path / "src", tmp_path, id_column="sku")


def test_parquet_without_rows_lists_nothing(tmp_path: Path) -> None:
    empty = {"id": pa.array([], type=pa.string()), "image": pa.array([], type=pa.binary())}
    write_parquet(tmp_path / "src" / "a.parquet", empty)
    write_parquet(tmp_path / "src" / "b.parquet", {"id": ["a"], "image": [jpeg(1)]})
    assert ids_of(list_of(tmp_path / "src", tmp_path)) == ["a"]


def _good() -> bytes:
    sink = pa.BufferOutputStream()
    rows = 50
    table = pa.table({"id": [f"{n}" for n in range(rows)], "image": [jpeg(n) for n in range(rows)]})
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("cut", [0, 4, 100, -8, -1])
def test_parquet_cut_off_is_refused_by_name(cut: int, tmp_path: Path) -> None:
    write_folder(tmp_path / "src", {"a.parquet": _good()[:cut]})
    with pytest.raises(SourceError, match=r"a\.parquet"):
        list_of(tmp_path / "src", tmp_path)


def test_parquet_of_garbage_pages_is_refused_by_name(tmp_path: Path) -> None:
    data = _good()
    write_folder(tmp_path / "src", {"a.parquet": data[:4] + b"\xff" * 2000 + data[2004:]})
    with pytest.raises(SourceError, match=r"a\.parquet"):
        list_of(tmp_path / "src", tmp_path)


def test_parquet_text_that_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    raw = pa.array([b"caf\xe9"], type=pa.binary())
    text = pa.Array.from_buffers(pa.string(), 1, raw.buffers())
    write_parquet(tmp_path / "src" / "a.parquet", {"id": text, "image": [jpeg(1)]})
    with pytest.raises(SourceError, match=r"a\.parquet"):
        list_of(tmp_path / "src", tmp_path)


def test_parquet_hostile_corpus_is_refused_never_a_crash(shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "hostile").rglob("*.parquet"))
    if not files:
        pytest.skip("no Parquet files in the hostile sample")
    for number, file in enumerate(files):
        folder = tmp_path / str(number)
        write_folder(folder, {"a.parquet": file.read_bytes()})
        with pytest.raises(SourceError):
            list_of(folder, tmp_path)
