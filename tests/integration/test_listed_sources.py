"""Listings and inventories on S3: what the file says of an object is what the store later has."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.catalog.listing import list_catalog
from pipeline.catalog.read import read_images
from pipeline.catalog.settle import settle_source
from pipeline.catalog.source import SourceFormat, SourceSpec
from pipeline.catalog.table import Catalog
from pipeline.storage.local import LocalStore
from pipeline.storage.open import open_store
from tests.support.inventories import Item, write_inventory
from tests.support.tiny_catalogs import ids_of, jpeg, rejects_of

pytestmark = pytest.mark.integration


@pytest.fixture
def bucket(s3_endpoint: str, make_bucket: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    return make_bucket(s3_endpoint)


def listed(spec: SourceSpec, work: Path) -> Catalog:
    store = LocalStore(work)
    return list_catalog(open_store(spec.uri), spec, store, work / "cache", lambda done, total: None)


def outcomes(spec: SourceSpec, catalog: Catalog) -> dict[str, str | None]:
    images = read_images(open_store(spec.uri), spec, catalog.images())
    return {image.image_id: image.reject for image in images}


@pytest.mark.parametrize("form", ["CSV", "Parquet"])
def test_inventory_on_s3_is_read_and_its_images_too(
    bucket: str, make_bucket: Callable[[str], str], s3_endpoint: str, tmp_path: Path, form: str
) -> None:
    images = open_store(bucket)
    for number, key in enumerate(("a b+c.jpg", "ü/d.jpg", "later.jpg")):
        images.put(key, jpeg(number))
    stats = list(images.list_objects())
    name = bucket.removeprefix("s3://")
    items = [Item(key=stat.key, size=stat.size_bytes, etag=stat.etag, bucket=name) for stat in stats]
    items += [Item(key="gone.jpg", bucket=name), Item(key="old.jpg", bucket=name, deleted=True)]
    images.put("later.jpg", jpeg(9))
    reports = make_bucket(s3_endpoint)
    manifest = write_inventory(open_store(reports), [items[:2], items[2:]], form=form, bucket=name)
    source = f"{reports}/{manifest}"
    spec = settle_source(source, None, SourceSpec(uri=source))
    assert (spec.uri, spec.format) == (bucket, SourceFormat.INVENTORY)
    catalog = listed(spec, tmp_path)
    assert ids_of(catalog) == ["a b+c.jpg", "gone.jpg", "later.jpg", "ü/d.jpg"]
    assert outcomes(spec, catalog) == {
        "a b+c.jpg": None,
        "gone.jpg": "source_missing",
        "later.jpg": "source_changed",
        "ü/d.jpg": None,
    }


def test_listing_on_s3_with_etags_needs_no_look_and_without_looks(bucket: str, tmp_path: Path) -> None:
    images = open_store(f"{bucket}/shop")
    for number in range(40):
        images.put(f"{number:02d}.jpg", jpeg(number))
    stat = images.stat("00.jpg")
    assert stat is not None
    lines = [
        f'00.jpg,"""{stat.etag}""",{stat.size_bytes}',
        *(f"{number:02d}.jpg,," for number in range(1, 40)),
    ]
    lines += ["nope.jpg,,", "s3://other/x.jpg,,", f"{bucket}/x.jpg,,"]
    open_store(bucket).put("lists/l.csv", "\n".join(["key,etag,size", *lines]).encode())
    source = f"{bucket}/lists/l.csv"
    spec = settle_source(source, f"{bucket}/shop", SourceSpec(uri=source))
    catalog = listed(spec, tmp_path)
    plain = listed(SourceSpec(uri=f"{bucket}/shop"), tmp_path / "plain")
    assert catalog.images()["version"].to_pylist()[:40] == plain.table["version"].to_pylist()
    assert set(rejects_of(catalog).values()) == {"source_not_allowed"}
    assert {name for name, reject in outcomes(spec, catalog).items() if reject} == {"nope.jpg"}


def test_prefix_that_ends_like_a_listing_stays_a_prefix(bucket: str, tmp_path: Path) -> None:
    source = f"{bucket}/day.parquet"
    open_store(source).put("a.jpg", jpeg(1))
    assert settle_source(source, None, SourceSpec(uri=source)).listing is None
