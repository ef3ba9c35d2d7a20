"""Trials of an experiment: who trains, who chooses, who judges; a trial that has ended is found again."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.catalog.source import SourceSpec
from pipeline.config import TrainConfig
from pipeline.errors import UsageError
from pipeline.images.products import product_jpeg
from pipeline.storage.local import LocalStore
from pipeline.train.job import TrainJob
from pipeline.train.labelled import labelled_images
from pipeline.train.results import training_document
from pipeline.train.trial import SharedImages, Trial, cost_of
from tests.support.tiny_catalogs import list_of, write_folder

N_PRODUCTS, VIEWS = 12, 4
SETTINGS: dict[str, Any] = {
    "size": (32, 32),
    "dim": 8,
    "steps": 3,
    "validate_every": 2,
    "classes": 3,
    "images": 2,
    "warmup_steps": 1,
    "cpus": 1,
}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    folder = tmp_path_factory.mktemp("trial")
    photos = {
        f"p{product:02d}/{view}.jpg": product_jpeg(product, view)
        for product in range(N_PRODUCTS)
        for view in range(VIEWS)
    }
    shop = write_folder(folder / "shop", photos)
    return TrainJob(
        settings=TrainConfig(**SETTINGS),
        images=labelled_images(list_of(shop, folder).images(), "@folder"),
        source=LocalStore(shop),
        spec=SourceSpec(uri=str(shop)),
        store=LocalStore(folder / "store"),
        folder=folder / "cache",
    )


@pytest.fixture(scope="module")
def shared(job: TrainJob) -> SharedImages:
    return SharedImages(job, lambda _what, _done, _total: None)


def with_settings(job: TrainJob, **settings: Any) -> TrainJob:
    return replace(job, settings=TrainConfig(**{**SETTINGS, **settings}))


def test_no_class_has_two_roles_and_all_seeds_judge_the_same_images(
    job: TrainJob, shared: SharedImages
) -> None:
    judged, trained = set(), set()
    for seed in range(3):
        roles = shared.roles(with_settings(job, seed=seed).settings, 1.0)
        parts = (roles.train, roles.validation, roles.judged)
        classes = [set(shared.images.labels[places].tolist()) for places in parts]
        assert sum(map(len, classes)) == len(set.union(*classes)) == N_PRODUCTS
        judged.add(tuple(roles.judged.tolist()))
        trained.add(tuple(roles.train.tolist()))
    assert len(judged) == 1
    assert len(trained) > 1
    ids, names = shared.judged()
    assert [image_id.split("/")[0] for image_id in ids] == names


def test_a_share_keeps_every_class_and_is_part_of_a_larger_share(job: TrainJob, shared: SharedImages) -> None:
    whole, half, least = (shared.roles(job.settings, share) for share in (1.0, 0.75, 0.01))
    assert set(least.train.tolist()) < set(half.train.tolist()) < set(whole.train.tolist())
    counts = np.unique(shared.images.labels[least.train], return_counts=True)[1]
    assert counts.tolist() == [2] * len(np.unique(shared.images.labels[whole.train]))
    assert least.validation.tolist() == whole.validation.tolist()


def test_a_trial_embeds_by_its_best_step_and_is_not_done_twice(job: TrainJob, shared: SharedImages) -> None:
    seen: list[int] = []
    trial = Trial(job=job, shared=shared)
    result = trial.run(seen.append)
    assert sorted(set(seen)) == [0, 1, 2]
    vectors_ND = trial.vectors()
    assert np.linalg.norm(vectors_ND, axis=1) == pytest.approx(1, abs=1e-5)
    assert len(vectors_ND) == len(shared.judged()[0])
    assert not np.allclose(vectors_ND, trial.untrained())
    again = Trial(job=job, shared=shared)
    assert again.run(lambda _step: pytest.fail("trained again")) == result
    assert np.array_equal(again.vectors(), vectors_ND)
    curves = training_document(job.store, trial.key, "curves")
    assert curves is not None
    assert [step for step, _ in curves["losses"]] == [0, 1, 2]


def test_everything_that_makes_a_trial_is_in_its_key(job: TrainJob, shared: SharedImages) -> None:
    trials = [
        Trial(job=job, shared=shared),
        Trial(job=job, shared=shared, share=0.5),
        Trial(job=with_settings(job, seed=1), shared=shared),
        Trial(job=with_settings(job, loss="arcface"), shared=shared),
    ]
    assert len({trial.key for trial in trials} | {job.key()}) == 5


def test_images_with_several_labels_are_refused(job: TrainJob) -> None:
    several = replace(job.images, labels=np.eye(len(job.images.names), dtype=bool)[job.images.labels])
    with pytest.raises(UsageError, match="one label for each image"):
        SharedImages(replace(job, images=several), lambda _what, _done, _total: None)


def test_a_thin_network_costs_little(job: TrainJob) -> None:
    parameters, mult_adds = cost_of(with_settings(job, network="nn4:0.25", size=(38, 38)).settings)
    assert parameters is not None
    assert mult_adds is not None
    assert 100_000 < parameters < 1_000_000
    assert 1e6 < mult_adds < 10e6


@pytest.mark.parametrize("network", ["hf:facebook/dinov2-small", "timm:resnet18", "onnx:trunk.onnx"])
def test_networks_of_others_are_not_built_for_their_cost(job: TrainJob, network: str) -> None:
    assert cost_of(with_settings(job, network=network).settings) == (None, None)
