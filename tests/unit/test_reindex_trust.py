"""Nights on which more goes wrong than an image: what passes is not kept, what is bad is not published."""

import json
import shutil
from pathlib import Path

import pytest

from jobs.inherit import inherited
from jobs.output import visible
from jobs.session import absolute
from pipeline.catalog.table import MAX_IMAGE_BYTES
from pipeline.errors import DataCorrupt, StorageError, UsageError
from pipeline.model.file import read_model
from pipeline.snapshot.gates import refusing
from pipeline.snapshot.publish import rollback
from pipeline.storage import layout
from pipeline.storage.open import open_store
from tests.support.models import inverse_model
from tests.support.nights import Collection, live
from tests.support.tiny_catalogs import jpeg, write_folder

ERROR_PAGE = b"<html><body>503 Service Unavailable</body></html>"


def photos(*numbers: int) -> dict[str, bytes]:
    return {f"{number:03d}.jpg": jpeg(number) for number in numbers}


@pytest.fixture
def shop(tmp_path: Path) -> Collection:
    collection = Collection(tmp_path)
    write_folder(collection.source, photos(*range(40)))
    return collection


def gates(night):
    return [gate.name for gate in refusing(list(night.manifest.gates))]


def test_reindex_source_gone_while_embedding_records_nothing_and_the_next_night_is_whole(shop, tmp_path):
    hidden = tmp_path / "unmounted"
    shop.pool.before_task = lambda: shutil.move(shop.source, hidden) if shop.source.exists() else None
    with pytest.raises(StorageError, match="is gone"):
        shop.night()
    shop.pool.before_task = None
    shutil.move(hidden, shop.source)
    night = shop.night()
    assert night.published
    assert night.manifest.coverage.embedded == 40


def test_reindex_image_missing_on_a_refused_night_is_tried_again(shop):
    lost = shop.source / "000.jpg"
    data = lost.read_bytes()
    stat = lost.stat()
    shop.pool.before_task = lambda: lost.unlink(missing_ok=True)
    refused = shop.night(gates={"max_rejected_share": 0.0})
    assert refused.refused
    assert refused.manifest.content.rejected == {"source_missing": 1}
    shop.pool.before_task = None
    lost.write_bytes(data)
    assert lost.stat().st_size == stat.st_size
    night = shop.night()
    assert night.published
    assert night.manifest.coverage.embedded == 40


def test_reindex_another_model_under_the_id_in_the_store_is_corrupt(shop):
    wanted = read_model(shop.model, "tiny")
    shop.store.put(layout.model(wanted.model_id), inverse_model())
    with pytest.raises(DataCorrupt, match="holds another model"):
        shop.night()


def test_reindex_after_a_rollback_over_two_snapshots_the_same_catalog_is_refused(shop):
    shop.night()
    write_folder(shop.source, photos(90))
    shop.night()
    write_folder(shop.source, photos(91))
    shop.night()
    rollback(shop.store, "main", 1, reason="bad", run_id="back", created="2026-01-01T00:00:00+00:00")
    night = shop.night()
    assert night.refused
    assert gates(night) == ["not_rolled_back"]


def test_reindex_raised_decode_limit_tries_what_was_refused(shop):
    first = shop.night(
        decode={"max_pixels": 10}, gates={"max_rejected_share": 1, "override": {"not_empty": "x"}}
    )
    assert first.manifest.content.rejected == {"too_many_pixels": 40}
    assert shop.night().manifest.coverage.embedded == 40


def test_reindex_error_pages_for_half_the_catalog_are_not_published(shop):
    shop.night()
    write_folder(shop.source, {f"{number:03d}.jpg": ERROR_PAGE + bytes([number]) for number in range(20)})
    night = shop.night()
    assert night.refused
    assert gates(night) == ["rejected_share"]
    assert night.manifest.coverage.stale == 20


def test_reindex_known_image_that_the_listing_refuses_goes_stale_not_deleted(shop):
    shop.night()
    with (shop.source / "000.jpg").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)  # a sparse file
    night = shop.night()
    assert night.manifest.content.rejected == {"too_large": 1}
    assert night.manifest.coverage.deleted == 0
    assert "000.jpg" in live(shop, night)


def test_inherited_after_a_lost_race_takes_the_winners_settings(shop):
    shop.night(index={"recall": 0.9})
    asked = shop.run.asked.model_copy(update={"index": type(shop.run.asked.index)()})
    older = shop.open(shop.night(index={"recall": 0.9})).manifest
    assert inherited(asked, older).index.recall == 0.9
    newer = shop.night(index={"recall": 0.95}).manifest
    assert inherited(asked, newer).index.recall == 0.95
    assert shop.run.asked.index.recall == 0.95


@pytest.mark.parametrize("uri", ["gs://bucket/x", "http://host/x", "azure://x/y"])
def test_absolute_unknown_scheme_stays_one_and_is_refused(uri):
    assert absolute(uri) == uri
    with pytest.raises(UsageError):
        open_store(absolute(uri))


def test_absolute_s3_in_any_case_is_s3():
    assert absolute("S3://bucket/x/") == "s3://bucket/x"


def test_absolute_local_path_loses_its_detours(tmp_path):
    assert absolute(str(tmp_path / "a" / ".." / "b")) == str(tmp_path / "b")


@pytest.mark.parametrize("hostile", ["a\n1  0.0  forged", "tab\t", "\u202egpj", "\x1b[31m", "\x9b"])
def test_visible_text_is_one_printable_piece(hostile):
    shown = visible(hostile)
    assert shown.isprintable()
    assert json.loads(json.dumps(shown)) == shown
    assert visible("plain ü.jpg") == "plain ü.jpg"
