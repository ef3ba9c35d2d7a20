"""Nights of a collection without Ray: what is embedded, reused, refused, kept and published."""

import hashlib
import json
import os
import random
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.errors import ModelError, SourceError, StoreMismatch, UsageError
from pipeline.model.card import to_metadata
from pipeline.model.graph import with_metadata
from pipeline.snapshot.attributes import read_attributes
from pipeline.snapshot.gates import refusing
from pipeline.snapshot.publish import newest_sequence, rollback
from pipeline.storage.local import LocalStore
from tests.support import models
from tests.support.nights import Collection, live
from tests.support.tiny_catalogs import (
    GARBAGE,
    black_jpeg,
    jpeg,
    list_of,
    tar_of,
    write_folder,
    write_parquet,
    write_tar,
)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def photos(*numbers: int) -> dict[str, bytes]:
    return {f"{number:03d}.jpg": jpeg(number) for number in numbers}


@pytest.fixture
def shop(tmp_path: Path) -> Collection:
    """A folder of 30 photos, not yet indexed."""
    collection = Collection(tmp_path)
    write_folder(collection.source, photos(*range(30)))
    return collection


def test_reindex_first_night_embeds_everything_and_publishes(shop: Collection) -> None:
    night = shop.night()
    assert night.published
    assert night.manifest.sequence == newest_sequence(shop.store, "main") == 1
    assert night.manifest.coverage.model_dump() == {
        "listed": 30, "embedded": 30, "reused": 0, "stale": 0, "rejected": 0, "set_aside": 0, "deleted": 0,
    }  # fmt: skip
    assert live(shop, night) == {name: sha(data) for name, data in photos(*range(30)).items()}
    assert shop.pool.n_tasks == [1, 1]  # one image shard, one index shard
    assert night.manifest.content.operating_point().method == "exact"


def test_reindex_nothing_changed_asks_no_worker_and_writes_nothing(shop: Collection) -> None:
    first = shop.night()
    before = shop.files()
    second = shop.night()
    assert not second.published
    assert (second.manifest.sequence, second.manifest.digest) == (1, first.manifest.digest)
    assert second.manifest.coverage.reused == 30
    assert shop.pool.n_tasks == []
    assert shop.files() == before


def test_reindex_one_added_changed_deleted_embeds_exactly_those(shop: Collection) -> None:
    shop.night()
    write_folder(shop.source, {"100.jpg": jpeg(100), "003.jpg": jpeg(103)})
    (shop.source / "007.jpg").unlink()
    night = shop.night()
    assert night.published
    coverage = night.manifest.coverage
    assert (coverage.listed, coverage.embedded, coverage.reused, coverage.deleted) == (30, 2, 28, 1)
    expected = {name: sha(data) for name, data in photos(*range(30), 100).items() if name != "007.jpg"}
    assert live(shop, night) == {**expected, "003.jpg": sha(jpeg(103))}
    content = night.manifest.content
    assert [part.rows for part in content.parts] == [30, 2]
    assert [(dead.part, dead.dead) for dead in content.dead_rows] == [(content.parts[0].key, 2)]
    assert [shard.rows for shard in content.index_shards] == [30, 2]
    assert shop.pool.n_tasks == [1, 1]


def test_reindex_search_after_nights_equals_a_fresh_build(shop: Collection, tmp_path: Path) -> None:
    rng = random.Random(4)
    for night_number in range(4):
        shop.night()
        for _ in range(3):
            write_folder(shop.source, photos(rng.randrange(60)))
            write_folder(shop.source, {f"{rng.randrange(30):03d}.jpg": jpeg(rng.randrange(200, 300))})
            (shop.source / f"{rng.randrange(30):03d}.jpg").unlink(missing_ok=True)
        write_folder(shop.source, {f"new {night_number}": jpeg(400 + night_number)})
    grown = shop.night(max_reembed=1)
    other = Collection(tmp_path / "fresh", settings={"source": str(shop.source)})
    fresh = other.night()
    assert len(grown.manifest.content.parts) > 1
    assert live(shop, grown) == live(other, fresh)
    queries_QD = other.open(fresh).vectors[:20]
    found, expected = (
        one.open(night).searcher.search(queries_QD, 10, exact=True)
        for one, night in ((shop, grown), (other, fresh))
    )
    assert found.ids == expected.ids
    assert found.distances == expected.distances


