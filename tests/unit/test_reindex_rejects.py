"""Nights with images that cannot be had or embedded: refused, tried again, stale, set aside."""

import os
from pathlib import Path

import pytest

from pipeline.snapshot.gates import refusing
from pipeline.snapshot.publish import newest_sequence
from tests.support.nights import Collection, live, photo_shop, photos, sha
from tests.support.tiny_catalogs import (
    GARBAGE,
    black_jpeg,
    jpeg,
    list_of,
    tar_of,
    write_folder,
    write_tar,
)


@pytest.fixture
def shop(tmp_path: Path) -> Collection:
    """A folder of 30 photos, not yet indexed."""
    return photo_shop(tmp_path)


def test_reindex_rejects_are_counted_again_without_another_try(shop: Collection) -> None:
    write_folder(shop.source, {"bad.jpg": GARBAGE, "cut.jpg": jpeg(1)[:200]})
    first = shop.night(gates={"max_rejected_share": 0.1})
    assert first.manifest.content.rejected == {"truncated": 1, "unidentified": 1}
    second = shop.night(gates={"max_rejected_share": 0.1})
    assert shop.pool.n_tasks == []
    assert not second.published
    assert second.manifest.coverage.rejected == 2
    assert second.manifest.content.rejected == first.manifest.content.rejected
    write_folder(shop.source, photos(50))
    third = shop.night(gates={"max_rejected_share": 0.1})
    assert (third.manifest.coverage.embedded, third.manifest.coverage.rejected) == (1, 2)
    (shop.source / "bad.jpg").unlink()
    fourth = shop.night(gates={"max_rejected_share": 0.1})
    assert fourth.manifest.content.rejected == {"truncated": 1}


def test_reindex_rejects_of_the_listing_are_counted_every_night(tmp_path: Path) -> None:
    shop = Collection(tmp_path, settings={"gates": {"max_rejected_share": 1}})
    write_tar(shop.source / "a.tar", [*tar_of(1, 2, 3), ("0001.png", jpeg(9)), ("0002.jpg", jpeg(8))])
    write_tar(shop.source / "b.tar", tar_of(2, 4))
    first = shop.night()
    assert first.manifest.content.rejected == {"ambiguous_sample": 2, "duplicate_id": 2}
    assert (first.manifest.coverage.listed, first.manifest.coverage.rejected) == (7, 4)
    assert first.manifest.content.listing_rejects is not None
    again = shop.night()
    assert not again.published
    assert again.manifest.coverage.rejected == 4


def overwrite(path: Path, data: bytes) -> None:
    """Other bytes under the same size, inode and time, as when a disk fails for a while."""
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_reindex_bytes_that_could_not_be_had_are_tried_again(tmp_path: Path) -> None:
    shop = Collection(tmp_path, settings={"gates": {"max_rejected_share": 1}})
    write_tar(shop.source / "a.tar", tar_of(*range(8)))
    shop.night()
    path = write_tar(shop.source / "b.tar", tar_of(8, 9))
    good = path.read_bytes()
    list_of(shop.source, tmp_path, store=shop.store)
    overwrite(path, bytes(len(good)))
    second = shop.night()
    assert second.manifest.content.rejected == {"source_changed": 2}
    third = shop.night()
    assert shop.pool.n_tasks == [1]
    assert third.manifest.content.rejected == {"source_changed": 2}
    overwrite(path, good)
    fourth = shop.night()
    assert fourth.manifest.coverage.embedded == 2
    assert {"0008", "0009"} <= set(live(shop, fourth))
    assert not shop.night().published


def test_reindex_bytes_that_can_never_be_had_are_tried_every_night_and_published_once(tmp_path: Path) -> None:
    shop = Collection(tmp_path, settings={"gates": {"max_rejected_share": 1}})
    write_tar(shop.source / "a.tar", tar_of(*range(8)))
    path = write_tar(shop.source / "b.tar", tar_of(8, 9))
    list_of(shop.source, tmp_path, store=shop.store)
    overwrite(path, bytes(path.stat().st_size))
    tries, published = [], []
    for _ in range(4):
        night = shop.night()
        tries.append(sum(shop.pool.n_tasks[:1]))
        published.append(night.published)
        assert night.manifest.content.rejected == {"source_changed": 2}
    assert tries == [1, 1, 1, 1]
    assert published == [True, False, False, False]


