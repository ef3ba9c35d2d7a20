"""Vectors serve again wherever the same bytes come back: no decoding, no inference, the same parts."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.reindex import Night
from pipeline.embed.task import PART, STAGE
from pipeline.errors import UsageError
from pipeline.snapshot.publish import newest
from pipeline.snapshot.requeue import write_request
from pipeline.storage import layout
from pipeline.storage.receipts import read_receipt
from pipeline.values import RejectReason
from tests.support.nights import Collection, live
from tests.support.tiny_catalogs import GARBAGE, age, jpeg, tar_of, write_folder, write_parquet, write_tar


@pytest.fixture
def shop(tmp_path: Path) -> Collection:
    collection = Collection(tmp_path)
    write_folder(collection.source, {f"{number:03d}.jpg": jpeg(number) for number in range(30)})
    return collection


def counts(night: Night) -> tuple[int, int]:
    """How many images were embedded and how many reused."""
    return night.manifest.coverage.embedded, night.manifest.coverage.reused


def n_inferred(shop: Collection) -> int:
    """How many images went through the model in the newest run."""
    assert shop.run is not None
    assert ("infer" in shop.run.embed_seconds) == bool(shop.run.images_now.get("embedded"))
    return shop.run.images_now.get("embedded", 0)


def parts_by_key(shop: Collection) -> dict[str, str]:
    """Key and sha256 of every part that has a receipt."""
    found = {}
    for item in shop.store.list_objects(f"receipts/{STAGE}/"):
        receipt = read_receipt(shop.store, STAGE, item.key.rpartition("/")[2].removesuffix(".json"))
        if receipt is not None and PART in receipt.files:
            found[receipt.key] = receipt.files[PART].sha256
    return found


def made_anew(shop: Collection, night: Night) -> dict[str, str]:
    """The parts of a collection that sees tonight's source for the first time, cut in the same way."""
    other = Collection(shop.folder / "anew", settings={**shop.settings, "source": str(shop.source)})
    fresh = other.night()
    assert live(other, fresh) == live(shop, night)
    return parts_by_key(other)


def test_reuse_touched_folder_gives_the_very_parts_without_inference(shop: Collection) -> None:
    shop.night()
    for path in shop.source.iterdir():
        age(path)
    night = shop.night()  # all of them known images with another version: the limit lets them pass
    assert counts(night) == (0, 30)
    assert n_inferred(shop) == 0
    anew = made_anew(shop, night)
    assert len(anew) == 1
    assert anew.items() <= parts_by_key(shop).items()
    assert shop.night().published is False


def test_reuse_renamed_and_copied_images_are_not_embedded_new_ones_are(shop: Collection) -> None:
    shop.night()
    (shop.source / "003.jpg").rename(shop.source / "moved.jpg")
    write_folder(shop.source, {"new.jpg": jpeg(77), "005.jpg": jpeg(55)})
    age(shop.source / "009.jpg")
    night = shop.night()
    assert counts(night) == (2, 29)
    assert n_inferred(shop) == 2
    opened = shop.open(night)
    vectors = dict(zip(opened.live["image_id"].to_pylist(), opened.vectors.tolist(), strict=True))
    anew = Collection(shop.folder / "anew", settings={"source": str(shop.source)})
    theirs = anew.open(anew.night())
    assert vectors == dict(zip(theirs.live["image_id"].to_pylist(), theirs.vectors.tolist(), strict=True))


def test_reuse_repacked_tars_with_other_ids_cost_reading_only(tmp_path: Path) -> None:
    shop = Collection(tmp_path, settings={"read": {"id_template": "{tar}/{name}"}})
    write_tar(shop.source / "a.tar", tar_of(*range(12)))
    write_tar(shop.source / "b.tar", tar_of(*range(12, 20)))
    shop.night()
    for path in list(shop.source.iterdir()):
        path.unlink()
    write_tar(shop.source / "one.tar", tar_of(*range(19, -1, -3)))
    write_tar(shop.source / "two.tar", tar_of(*(n for n in range(20) if n % 3 != 1)))
    night = shop.night(gates={"override": {"shrink": "repacked"}})
    assert counts(night) == (0, 20)
    assert n_inferred(shop) == 0
    assert made_anew(shop, night).items() <= parts_by_key(shop).items()


def test_reuse_catalog_that_moves_from_a_folder_to_parquet(shop: Collection, tmp_path: Path) -> None:
    shop.night()
    columns = {"id": list(range(30)), "image": [jpeg(number) for number in range(30)]}
    write_parquet(tmp_path / "table" / "a.parquet", columns, rows_per_group=7)
    night = shop.night(
        source=str(tmp_path / "table"), replace_source=True, read={"format": "parquet", "id_column": "id"}
    )
    assert counts(night) == (0, 30)
    assert n_inferred(shop) == 0


def test_reuse_other_decode_limits_embed_new_images_and_copy_nothing(shop: Collection) -> None:
    shop.night()
    for path in shop.source.iterdir():
        age(path)
    with pytest.raises(UsageError, match="30 of 30"):
        shop.night(decode={"max_pixels": 1000})
    assert counts(shop.night(decode={"max_pixels": 1000}, max_reembed=1)) == (30, 0)


def test_reuse_damaged_part_is_no_help_and_no_harm(shop: Collection) -> None:
    before = live(shop, shop.night())
    manifest = newest(shop.store, "main")
    assert manifest is not None
    file = manifest.content.parts[0].embeddings
    assert file is not None
    path = shop.store.local_path(file.key)
    assert path is not None
    whole = path.read_bytes()
    vectors = pq.ParquetFile(path).metadata.row_group(0).column(6)
    end = vectors.data_page_offset + vectors.total_compressed_size
    damaged = whole[: end - 9] + bytes([whole[end - 9] ^ 1]) + whole[end - 8 :]
    states = [damaged, whole]  # while the first of two images is embedded, and from then on
    shop.pool.before_task = lambda: path.write_bytes(states.pop(0))
    age(shop.source / "004.jpg")
    age(shop.source / "005.jpg")
    night = shop.night(embed={"shard_images": 1})
    assert states == []
    assert counts(night) == (1, 29)
    assert live(shop, night) == before


def test_reuse_images_asked_to_be_tried_again_use_no_earlier_vector(shop: Collection) -> None:
    shop.night()
    write_folder(shop.source, {"003.jpg": GARBAGE})
    stale = shop.night()
    assert stale.manifest.coverage.stale == 1
    write_request(shop.store, "main", 2, RejectReason.UNIDENTIFIED, "me")
    shop.night()
    assert [shard.hints for shard in shop.pool.tasks[0]] == [None]


def test_reuse_is_in_the_receipt_and_in_no_file(shop: Collection) -> None:
    shop.night()
    age(shop.source / "001.jpg")
    night = shop.night()
    part = night.manifest.content.parts[1]
    receipt = json.loads(shop.store.get(layout.receipt(STAGE, part.key)))
    assert receipt["counts"]["reused"] == receipt["counts"]["rows"] == 1
    assert part.embeddings is not None
    path = shop.store.local_path(part.embeddings.key)
    assert path is not None
    assert b"reused" not in path.read_bytes()
    assert pq.read_table(path)["image_id"].to_pylist() == ["001.jpg"]