def test_reindex_repacked_tars_embed_nothing(tmp_path: Path) -> None:
    shop = Collection(tmp_path)
    write_tar(shop.source / "a.tar", tar_of(*range(10)))
    write_tar(shop.source / "b.tar", tar_of(*range(10, 20)))
    first = shop.night()
    for path in list(shop.source.iterdir()):
        path.unlink()
    numbers = list(range(20))
    random.Random(1).shuffle(numbers)
    for part in range(4):
        write_tar(shop.source / f"new-{part}.tar", tar_of(*numbers[part::4]))
    second = shop.night()
    assert shop.pool.n_tasks == []
    assert second.manifest.coverage.reused == 20
    assert live(shop, second) == live(shop, first)
    table = read_attributes(shop.store, second.manifest.content.attributes, tmp_path)
    assert all(locator.startswith("new-") for locator in table["locator"].to_pylist())


def test_reindex_attributes_alone_publish_without_embedding(tmp_path: Path) -> None:
    shop = Collection(tmp_path, settings={"label": "product"})
    labels = {number: f"shoe {number}" for number in range(8)}

    def write() -> None:
        members = tar_of(*labels)
        members += [(f"{n:04d}.json", json.dumps({"product": text}).encode()) for n, text in labels.items()]
        write_tar(shop.source / "a.tar", members)

    write()
    first = shop.night()
    labels[3] = "boot 3"
    write()
    second = shop.night()
    assert second.published
    assert shop.pool.n_tasks == []
    assert second.manifest.content.parts == first.manifest.content.parts
    assert second.manifest.content.index_shards == first.manifest.content.index_shards
    assert [layer.rows for layer in second.manifest.content.attributes] == [8, 1]
    table = shop.open(second).attributes
    assert dict(zip(table["image_id"].to_pylist(), table["product"].to_pylist(), strict=True)) == {
        f"{number:04d}": text for number, text in labels.items()
    }


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


def test_reindex_image_that_goes_back_to_earlier_bytes_lives_again(tmp_path: Path) -> None:
    shop = Collection(tmp_path, settings={"index": {"compact_share": 1.0}})
    write_tar(shop.source / "a.tar", tar_of(1, 2, 3))
    first = shop.night()
    write_tar(shop.source / "a.tar", [*tar_of(1, 2), ("0003.jpg", jpeg(33))])
    shop.night()
    write_tar(shop.source / "a.tar", tar_of(1, 2, 3))
    third = shop.night()
    assert live(shop, third) == live(shop, first)
    write_tar(shop.source / "a.tar", [*tar_of(1, 2), ("0003.jpg", jpeg(33))])
    fourth = shop.night()
    assert shop.pool.n_tasks == []  # both parts are known by now
    assert live(shop, fourth)["0003"] == sha(jpeg(33))


def test_reindex_same_bytes_under_two_ids_are_two_rows(tmp_path: Path) -> None:
    shop = Collection(tmp_path)
    write_folder(shop.source, {"a.jpg": jpeg(1), "b.jpg": jpeg(1), "c.jpg": jpeg(2)})
    night = shop.night()
    assert live(shop, night) == {"a.jpg": sha(jpeg(1)), "b.jpg": sha(jpeg(1)), "c.jpg": sha(jpeg(2))}
    vectors_ND = shop.open(night).vectors
    assert (vectors_ND[0] == vectors_ND[1]).all()


