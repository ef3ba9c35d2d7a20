"""S3 Inventories as S3 writes them, read from a copied tree; the images' bucket is named, never asked."""

from pathlib import Path

import pytest

from pipeline.catalog.listing import list_catalog
from pipeline.catalog.settle import settle_source
from pipeline.catalog.source import SourceSpec
from pipeline.catalog.table import Catalog
from pipeline.errors import DataCorrupt, SourceError, UsageError
from pipeline.storage.local import LocalStore
from pipeline.storage.open import open_store
from tests.support.inventories import Item, write_inventory
from tests.support.tiny_catalogs import ids_of, rejects_of

FORMS = pytest.mark.parametrize("form", ["CSV", "Parquet"])


def listed(folder: Path, key: str, root: str | None = None, **read: object) -> Catalog:
    source = str(folder / key)
    spec = settle_source(source, root, SourceSpec(uri=source, **read))  # type: ignore[arg-type]
    assert spec.uri.startswith("s3://photos")
    images = open_store(spec.uri)  # nothing listens there: a request would fail
    return list_catalog(images, spec, LocalStore(folder / "w"), folder / "cache", lambda done, total: None)


@FORMS
def test_inventory_lists_latest_versions_in_key_order(tmp_path: Path, form: str) -> None:
    odd = ["b/ü +%&.jpg", "a b.jpg", "x/../y//z.jpg", "http://not-a-url", "-dash", '"><script>.jpg', "tab\t"]
    files = [
        [Item(key=key, etag=f"{number:032x}") for number, key in enumerate(odd)],
        [
            Item(key="gone.jpg", size=None, etag=None, deleted=True),
            Item(key="a b.jpg", etag="f" * 32, latest=False),
            Item(key="folder/", size=0),
            Item(key="last.jpg", etag="c" * 32 + "-3", size=70),
        ],
    ]
    catalog = listed(tmp_path, write_inventory(LocalStore(tmp_path), files, form=form))
    assert ids_of(catalog) == sorted([*odd, "last.jpg"], key=str.encode)
    assert dict(catalog.skipped) == {"delete_marker": 1, "old_version": 1, "directory_marker": 1}
    versions = dict(zip(ids_of(catalog), catalog.images()["version"].to_pylist(), strict=True))
    assert versions["a b.jpg"] == f"{1:032x}:100"
    assert versions["last.jpg"] == f"{'c' * 32}-3:70"
    assert catalog.format == "inventory"


@FORMS
def test_inventory_in_another_order_gives_the_same_catalog(tmp_path: Path, form: str) -> None:
    items = [Item(key=f"{number}.jpg", etag=f"{number:032x}") for number in range(20)]
    one = write_inventory(LocalStore(tmp_path / "1"), [items[:7], items[7:]], form=form)
    other = write_inventory(LocalStore(tmp_path / "2"), [items[::-2], items[-2::-2]], form=form)
    assert listed(tmp_path / "1", one).table == listed(tmp_path / "2", other).table


@FORMS
def test_inventory_row_of_another_bucket_is_refused(tmp_path: Path, form: str) -> None:
    files = [[Item(key="a.jpg"), Item(key="b.jpg", bucket="secrets")]]
    catalog = listed(tmp_path, write_inventory(LocalStore(tmp_path), files, form=form))
    assert rejects_of(catalog) == {"b.jpg": "source_not_allowed"}
    assert ids_of(catalog) == ["a.jpg"]


def test_inventory_below_a_prefix_has_ids_relative_to_it(tmp_path: Path) -> None:
    files = [[Item(key="in/a.jpg"), Item(key="in/"), Item(key="out/b.jpg"), Item(key="in/c.txt")]]
    key = write_inventory(LocalStore(tmp_path), files)
    catalog = listed(tmp_path, key, root="s3://photos/in", include=("*.jpg",))
    assert ids_of(catalog) == ["a.jpg"]
    assert catalog.skipped == {"directory_marker": 1, "outside_root": 1, "excluded": 1}


@pytest.mark.parametrize("root", ["s3://other", "s3://photos-2", "/srv/photos"])
def test_inventory_with_the_root_of_another_bucket_is_refused(tmp_path: Path, root: str) -> None:
    key = write_inventory(LocalStore(tmp_path), [[Item(key="a.jpg")]])
    with pytest.raises(UsageError, match="is one of s3://photos, not of"):
        listed(tmp_path, key, root=root)


def test_inventory_file_that_was_damaged_is_corrupt(tmp_path: Path) -> None:
    key = write_inventory(LocalStore(tmp_path), [[Item(key="a.jpg")]], wrong_md5=True)
    with pytest.raises(DataCorrupt, match="has MD5"):
        listed(tmp_path, key)


def test_inventory_file_that_is_missing_is_named(tmp_path: Path) -> None:
    key = write_inventory(LocalStore(tmp_path), [[Item(key="a.jpg")]])
    next((tmp_path / "inv").rglob("*.csv.gz")).unlink()
    with pytest.raises(SourceError, match=r"00000000-aaaa.csv.gz is not in"):
        listed(tmp_path, key)


def test_inventory_found_beside_its_manifest_where_the_tree_was_copied(tmp_path: Path) -> None:
    write_inventory(LocalStore(tmp_path / "all"), [[Item(key="a.jpg")]])
    (tmp_path / "all" / "inv" / "photos" / "daily").rename(tmp_path / "copied")
    assert ids_of(listed(tmp_path, "copied/2026-01-02T01-00Z/manifest.json")) == ["a.jpg"]


def test_inventory_key_that_is_no_text_is_refused_by_line(tmp_path: Path) -> None:
    key = write_inventory(LocalStore(tmp_path), [[Item(key="a.jpg")], [Item(key="café.jpg")]])
    import gzip
    import hashlib
    import json

    data = next((tmp_path / "inv").rglob("00000001-*.csv.gz"))
    broken = gzip.compress(gzip.decompress(data.read_bytes()).replace(b"%C3%A9", b"%E9"))
    data.write_bytes(broken)
    manifest = json.loads((tmp_path / key).read_text())
    manifest["files"][1]["MD5checksum"] = hashlib.md5(broken, usedforsecurity=False).hexdigest()
    (tmp_path / key).write_text(json.dumps(manifest))
    catalog = listed(tmp_path, key)
    assert list(rejects_of(catalog).values()) == ["bad_id"]
    assert ids_of(catalog) == ["a.jpg"]


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ("{", "is not the manifest"),
        ("[]", "is not the manifest"),
        ('{"sourceBucket": "../x", "fileFormat": "CSV", "fileSchema": "Key", "files": []}', "sourceBucket"),
        (
            '{"sourceBucket": "photos", "fileFormat": "ORC", "fileSchema": "Key", "files": []}',
            "inventory in ORC",
        ),
        (
            '{"sourceBucket": "photos", "fileFormat": "CSV", "fileSchema": "Key", "files": []}',
            "lists no images",
        ),
    ],
)
def test_manifest_that_cannot_be_read_is_refused(tmp_path: Path, manifest: str, says: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "manifest.json").write_text(manifest)
    with pytest.raises(SourceError, match=says):
        listed(tmp_path, "d/manifest.json")
