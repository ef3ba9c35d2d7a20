"""Nights of a collection without Ray: what is embedded, reused, kept and published."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from pipeline.snapshot.attributes import read_attributes
from pipeline.snapshot.publish import newest_sequence
from pipeline.storage.local import LocalStore
from tests.support.inline_pool import InlinePool
from tests.support.nights import Collection, live, photo_shop, photos, sha
from tests.support.tiny_catalogs import (
    jpeg,
    tar_of,
    write_folder,
    write_parquet,
    write_tar,
)


@pytest.fixture
def shop(tmp_path: Path) -> Collection:
    """A folder of 30 photos, not yet indexed."""
    return photo_shop(tmp_path)


def test_reindex_first_night_embeds_everything_and_publishes(shop: Collection) -> None:
    night = shop.night()
    assert night.published
    assert night.manifest.sequence == newest_sequence(shop.store, "main") == 1
    assert night.manifest.coverage.model_dump() == {
        "listed": 30, "embedded": 30, "reused": 0, "stale": 0, "rejected": 0, "set_aside": 0, "deleted": 0,
    }  # fmt: skip
    assert live(shop, night) == {name: sha(data) for name, data in photos(*range(30)).items()}
    assert shop.pool.n_tasks == [1]  # one image shard; the index shard is built here
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


class LetGo(InlinePool):
    """Notes which snapshot was the newest when it was released."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__()
        self.store = store
        self.newest: list[int] = []

    def release(self) -> None:
        self.newest.append(newest_sequence(self.store, "main"))


def test_reindex_lets_the_cluster_go_before_it_publishes(shop: Collection) -> None:
    """Ray may end a driver whose cluster has died: then nothing may have been published."""
    shop.cluster = pool = LetGo(shop.store)
    assert shop.night().published
    assert pool.newest == [0]


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
    assert shop.pool.n_tasks == [1]


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


def test_reindex_workers_are_announced_while_changed_tars_are_listed_and_only_then(tmp_path: Path) -> None:
    """All of them on a first night, one beside the driver on a later one."""
    shop = Collection(tmp_path)
    write_tar(shop.source / "a.tar", tar_of(*range(3)))
    write_tar(shop.source / "b.tar", tar_of(3, 4))
    announced = []
    for added in ([], [], [5]):
        if added:
            write_tar(shop.source / "b.tar", tar_of(3, 4, *added))
        shop.night()
        announced.append((shop.pool.n_prepared, shop.pool.n_prepared_few))
    assert announced == [(2, 0), (0, 0), (0, 1)]


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


def test_reindex_folder_is_a_label(tmp_path: Path) -> None:
    shop = Collection(tmp_path)
    write_folder(shop.source, {"shoes/a.jpg": jpeg(1), "hats/b.jpg": jpeg(2), "c.jpg": jpeg(3)})
    night = shop.night(label="@folder")
    assert night.manifest.source.label == "folder"
    again = shop.night()
    assert not again.published  # the label is the collection's by now
    assert again.manifest.source.label == "folder"


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
    assert shop.pool.n_tasks == []
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