def test_reindex_source_that_fails_to_be_the_one_is_refused_unless_replaced(
    shop: Collection, tmp_path: Path
) -> None:
    first = shop.night()
    write_folder(tmp_path / "other", photos(*range(29), 60))
    with pytest.raises(StoreMismatch, match="made from") as caught:
        shop.night(source=str(tmp_path / "other"))
    assert "--replace-source" in caught.value.fix
    assert newest_sequence(shop.store, "main") == 1
    moved = shop.night(source=str(tmp_path / "other"), replace_source=True, max_reembed=1)
    assert moved.manifest.source.uri == str(tmp_path / "other")
    assert set(live(shop, moved)) == {*live(shop, first), "060.jpg"} - {"029.jpg"}


def test_reindex_other_model_is_refused_by_max_reembed(shop: Collection) -> None:
    first = shop.night()
    shop.use(models.projection_model("Gemm", side=4, dim=8))
    with pytest.raises(UsageError, match="30 of 30 known images again") as caught:
        shop.night()
    assert "--max-reembed" in caught.value.fix
    assert shop.pool.n_tasks == []
    night = shop.night(max_reembed=1)
    assert night.manifest.content.model.dim == 8
    assert night.manifest.coverage.embedded == 30
    assert live(shop, night) == live(shop, first)
    assert shop.open(night).vectors.shape == (30, 8)


def test_reindex_many_changed_images_are_refused_by_max_reembed(shop: Collection) -> None:
    shop.night()
    write_folder(shop.source, {f"{number:03d}.jpg": jpeg(100 + number) for number in range(30)})
    with pytest.raises(UsageError, match="30 of 30 known images again: their versions in the catalog"):
        shop.night()
    assert shop.night(max_reembed=1).manifest.coverage.embedded == 30


def test_reindex_empty_catalog_is_a_source_error(shop: Collection) -> None:
    shop.night()
    for path in shop.source.iterdir():
        path.unlink()
    with pytest.raises(SourceError, match="lists no images"):
        shop.night()
    assert newest_sequence(shop.store, "main") == 1


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


def test_reindex_shrunk_catalog_is_refused_until_overridden_with_a_reason(shop: Collection) -> None:
    shop.night()
    for number in range(10):
        (shop.source / f"{number:03d}.jpg").unlink()
    refused = shop.night()
    assert [gate.name for gate in refusing(list(refused.manifest.gates))] == ["shrink"]
    assert newest_sequence(shop.store, "main") == 1
    night = shop.night(gates={"override": {"shrink": "season ended"}})
    assert night.published
    assert [gate.override for gate in night.manifest.gates if gate.name == "shrink"] == ["season ended"]
    assert night.manifest.coverage.deleted == 10


def test_reindex_unknown_override_is_refused_before_any_work(shop: Collection) -> None:
    with pytest.raises(UsageError, match="'shrnk'"):
        shop.night(gates={"override": {"shrnk": "typo"}})
    assert shop.pool.n_tasks == []


def test_reindex_label_that_no_image_has_is_refused_before_any_work(shop: Collection) -> None:
    with pytest.raises(UsageError, match="'product'") as caught:
        shop.night(label="product")
    assert "none" in caught.value.fix
    assert shop.pool.n_tasks == []


def test_reindex_folder_is_a_label(tmp_path: Path) -> None:
    shop = Collection(tmp_path)
    write_folder(shop.source, {"shoes/a.jpg": jpeg(1), "hats/b.jpg": jpeg(2), "c.jpg": jpeg(3)})
    night = shop.night(label="@folder")
    assert night.manifest.source.label == "folder"
    again = shop.night()
    assert not again.published  # the label is the collection's by now
    assert again.manifest.source.label == "folder"


def test_reindex_model_whose_card_lies_about_its_dimension_is_refused(shop: Collection) -> None:
    honest = onnx.load_from_string(models.pool_model())
    honest.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "D"
    shop.use(with_metadata(honest, to_metadata(models.card(dim=5), models.PLAIN)))
    with pytest.raises(ModelError, match="5"):
        shop.night()
    assert newest_sequence(shop.store, "main") == 0


