"""What ``bitsieve plan`` says, on a small catalog."""

from pathlib import Path

import pytest

from jobs.plan import plan
from jobs.reindex import reindex
from jobs.session import open_run
from pipeline.config import CatalogConfig
from tests.support.inline_pool import InlinePool
from tests.support.pictures import jpeg
from tests.support.tiny_catalogs import write_tar

N_IMAGES = 30


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "catalog"
    folder.mkdir()
    for number in range(N_IMAGES):
        (folder / f"image{number:02d}.jpg").write_bytes(jpeg(40, 30, seed=number))
    (folder / "broken.jpg").write_bytes(b"")
    return CatalogConfig(source=str(folder), store=str(tmp_path / "store"), model="builtin")


def planned(config, **options):
    asked = {"probe": 10, "workers": 2, "deadline_h": None, **options}
    with open_run(config, quiet=True) as run:
        return plan(run, **asked)


def test_plan_fresh_catalog_counts_work_and_requests(config):
    result = planned(config)
    assert result["images"]["listed"] == N_IMAGES + 1
    assert result["images"]["to_embed"] == N_IMAGES + 1
    assert result["image_shards"] == 1
    assert result["requests"] == {"list": 1, "get": N_IMAGES + 1, "put": 3}
    assert result["probe"]["images"] == 10
    assert result["probe"]["images_per_s_per_worker"] > 0
    assert result["cost"] is None
    assert result["deadline"] is None


def test_plan_of_a_tar_lists_one_object_however_many_images_it_has(tmp_path):
    members = [(f"{number:04d}.jpg", jpeg(8, 8, seed=number % 7)) for number in range(1001)]
    write_tar(tmp_path / "catalog" / "0.tar", members)
    result = planned(
        CatalogConfig(source=str(tmp_path / "catalog"), store=str(tmp_path / "store"), model="builtin")
    )
    assert result["images"]["listed"] == 1001
    assert (result["requests"]["list"], result["requests"]["get"]) == (1, result["image_shards"])


def test_plan_whole_catalog_as_probe_meets_the_broken_image(config):
    assert planned(config, probe=100)["probe"]["rejected"] == 1


def test_plan_embeds_nothing_for_the_run(config, tmp_path):
    planned(config)
    store = tmp_path / "store"
    assert not (store / "embeddings").exists()
    assert not (store / "collections").exists()


def test_plan_deadline_names_enough_workers(config):
    result = planned(config, deadline_h=1e-6)
    rate = result["probe"]["images_per_s_per_worker"]
    needed = result["deadline"]["images_per_s"]
    assert result["deadline"]["workers"] >= needed / (rate * 1.05)


def test_plan_with_prices_names_every_part_and_the_total(config):
    priced = CatalogConfig.model_validate(
        {**config.model_dump(exclude={"prices"}), "prices": {"worker_hour": 3600.0, "get_1000": 1000.0}}
    )
    result = planned(priced)
    cost = result["cost"]
    assert cost["requests"] == N_IMAGES + 1
    assert cost["workers"] > 0
    assert cost["total"] == pytest.approx(sum(value for name, value in cost.items() if name != "total"))


def test_plan_is_compared_with_the_run_that_does_exactly_that_work(config):
    predicted = planned(config)["probe"]["images_per_s_per_worker"]
    with open_run(config, quiet=True) as run:
        run.pool = InlinePool()
        reindex(run)
    assert run.compared is not None
    assert run.compared.images == N_IMAGES + 1
    assert run.compared.predicted_s == pytest.approx((N_IMAGES + 1) / predicted, rel=0.05)
    assert run.compared.actual_s == pytest.approx(run.embed_seconds["wall"])
    assert "times the prediction" in run.compared.in_words()
    n_bytes = sum(path.stat().st_size for path in Path(config.source).iterdir())
    assert run.compared.predicted == {"list": 1, "get": N_IMAGES + 1, "put": 3, "bytes": n_bytes}
    assert run.compared.actual == {"get": N_IMAGES + 1, "put": 3, "bytes": n_bytes}
    (Path(config.source) / "another.jpg").write_bytes(jpeg(40, 30, seed=99))
    with open_run(config, quiet=True) as run:
        run.pool = InlinePool()
        reindex(run)
    assert sum(run.images_now.values()) == 1
    assert run.compared is None
