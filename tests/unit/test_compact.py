"""Compaction: when it is due, what it writes again, and that no answer differs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.reindex import Night
from pipeline.catalog.plan import plan_shards
from pipeline.embed.table import read_model_id
from pipeline.snapshot.compact import STAGE, Limits, plan_compaction
from pipeline.snapshot.explain import Fate, explain
from pipeline.snapshot.manifest import IndexShardRef, PartRef
from pipeline.storage.receipts import DataFile
from pipeline.storage.store import ObjectStat
from tests.support.crashes import Crash, before_writes, crash
from tests.support.nights import Collection, live
from tests.support.tiny_catalogs import GARBAGE, jpeg, listing, tar_of, write_folder, write_tar

LIMITS = Limits(max_dead_share=0.1, max_deltas=8, shard_rows=1000)
FILE = DataFile(key="k", sha256="0" * 64, size_bytes=1)


def part(key: str, rows: int, config: str = "c") -> PartRef:
    return PartRef(key=key, config=config, rows=rows, rejected={}, embeddings=FILE, rejects=None, since=1)


def shard(key: str, parts: Sequence[PartRef]) -> IndexShardRef:
    rows = sum(one.rows for one in parts)
    names = [one.key for one in parts]
    return IndexShardRef(key=key, parts=names, rows=rows, codes=FILE, vectors=FILE, row_ids=FILE)


def due(
    shards: Sequence[Sequence[int]], dead: dict[str, int] | None = None, limits: Limits = LIMITS
) -> tuple[list[str], list[list[str]]]:
    """Which index shards are built again and which parts packed together."""
    made = [
        [part(f"{number}.{place}", rows) for place, rows in enumerate(sizes)]
        for number, sizes in enumerate(shards)
    ]
    parts = [one for group in made for one in group]
    masks = {one.key: np.arange(one.rows) < (dead or {}).get(one.key, 0) for one in parts}
    refs = [shard(str(number), group) for number, group in enumerate(made)]
    found = plan_compaction(parts, masks, refs, limits)
    if found is None:
        return [], []
    assert {ref.key for ref in (*found.kept, *found.rewritten)} == {ref.key for ref in refs}
    return [ref.key for ref in found.rewritten], [[one.key for one in task.parts] for task in found.packs]


def test_plan_compaction_nothing_is_due_below_the_limits() -> None:
    assert due([[900], [90]], {"0.0": 90, "1.0": 9}) == ([], [])
    assert due([[400]]) == ([], [])


def test_plan_compaction_dead_rows_rewrite_their_shard_only() -> None:
    assert due([[900], [800, 100]], {"1.1": 91}) == (["1"], [["1.0", "1.1"]])
    assert due([[900], [9000, 900]], {"1.0": 991}) == (["1"], [["1.0", "1.1"]])


def test_plan_compaction_small_shards_are_put_together_when_many_or_large() -> None:
    assert due([[900], [400], *[[1]] * 9])[0] == [str(number) for number in range(1, 11)]
    assert due([[900], [400], *[[1]] * 8]) == ([], [])
    assert due([[900], [400], [91]]) == (["1", "2"], [["1.0", "2.0"]])
    assert due([[400], [41]]) == (["0", "1"], [["0.0", "1.0"]])


def test_plan_compaction_leaves_large_parts_with_few_dead_rows_alone() -> None:
    limits = Limits(max_dead_share=0.1, max_deltas=0, shard_rows=50_000)
    rewritten, packs = due([[9000, 9000], [3, 4]], {"0.0": 900, "0.1": 901}, limits)
    assert rewritten == ["0", "1"]
    assert packs == [["0.1", "1.0", "1.1"]]


def test_plan_compaction_packed_parts_have_a_bound() -> None:
    limits = Limits(max_dead_share=0.1, max_deltas=0, shard_rows=100_000)
    _, packs = due([[4000] * 5, [4]], None, limits)
    assert packs == [["0.0", "0.1"], ["0.2", "0.3"], ["0.4", "1.0"]]


@pytest.fixture
def shop(tmp_path: Path) -> Collection:
    collection = Collection(tmp_path, settings={"max_reembed": 1, "gates": {"max_rejected_share": 1}})
    write_folder(collection.source, {f"{number:03d}.jpg": jpeg(number) for number in range(40)})
    return collection


def answers(shop: Collection, night: Night) -> list[tuple[tuple[str, ...], tuple[float, ...]]]:
    """What searching for fixed vectors finds, in two stages."""
    queries_QD = np.random.default_rng(5).normal(size=(12, 3)).astype(np.float32)
    queries_QD /= np.linalg.norm(queries_QD, axis=1, keepdims=True)
    found = shop.open(night).searcher.search(queries_QD, 10)
    return [
        (tuple(ids), tuple(float(d) for d in distances))
        for ids, distances in zip(found.ids, found.distances, strict=True)
    ]


def test_compaction_drops_dead_rows_without_inference_and_changes_no_answer(shop: Collection) -> None:
    never = {"compact_share": 1.0, "compact_deltas": 99}
    shop.night(index=never)
    for number in range(12):
        write_folder(shop.source, {f"{number:03d}.jpg": jpeg(100 + number), "bad": GARBAGE + bytes([number])})
        (shop.source / f"{20 + number:03d}.jpg").unlink()
        night = shop.night(index=never)
    before = answers(shop, night)
    assert len(night.manifest.content.index_shards) == 13
    assert not shop.night().published  # nothing moved: it waits
    (shop.source / "011.jpg").unlink()  # the last of its part
    compacted = shop.night()
    run = shop.run
    assert run is not None
    assert run.compacted is not None
    assert (run.compacted.parts, run.compacted.index_shards, run.compacted.dropped_rows) == (13, 13, 25)
    assert "infer" not in run.embed_seconds
    content = compacted.manifest.content
    assert compacted.published
    assert [ref.rows for ref in content.index_shards] == [27]
    assert content.dead_rows == []
    assert [one.rows for one in content.parts if one.embeddings is not None] == [27]
    assert content.rejected == night.manifest.content.rejected
    expected = live(shop, night)
    del expected["011.jpg"]
    assert live(shop, compacted) == expected
    write_folder(shop.source, {"011.jpg": jpeg(111)})
    whole = shop.night(index=never)
    assert live(shop, whole) == live(shop, night)
    assert answers(shop, whole) == before
    file = next(one.embeddings for one in content.parts if one.embeddings is not None)
    path = shop.store.local_path(file.key)
    assert path is not None
    assert read_model_id(path) == content.model.id
    again = shop.night()
    assert not again.published
    assert shop.pool.n_tasks == []


def test_compaction_leaves_a_part_with_a_stale_row_alone(shop: Collection) -> None:
    shop.night()
    write_folder(shop.source, {f"{number:03d}.jpg": jpeg(100 + number) for number in range(9)})
    write_folder(shop.source, {"020.jpg": GARBAGE})
    stale = shop.night()
    assert stale.manifest.coverage.stale == 1
    assert [one.rows for one in stale.manifest.content.parts] == [40, 9]
    found = explain(shop.open(stale), "020.jpg")
    assert found.fate == Fate.STALE
    write_folder(shop.source, {"020.jpg": jpeg(200)})
    mended = shop.night()
    assert explain(shop.open(mended), "020.jpg").fate == Fate.LIVE
    assert mended.manifest.content.dead_rows == []


def test_compaction_killed_on_its_way_goes_on_and_ends_the_same(shop: Collection, tmp_path: Path) -> None:
    shop.night()
    write_folder(shop.source, {f"{number:03d}.jpg": jpeg(100 + number) for number in range(9)})

    def packed() -> list[ObjectStat]:
        return list(shop.store.list_objects(f"receipts/{STAGE}/"))

    with before_writes(lambda _: crash() if packed() else None), pytest.raises(Crash):
        shop.night()  # embedded, packed, and about to build the index shard
    assert len(packed()) == 1
    night = shop.night()
    assert night.published
    assert shop.pool.n_tasks == []
    assert [one.rows for one in night.manifest.content.parts] == [31, 9]
    assert [ref.rows for ref in night.manifest.content.index_shards] == [40]


def test_compaction_image_that_goes_back_to_packed_bytes_lives_again(tmp_path: Path) -> None:
    shop = Collection(tmp_path, settings={"gates": {"max_rejected_share": 1}})
    write_tar(shop.source / "a.tar", [*tar_of(*range(12)), ("bad.jpg", GARBAGE)])
    first = shop.night()
    write_tar(shop.source / "a.tar", [*tar_of(*range(9)), ("bad.jpg", GARBAGE), *tar_of(50)])
    second = shop.night()
    assert shop.run is not None
    assert shop.run.compacted is not None
    assert second.manifest.content.rejected == {"unidentified": 1}
    write_tar(shop.source / "a.tar", [*tar_of(*range(12)), ("bad.jpg", GARBAGE)])
    third = shop.night()
    assert live(shop, third) == live(shop, first)
    for path in shop.source.iterdir():
        path.unlink()
    write_tar(shop.source / "b.tar", tar_of(60))
    shop.night(gates={"max_rejected_share": 1, "override": {"shrink": "test"}})
    write_tar(shop.source / "b.tar", [*tar_of(*range(12)), ("bad.jpg", GARBAGE)])
    assert live(shop, shop.night()) == live(shop, first)


def test_changes_scattered_over_many_tars_are_few_parts() -> None:
    tables = [listing([(f"{number:05d}", "v")], container=f"{number:05d}.tar") for number in range(3000)]
    shards = plan_shards(pa.concat_tables(tables))
    assert sum(one.n_images for one in shards) == 3000
    assert len(shards) <= 64