def test_reindex_without_model_uses_the_collections(shop: Collection) -> None:
    with pytest.raises(UsageError, match="no model yet"):
        shop.night(model=None)
    shop.night()
    write_folder(shop.source, photos(70))
    night = shop.night(model=None)
    assert night.published
    assert night.manifest.coverage.embedded == 1


def test_reindex_store_of_a_stranger_is_refused_and_left_alone(tmp_path: Path) -> None:
    shop = Collection(tmp_path)
    write_folder(shop.source, photos(1))
    write_folder(tmp_path / "strange", {"format.json": b'{"name": "my app"}', "data.txt": b"x"})
    with pytest.raises(StoreMismatch, match="bitsieve store"):
        shop.night(store=str(tmp_path / "strange"))
    assert sorted(path.name for path in (tmp_path / "strange").iterdir()) == ["data.txt", "format.json"]


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


def test_reindex_rolled_back_content_is_refused_until_it_differs(shop: Collection) -> None:
    shop.night()
    write_folder(shop.source, photos(90))
    second = shop.night()
    rollback(shop.store, "main", 1, reason="bad", run_id="back", created="2026-01-01T00:00:00+00:00")
    refused = shop.night()
    assert refused.refused
    assert [gate.name for gate in refusing(list(refused.manifest.gates))] == ["not_rolled_back"]
    assert refused.manifest.digest == second.manifest.digest
    write_folder(shop.source, photos(91))
    third = shop.night()
    assert third.published
    assert third.manifest.sequence == 4
    assert second.manifest.digest in third.manifest.refused_digests


def test_reindex_refused_candidate_published_next_night_embeds_nothing_twice(shop: Collection) -> None:
    write_folder(shop.source, {f"bad {n}": GARBAGE + bytes([n]) for n in range(10)})
    refused = shop.night()
    assert refused.refused
    night = shop.night(gates={"override": {"rejected_share": "known"}})
    assert night.published
    assert shop.pool.n_tasks == []
    assert night.manifest.digest == refused.manifest.digest


@pytest.mark.parametrize("shard_images", [1, 3, 7, 1000])
def test_reindex_vectors_do_not_depend_on_shard_or_batch_size(shard_images: int, shop: Collection) -> None:
    embed = {
        "shard_images": shard_images,
        "batch_size": shard_images % 5 + 1,
        "threads": 1 + shard_images % 2,
    }
    night = shop.night(embed=embed)
    opened = shop.open(night)
    order = np.argsort(opened.live["image_id"].to_pylist())
    fresh = Collection(shop.folder / "one", settings={"source": str(shop.source)})
    other = fresh.open(fresh.night())
    assert (opened.vectors[order] == other.vectors[np.argsort(other.live["image_id"].to_pylist())]).all()


def test_reindex_parquet_source_adds_and_changes_rows(tmp_path: Path) -> None:
    shop = Collection(tmp_path, settings={"label": "price"})
    columns = {"id": [1, 2, 3], "image": [jpeg(1), jpeg(2), jpeg(3)], "price": [1.0, 2.0, 3.0]}
    write_parquet(shop.source / "a.parquet", columns, rows_per_group=2)
    assert shop.night().manifest.coverage.embedded == 3
    columns = {"id": [2, 4, 3], "image": [jpeg(2), jpeg(4), jpeg(33)], "price": [2.0, 4.0, 3.0]}
    write_parquet(shop.source / "a.parquet", columns, rows_per_group=2)
    night = shop.night()
    assert live(shop, night) == {"2": sha(jpeg(2)), "3": sha(jpeg(33)), "4": sha(jpeg(4))}
    assert (night.manifest.coverage.embedded, night.manifest.coverage.reused) == (2, 1)


def test_reindex_other_index_settings_build_a_new_index_without_embedding(shop: Collection) -> None:
    first = shop.night()
    second = shop.night(index={"bits": 64, "vector_dtype": "float16"})
    assert second.published
    assert shop.pool.n_tasks == [1]  # only the index shard
    assert second.manifest.coverage.reused == 30
    assert second.manifest.content.encoder.bits == 64
    assert second.manifest.content.parts == first.manifest.content.parts
    assert second.manifest.content.index_shards != first.manifest.content.index_shards