def test_reindex_image_replaced_by_garbage_stays_stale_then_dies(shop: Collection) -> None:
    shop.night()
    write_folder(shop.source, {"005.jpg": GARBAGE})
    second = shop.night(stale_nights=2)
    coverage = second.manifest.coverage
    assert second.published
    assert (coverage.reused, coverage.stale, coverage.rejected) == (29, 1, 0)
    assert live(shop, second)["005.jpg"] == sha(jpeg(5))
    again = shop.night(stale_nights=2)
    assert not again.published
    assert again.manifest.coverage.stale == 1
    yesterday = str(second.manifest.created).replace("+00:00", "+23:59")
    shop.backdate(2, yesterday)
    assert shop.night(stale_nights=2).manifest.coverage.stale == 1
    shop.backdate(2, "2001-01-01T00:00:00+00:00")
    last = shop.night(stale_nights=2)
    assert last.published
    assert (last.manifest.coverage.stale, last.manifest.coverage.rejected) == (0, 1)
    assert "005.jpg" not in live(shop, last)
    settled = shop.night(stale_nights=2)
    assert not settled.published
    assert settled.manifest.coverage.rejected == 1


def test_reindex_without_stale_nights_garbage_takes_its_image_at_once(shop: Collection) -> None:
    shop.night()
    write_folder(shop.source, {"005.jpg": GARBAGE})
    night = shop.night(stale_nights=0)
    assert (night.manifest.coverage.stale, night.manifest.coverage.rejected) == (0, 1)
    assert "005.jpg" not in live(shop, night)


def test_reindex_stale_image_mended_is_embedded(shop: Collection) -> None:
    shop.night()
    write_folder(shop.source, {"005.jpg": GARBAGE})
    shop.night()
    write_folder(shop.source, {"005.jpg": jpeg(77)})
    night = shop.night()
    assert (night.manifest.coverage.embedded, night.manifest.coverage.stale) == (1, 0)
    assert live(shop, night)["005.jpg"] == sha(jpeg(77))


def test_reindex_stale_image_deleted_is_gone(shop: Collection) -> None:
    shop.night()
    write_folder(shop.source, {"005.jpg": GARBAGE})
    shop.night()
    (shop.source / "005.jpg").unlink()
    night = shop.night()
    assert (night.manifest.coverage.listed, night.manifest.coverage.deleted) == (29, 1)
    assert "005.jpg" not in live(shop, night)


def test_reindex_only_bad_images_are_refused_and_kept_as_a_candidate(tmp_path: Path) -> None:
    shop = Collection(tmp_path)
    write_folder(shop.source, {"a": GARBAGE, "b": GARBAGE, "c": b""})
    night = shop.night()
    assert night.refused
    assert not night.published
    assert {gate.name for gate in refusing(list(night.manifest.gates))} >= {"not_empty", "rejected_share"}
    assert night.candidate_key is not None
    assert shop.store.stat(night.candidate_key) is not None
    assert newest_sequence(shop.store, "main") == 0
    assert night.manifest.content.rejected == {"empty": 1, "unidentified": 2}


def test_reindex_image_that_cannot_be_embedded_is_a_reject(shop: Collection) -> None:
    write_folder(shop.source, {"black.jpg": black_jpeg()})
    night = shop.night()
    assert night.manifest.content.rejected == {"nonfinite_embedding": 1}
    assert "black.jpg" not in live(shop, night)


def test_reindex_shard_set_aside_is_refused_and_tried_again_next_night(shop: Collection) -> None:
    shop.night()
    write_folder(shop.source, {"003.jpg": jpeg(103), "100.jpg": jpeg(100)})
    shop.pool.deadly = frozenset({0})
    refused = shop.night()
    assert [gate.name for gate in refusing(list(refused.manifest.gates))] == ["set_aside"]
    assert refused.manifest.coverage.set_aside == 2
    shop.pool.deadly = frozenset()
    night = shop.night()
    assert night.published
    assert night.manifest.coverage.embedded == 2
