"""A file that lists the images: what it may say, and what it may not make us read."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.catalog.listing import list_catalog
from pipeline.catalog.read import FetchedImage, read_images
from pipeline.catalog.settle import settle_source
from pipeline.catalog.source import SourceFormat, SourceSpec
from pipeline.catalog.table import Catalog
from pipeline.catalog.versions import own_version
from pipeline.errors import SourceError, UsageError
from pipeline.storage.local import LocalStore
from tests.support.tiny_catalogs import ids_of, jpeg, rejects_of, write_folder


def settled(source: Path, root: Path | None = None, **read: object) -> SourceSpec:
    spec = SourceSpec(uri=str(source), **read)  # type: ignore[arg-type]
    return settle_source(str(source), None if root is None else str(root), spec)


def listed(source: Path, root: Path | None = None, **read: object) -> Catalog:
    spec = settled(source, root, **read)
    work = LocalStore(source.parent / "work")
    return list_catalog(LocalStore(spec.uri), spec, work, source.parent / "cache", lambda done, total: None)


def csv(folder: Path, text: str | bytes, name: str = "listing.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    files = {"shoes/a.jpg": jpeg(1), "shoes/b.jpg": jpeg(2), "c d.jpg": jpeg(3)}
    return write_folder(tmp_path / "photos", files)


def test_listing_csv_lists_what_it_names_in_key_order(tmp_path: Path, photos: Path) -> None:
    catalog = listed(csv(tmp_path, "key\nshoes/b.jpg\nc d.jpg\nshoes/a.jpg\n"), photos)
    assert ids_of(catalog) == ["c d.jpg", "shoes/a.jpg", "shoes/b.jpg"]
    assert catalog.format == "listing"
    prefix = list_catalog(
        LocalStore(photos),
        SourceSpec(uri=str(photos)),
        LocalStore(tmp_path / "w"),
        tmp_path,
        lambda a, b: None,
    )
    columns = ["image_id", "version", "size_bytes", "locator", "attributes"]
    assert catalog.table.select(columns) == prefix.table.select(columns)


def test_listing_without_a_root_lists_below_its_own_folder(photos: Path) -> None:
    catalog = listed(csv(photos, "path\nshoes/a.jpg\n"))
    assert ids_of(catalog) == ["shoes/a.jpg"]


def test_listing_parquet_has_ids_attributes_and_versions(tmp_path: Path, photos: Path) -> None:
    table = {
        "locator": ["shoes/a.jpg", "shoes/b.jpg"],
        "id": ["A", "B"],
        "version": ["r1", "r2"],
        "price": [1.5, None],
        "nested": [[1], [2]],
    }
    pq.write_table(pa.table(table), tmp_path / "l.parquet")
    catalog = listed(tmp_path / "l.parquet", photos)
    rows = catalog.table.to_pylist()
    assert [row["image_id"] for row in rows] == ["A", "B"]
    assert [row["version"] for row in rows] == [
        own_version("r1", str(photos)),
        own_version("r2", str(photos)),
    ]
    assert rows[0]["attributes"] == '{"folder": "shoes", "price": 1.5}'
    assert rows[1]["attributes"] == '{"folder": "shoes"}'


@pytest.mark.parametrize(
    "key",
    [
        "/etc/passwd",
        "../secret.jpg",
        "shoes/../../secret.jpg",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "s3://other/key.jpg",
        "pipe:cat /etc/passwd",
        "out/secret.jpg",
        ".bitsieve-tmp/x",
        "shoes//a.jpg",
    ],
)
def test_listing_key_that_leads_out_of_the_root_is_refused(tmp_path: Path, photos: Path, key: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(jpeg(9))
    (photos / "out").symlink_to(tmp_path)
    catalog = listed(csv(tmp_path, f"key,size\n{key},7\nshoes/a.jpg,\n"), photos)
    assert rejects_of(catalog) == {key: "source_not_allowed"}
    assert ids_of(catalog) == ["shoes/a.jpg"]
    assert catalog.n_listed == 2


def test_listing_key_below_the_root_may_be_written_in_full(tmp_path: Path, photos: Path) -> None:
    catalog = listed(csv(tmp_path, f"key\n{photos}/shoes/a.jpg\n"), photos)
    assert ids_of(catalog) == ["shoes/a.jpg"]


def test_listing_rows_without_key_or_id_are_refused_by_line(tmp_path: Path, photos: Path) -> None:
    catalog = listed(csv(tmp_path, "key,id\nshoes/a.jpg,\n,x\nshoes/b.jpg,B\n"), photos)
    refused = {row["detail"].rpartition(": ")[2] for row in catalog.refused().to_pylist()}
    assert refused == {"line 2 has no id", "line 3 has no key"}
    assert set(rejects_of(catalog).values()) == {"bad_id"}
    assert ids_of(catalog) == ["B"]


def test_listing_id_seen_twice_keeps_the_first(tmp_path: Path, photos: Path) -> None:
    catalog = listed(csv(tmp_path, "key,id\nshoes/b.jpg,same\nshoes/a.jpg,same\n"), photos)
    assert rejects_of(catalog) == {"shoes/b.jpg": "duplicate_id"}


def test_listed_object_that_is_gone_is_missing_when_read(tmp_path: Path, photos: Path) -> None:
    source = csv(tmp_path, "key,version,size\nshoes/a.jpg,1,\nnope.jpg,,\nnever.jpg,7,12\n")
    images = {image.image_id: image for image in fetched(source, photos)}
    assert {name: image.reject for name, image in images.items()} == {
        "shoes/a.jpg": None,
        "nope.jpg": "source_missing",
        "never.jpg": "source_missing",
    }
    assert images["shoes/a.jpg"].data == jpeg(1)


def test_listed_size_that_is_not_the_objects_is_a_change(tmp_path: Path, photos: Path) -> None:
    images = list(fetched(csv(tmp_path, "key,version,size\nshoes/a.jpg,1,3\n"), photos))
    assert [image.reject for image in images] == ["source_changed"]


def fetched(source: Path, root: Path) -> list[FetchedImage]:
    spec = settled(source, root)
    return list(read_images(LocalStore(root), spec, listed(source, root).images()))


def test_listing_with_a_byte_order_mark_and_gzip_is_read(tmp_path: Path, photos: Path) -> None:
    packed = gzip.compress(b"\xef\xbb\xbfKey,Etag\r\nshoes/a.jpg,abc\r\n")
    catalog = listed(csv(tmp_path, packed, "l.csv.gz"), photos)
    assert catalog.table["version"].to_pylist() == [own_version("abc", str(photos))]


def test_listing_markers_and_excluded_keys_are_counted(tmp_path: Path, photos: Path) -> None:
    source = csv(tmp_path, "key,size\nshoes/,0\nshoes/a.jpg,\nreadme.txt,\n")
    catalog = listed(source, photos, exclude=("*.txt",))
    assert catalog.skipped == {"directory_marker": 1, "excluded": 1}
    assert ids_of(catalog) == ["shoes/a.jpg"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("name\nx\n", "no column key or path or locator"),
        ("key,size\na.jpg,12\nb.jpg,big\n", "line 3: the size 'big'"),
        ("key,size\na.jpg\n", "line 2 has 1 fields"),
        (b"key\na.jpg\ncaf\xe9.jpg\n", "line 3 is not UTF-8"),
        ("key\na.jpg\n".encode("utf-16"), "UTF-16"),
        ("key\n" + "x" * 70_000 + "\n", "line 2 has more than"),
        ('key\n"a.jpg\n', "is not CSV"),
        ("key\na\0b.jpg\n", "line 2 holds a NUL"),
        ("key,Key\na,b\n", "two columns of the same name"),
        ("key\n", "lists no images"),
    ],
)
def test_listing_that_is_damaged_is_refused_with_its_line(
    tmp_path: Path, photos: Path, text: str | bytes, says: str
) -> None:
    with pytest.raises(SourceError, match=says):
        listed(csv(tmp_path, text), photos)


def test_endless_quoted_field_is_refused(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(SourceError, match="is not CSV: field larger"):
        listed(csv(tmp_path, 'key\n"' + ("x" * 1000 + "\n") * 1000), photos)


def test_gzip_bomb_as_a_listing_is_refused(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.gunzip.FREE_BYTES", 1 << 20)
    bomb = gzip.compress(b"key\n" + (b"x" * 1000 + b"\n") * 20_000)
    with pytest.raises(SourceError, match="times its size"):
        listed(csv(tmp_path, bomb, "l.csv.gz"), photos)


def test_parquet_of_images_given_as_a_listing_says_what_is_missing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"name": ["a"], "image": [b"x"]}), tmp_path / "l.parquet")
    with pytest.raises(SourceError, match="no column key"):
        listed(tmp_path / "l.parquet")


def test_folder_is_no_listing_and_takes_no_root(tmp_path: Path) -> None:
    (tmp_path / "day.parquet").mkdir()
    assert settled(tmp_path / "day.parquet").listing is None
    assert settled(tmp_path / "day.parquet").format is None
    with pytest.raises(UsageError, match="a root goes with a listing file"):
        settled(tmp_path, tmp_path, format=SourceFormat.PREFIX)
