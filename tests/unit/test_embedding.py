"""The embed stage of a run: what it counts, in which order it hands out work, which stage limits it."""

import re
from pathlib import Path

import pytest

from jobs.limits import limit_in_words, limited_by, shares
from jobs.reindex_command import in_words
from pipeline.cluster.metrics import BYTES, IMAGES, IMAGES_LEFT, LIMITING, METRICS, STAGE_SECONDS, TASKS
from tests.support.nights import Collection
from tests.support.pictures import jpeg
from tests.support.tiny_catalogs import write_folder

N_IMAGES = 9


@pytest.fixture
def shop(tmp_path: Path) -> Collection:
    """Nine photos, the first two far larger than the others, and something that is no image."""
    shop = Collection(tmp_path, settings={"embed": {"shard_images": 2}})
    sizes = [400, 400, *[16] * (N_IMAGES - 2)]
    write_folder(shop.source, {f"{i}.jpg": jpeg(sizes[i], sizes[i], seed=i) for i in range(N_IMAGES)})
    write_folder(shop.source, {"broken.jpg": b"no image at all"})
    return shop


def test_embedding_every_image_byte_and_second_is_measured_once(shop: Collection) -> None:
    coverage = shop.night().manifest.coverage
    measured, run = shop.pool.measured, shop.run
    assert run is not None
    images = {key[1]: count for key, count in measured.items() if key[0] == IMAGES.name}
    assert images == run.images_now == {"embedded": N_IMAGES, "unidentified": 1}
    assert (coverage.embedded, coverage.rejected) == (N_IMAGES, 1)
    source_bytes = sum(file.stat().st_size for file in shop.source.rglob("*.jpg"))
    assert measured[BYTES.name, "read"] == source_bytes
    assert measured[BYTES.name, "written"] == run.bytes_written
    assert measured[TASKS.name, "embed", "succeeded"] == shop.pool.n_tasks[0]
    assert measured[IMAGES_LEFT.name,] == 0
    spent = {key[1]: value for key, value in measured.items() if key[0] == STAGE_SECONDS.name}
    assert spent == pytest.approx(run.embed_seconds)
    assert {"wall", "decode", "infer", "write"} <= set(spent)
    limits = {key[1]: value for key, value in measured.items() if key[0] == LIMITING.name}
    assert sum(limits.values()) == 1
    assert limits[max(limits, key=lambda stage: spent[stage])] == 1
    assert {key[0] for key in measured} <= {metric.name for metric in METRICS}


def test_night_says_what_a_worker_may_hold_and_in_the_end_what_limited_them(
    shop: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    night = shop.night(embed={"memory_budget": 96 << 20})
    assert shop.run is not None
    assert "embed: each worker may hold 96 MiB beside its model" in capsys.readouterr().err
    (said,) = [line for line in in_words(shop.run, night).splitlines() if line.startswith("embedded ")]
    stages = "|".join(["waiting for the source", *shop.run.embed_seconds])
    limit = rf"limited by ({stages}): \d\.\d of 1 workers \((({stages}) \d+ %(, )?)+ of their time\)"
    assert re.fullmatch(rf"embedded \d+ images/s, {limit}", said)
    shop.night(embed={"memory_budget": 96 << 20})
    assert capsys.readouterr().err == ""  # every shard has its receipt


def test_embedding_images_of_a_shard_set_aside_are_measured_as_such(shop: Collection) -> None:
    shop.pool.deadly = frozenset({0})
    set_aside = shop.night().manifest.coverage.set_aside
    assert set_aside > 0
    assert shop.pool.measured[IMAGES.name, "set_aside"] == set_aside
    assert shop.pool.measured[TASKS.name, "embed", "set_aside"] == 1


def test_embedding_hands_out_the_largest_shards_first(shop: Collection) -> None:
    shop.night()
    sizes = [sum(shard.table["size_bytes"].to_pylist()) for shard in shop.pool.tasks[0]]
    assert len(sizes) > 2
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_limits_name_the_stage_that_took_most_of_the_workers_time() -> None:
    seconds = {"wall": 20.0, "fetch_wait": 12.0, "decode": 5.0, "infer": 3.0}
    assert list(shares(seconds).items()) == [("fetch_wait", 0.6), ("decode", 0.25), ("infer", 0.15)]
    assert limited_by(seconds) == "limited by waiting for the source"
    assert limit_in_words(seconds, 2).startswith("limited by waiting for the source: 1.2 of 2 workers (")
    assert shares({}) == {}
    assert limited_by({}) == limit_in_words({}, 2) == ""