def test_reindex_lists_with_int8_are_kept_and_grow_by_a_delta(shop: Collection) -> None:
    """The catalog is too small to need them, but form, files and encoder are those that were asked for."""
    asked = {
        "form": "lists",
        "lists": 4,
        "vector_dtype": "int8",
        "thresholds": "median",
        "memory_budget": 1_000,
    }
    first = shop.night(index=asked)
    (shard,) = first.manifest.content.index_shards
    assert {*shard.extra} == {"offsets", "order", "int8", "scales"}
    write_folder(shop.source, photos(30, 31))
    second = shop.night()  # not told again
    before, after = first.manifest.content, second.manifest.content
    assert after.encoder == before.encoder
    assert after.index_shards[0] == shard
    assert [{*ref.extra} for ref in after.index_shards] == [{*shard.extra}] * 2
    found = shop.open(second).searcher.search(shop.open(second).vectors, 1)
    assert [ids[0] for ids in found.ids] == shop.open(second).live["image_id"].to_pylist()
    flat = shop.night(index={**asked, "form": "flat"})
    assert [{*ref.extra} for ref in flat.manifest.content.index_shards] == [{"int8", "scales"}]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"recall_at": 100, "max_candidates": 50}, "50 candidates"),
        ({"recipe": "sign"}, "3 dimensions"),
        ({"recipe": "itq", "bits": 64}, "at most one bit per dimension"),
        ({"bits": 512, "memory_budget": 63}, "63 bytes a vector, less than the 64 of a code"),
        ({"vector_dtype": "int8", "memory_budget": 7}, "less than the 1 of a code and 7 of an int8 vector"),
    ],
)
def test_reindex_impossible_index_settings_are_refused_before_any_work(
    index: dict[str, object], message: str, shop: Collection
) -> None:
    with pytest.raises(UsageError, match=message):
        shop.night(index=index)
    assert shop.pool.n_tasks == []


def test_reindex_two_runs_at_once_lose_nothing(shop: Collection) -> None:
    """The second run publishes while the first one embeds: the first plans again on top of it."""
    shop.night()
    write_folder(shop.source, photos(40))
    rival = Collection(shop.folder)

    class Slow(type(shop.pool)):  # type: ignore[misc]
        def run(self, make_worker, tasks, *, deadline_s=None):  # type: ignore[no-untyped-def]
            if not rival.n_runs:
                rival.n_runs = 100
                rival.night(label="@folder", gates={"override": {}})
            yield from super().run(make_worker, tasks, deadline_s=deadline_s)

    shop.pool = Slow()
    night = shop.night()
    assert night.manifest.sequence in (2, 3)
    assert "040.jpg" in live(shop, night)


def test_reindex_run_leaves_its_plan_and_events(shop: Collection) -> None:
    shop.night()
    plan = json.loads(shop.store.get("runs/run-001/plan.json"))
    assert plan["config"]["source"] == str(shop.source)
    lines = b"".join(
        shop.store.get(i.key) for i in shop.store.list_objects("runs/run-001/events/")
    ).splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events[0] == "run_started"
    assert {"counted", "judged", "published", "embed_planned"} <= set(events)


def test_reindex_names_that_are_not_utf8_are_embedded_and_found(tmp_path: Path) -> None:
    shop = Collection(tmp_path)
    write_folder(shop.source, {"caf\udce9.jpg": jpeg(1), "back\\slash.jpg": jpeg(2), "n\nl.jpg": jpeg(3)})
    night = shop.night()
    assert set(live(shop, night)) == {"caf\\xe9.jpg", "back\\\\slash.jpg", "n\nl.jpg"}
    assert not shop.night().published
    assert isinstance(shop.store, LocalStore)
