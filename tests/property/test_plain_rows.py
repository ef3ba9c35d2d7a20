"""What is decided of listed rows column by column is what is decided of them one by one."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.catalog.listed_batch import ListedBatch
from pipeline.catalog.listed_keys import KeyedCatalog
from pipeline.catalog.plain_rows import plain_rows
from pipeline.catalog.source import SourceSpec
from pipeline.catalog.table import LISTING_SCHEMA, MAX_IMAGE_BYTES
from pipeline.storage.local import LocalStore
from pipeline.storage.open import open_store
from pipeline.storage.store import ObjectStore

_PIECES = [
    "a",
    "é",
    "b c",
    "/",
    "//",
    ".",
    "..",
    "\\",
    "\0",
    "\n",
    "s3://bucket/p",
    "http:",
    "C:/",
    "x" * 600,
    "%",
]
_keys = st.lists(st.sampled_from(_PIECES), max_size=4).map("".join)
_texts = st.none() | st.sampled_from(["", '"', '"ab"', "ab", "c\\d", "é"])
_sizes = st.none() | st.sampled_from([0, 7, MAX_IMAGE_BYTES, MAX_IMAGE_BYTES + 1])
_rows = st.lists(
    st.tuples(st.none() | _keys, _texts, _texts, _texts, _sizes, st.none() | st.sampled_from(["", "red"])),
    min_size=1,
    max_size=12,
)


def batch_of(rows: list[tuple[object, ...]], *, with_colour: bool) -> ListedBatch:
    key, image_id, etag, version, size_bytes, colour = zip(*rows, strict=True)
    return ListedBatch(
        name="l.csv",
        unit="row",
        numbers=np.arange(len(rows)),
        key=pa.array(key, pa.string()),
        image_id=pa.array(image_id, pa.string()),
        etag=pa.array(etag, pa.string()),
        version=pa.array(version, pa.string()),
        size_bytes=pa.array(size_bytes, pa.int64()),
        attributes={"colour": list(colour)} if with_colour else {},
        foreign={0: "it is in the bucket x"} if len(rows) == 3 else {},
    )


def places(tmp: Path) -> list[tuple[str, ObjectStore]]:
    return [("s3://bucket/p", open_store("s3://bucket/p")), (str(tmp), LocalStore(tmp))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.mark.parametrize("place", [0, 1])
@settings(deadline=None)  # opening a store takes its time
@given(rows=_rows, flags=st.tuples(*[st.booleans()] * 3))
def test_plain_rows_are_what_they_are_one_by_one(
    place: int,
    folder: Path,
    rows: list[tuple[object, ...]],
    flags: tuple[bool, bool, bool],
) -> None:
    has_ids, literal, with_colour = flags
    uri, root = places(folder)[place]
    spec = SourceSpec(uri=uri)
    catalog = KeyedCatalog(root=root, spec=spec, has_ids=has_ids, literal=literal)
    batch = batch_of(rows, with_colour=with_colour)
    is_plain, found = plain_rows(batch, spec, has_ids=has_ids, literal=literal, is_ours=catalog.asked())
    assert found.schema == LISTING_SCHEMA
    with ThreadPoolExecutor(1) as threads:
        listed, expected = catalog.one_by_one(list(batch.rows(np.flatnonzero(is_plain))), threads)
    assert listed == list(range(int(is_plain.sum())))
    assert expected.to_pylist() == found.to_pylist()
    assert catalog.skipped == {}


def test_rows_that_are_excluded_are_counted_whether_plain_or_not(folder: Path) -> None:
    keys = ["a.jpg", "b.png", "c\\d.png", "../e.jpg", "f.jpg"]
    rows: list[tuple[object, ...]] = [(key, None, None, "v1", 7, None) for key in keys]
    catalog = KeyedCatalog(root=LocalStore(folder), spec=SourceSpec(uri=str(folder), exclude=("*.png",)))
    table = catalog.table([batch_of(rows, with_colour=False)])
    assert table["locator"].to_pylist() == ["../e.jpg", "a.jpg", "f.jpg"]
    assert table["reject"].to_pylist() == ["source_not_allowed", None, None]
    assert catalog.skipped == {"excluded": 2}


def test_ordinary_rows_are_plain(folder: Path) -> None:
    rows: list[tuple[object, ...]] = [
        ("shoes/red é.jpg", None, '"abc"', None, 7, None),
        ("s3://bucket/p/a.jpg", None, "abc", "v2", 7, None),
        ("a.jpg", None, "abc", None, None, None),
        ("../a.jpg", None, "abc", None, 7, None),
    ]
    batch, spec = batch_of(rows, with_colour=False), SourceSpec(uri="s3://bucket/p")
    is_plain, found = plain_rows(batch, spec, has_ids=False, literal=False, is_ours=None)
    assert is_plain.tolist() == [True, True, False, False]
    assert found["locator"].to_pylist() == ["shoes/red é.jpg", "a.jpg"]
    assert found["version"].to_pylist()[0] == "abc:7"
    assert found["attributes"].to_pylist() == ['{"folder": "shoes"}', "{}"]
