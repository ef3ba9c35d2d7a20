"""Backfills in sittings: what each does, what it leaves, and the candidate at the end."""

import time
from pathlib import Path

import pytest

from jobs.sitting import Sitting, SittingOver
from pipeline.snapshot.candidates import promote
from pipeline.snapshot.publish import newest_sequence
from tests.support import models
from tests.support.nights import Collection, live
from tests.support.tiny_catalogs import GARBAGE, jpeg, write_folder

SMALL = {"embed": {"shard_images": 10}}


@pytest.fixture
def shop(tmp_path: Path) -> Collection:
    """A folder of 80 photos, which makes a good ten image shards."""
    collection = Collection(tmp_path / "shop", settings=SMALL)
    write_folder(collection.source, {f"{number:03d}.jpg": jpeg(number) for number in range(80)})
    return collection


def embedded(shop: Collection) -> list[str]:
    """Ids of the images that the last sitting embedded."""
    return [name for shard in shop.pool.tasks[0] for name in shard.table["image_id"].to_pylist()]


def test_sittings_embed_every_image_once_and_end_as_what_one_night_makes(
    shop: Collection, tmp_path: Path
) -> None:
    done: list[str] = []
    said, wanted = [], []
    night = None
    for _ in range(9):
        try:
            night = shop.backfill(Sitting(max_images=25))
        except SittingOver as over:
            assert 0 < len(embedded(shop)) <= 25
            done += embedded(shop)
            said.append((over.done, over.left))
            wanted.append((len(done), 80 - len(done)))
            assert newest_sequence(shop.store, "main") == 0
        else:
            break
    assert night is not None
    assert said == wanted
    assert sorted([*done, *embedded(shop)]) == [f"{number:03d}.jpg" for number in range(80)]
    assert (night.published, night.refused, night.manifest.sequence) == (False, False, 0)
    assert newest_sequence(shop.store, "main") == 0
    other = Collection(tmp_path / "other", settings={**SMALL, "source": str(shop.source)})
    assert night.manifest.digest == other.night().manifest.digest


def test_a_sitting_past_its_deadline_still_gets_on(shop: Collection) -> None:
    lefts = []
    for _ in range(3):
        with pytest.raises(SittingOver) as caught:
            shop.backfill(Sitting(deadline_s=time.monotonic()))
        lefts.append(caught.value.left)
    assert 80 > lefts[0] > lefts[1] > lefts[2] > 0


def test_a_sitting_takes_one_shard_at_least(shop: Collection) -> None:
    with pytest.raises(SittingOver):
        shop.backfill(Sitting(max_images=1))
    assert len(shop.pool.tasks[0]) == 1


def test_backfill_that_a_gate_refuses_is_a_candidate_with_its_gates(shop: Collection) -> None:
    write_folder(shop.source, {f"bad {number}.jpg": GARBAGE for number in range(20)})
    night = shop.backfill(Sitting())
    assert night.refused
    assert [gate.name for gate in night.manifest.gates if not gate.passed] == ["rejected_share"]


def test_backfill_of_another_model_needs_no_leave_to_embed_everything_and_is_published_in_its_place(
    shop: Collection,
) -> None:
    first = shop.night()
    shop.use(models.projection_model("Gemm", side=4, dim=8))
    night = shop.backfill(Sitting())
    assert newest_sequence(shop.store, "main") == 1
    done = promote(
        shop.store, "main", night.manifest.run_id, overrides={}, commit_id="c", created="2026-01-01T00:00:00"
    )
    assert (done.published, done.manifest.sequence, done.manifest.parent) == (True, 2, 1)
    assert live(shop, night) == live(shop, first)
    assert not shop.night().published  # it is what a night would have made


def test_backfill_with_nothing_to_do_leaves_no_candidate(shop: Collection) -> None:
    shop.night()
    night = shop.backfill(Sitting(max_images=10))
    assert (night.candidate_key, night.manifest.sequence) == (None, 1)
