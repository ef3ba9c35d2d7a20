"""The training loop on made-up features: it learns, resumes as if it had not stopped, and ends."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.errors import ModelError, UsageError
from pipeline.evaluate import metrics
from pipeline.evaluate.ranking import LabelledVectors, query_set_ranks
from pipeline.storage.local import LocalStore
from pipeline.train.checkpoint import checkpoint_steps, load_weights, newest_checkpoint
from pipeline.train.examples import FeatureExamples
from pipeline.train.loop import Data, Training
from pipeline.train.networks import feature_network
from pipeline.train.results import training_document
from pipeline.train.validate import COLLAPSED_BELOW, validate

N_CLASSES, EACH, F = 12, 6, 10
KEY = "a" * 64
LABELS = np.repeat(np.arange(N_CLASSES), EACH)


def features(views: int = 2) -> NDArray[np.float32]:
    """Classes differ in two dimensions only; the other eight are loud noise."""
    rng = np.random.default_rng(0)
    centre_CF = np.zeros((N_CLASSES, F))
    angles = np.arange(N_CLASSES) * 2 * math.pi / N_CLASSES
    centre_CF[:, 0], centre_CF[:, 1] = np.cos(angles), np.sin(angles)
    noise_VNF = rng.normal(0, 1, (views, len(LABELS), F)) * ([0.05] * 2 + [1.0] * 8)
    return (centre_CF[LABELS][None] + noise_VNF).astype(np.float32)


def training(store: LocalStore, examples: Any = None, multi: bool = False, **settings: Any) -> Training:
    config = TrainConfig(
        **{
            "dim": 4,
            "classes": 4,
            "images": 3,
            "steps": 40,
            "validate_every": 10,
            "learning_rate": 0.03,
            "warmup_steps": 2,
            **settings,
        }
    )
    torch.manual_seed(config.seed)
    held = np.isin(LABELS, [1, 4, 7, 10])
    labels = np.eye(N_CLASSES, dtype=bool)[LABELS] if multi else LABELS
    data = Data(labels=labels, train=np.flatnonzero(~held), held=np.flatnonzero(held), n_classes=N_CLASSES)
    net = feature_network(F, config.dim)
    return Training(
        net, data, examples or FeatureExamples(features(), config.seed), config, store=store, key=KEY
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "triplet"},
        {"loss": "triplet", "miner": "batch-all", "memory": 24, "optimizer": "adagrad"},
        {"loss": "contrastive", "margin": 1.0},
        {"loss": "n-pair"},
        {"loss": "n-tuple", "optimizer": "sgd", "multi": True},
        {"loss": "arcface", "scale": 16.0},
        {"loss": "multi-similarity"},
        {"loss": "proxy-anchor", "learning_rate": 0.1},
        {"loss": "proxy-nca", "learning_rate": 0.1},
    ],
    ids=lambda settings: settings["loss"],
)
def test_every_loss_learns_what_tells_classes_apart(settings: dict[str, Any], tmp_path: Path) -> None:
    result = training(LocalStore(tmp_path), **settings).run()
    assert result["validation"]["map_at_r"] > result["untrained"]["map_at_r"] + 0.1
    assert result["stopped"] == "steps"
    curves = training_document(LocalStore(tmp_path), KEY, "curves")
    assert curves is not None
    assert [step for step, _ in curves["losses"]] == list(range(40))
    assert [found["step"] for found in curves["validations"]] == [0, 10, 20, 30, 40]


def test_a_killed_training_goes_on_with_the_losses_it_would_have_had(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"miner": "semi-hard-random", "memory": 24, "loss": "triplet"}
    whole = training(LocalStore(tmp_path / "whole"), **settings)
    whole.run()

    class Dying(FeatureExamples):
        def batch(self, places_B: NDArray[np.int64], step: int, offset: int) -> Tensor:
            if step == 27:
                raise KeyboardInterrupt
            return super().batch(places_B, step, offset)

    store = LocalStore(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        training(store, Dying(features(), 0), **settings).run()
    assert checkpoint_steps(store, KEY)[-1] == 20
    again = training(store, **settings)
    assert again.step == 20
    again.run()
    assert again.history.document() == whole.history.document()
    assert all(torch.equal(a, b) for a, b in zip(again.net.parameters(), whole.net.parameters(), strict=True))


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    training(store, steps=20).run()
    name = f"trainings/{KEY}/checkpoints/000000020.pt"
    store.put(name, store.get(name)[:-1] + b"x")
    state = newest_checkpoint(store, KEY)
    assert state is not None
    assert state["step"] == 10


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    training(LocalStore(tmp_path), steps=1).run()
    with pytest.raises(ModelError, match="another architecture"):
        training(LocalStore(tmp_path), steps=1, dim=5)
    net = feature_network(F, 3)
    with pytest.raises(ModelError, match="1 tensors are missing"):
        load_weights(net, {"head.project.weight": net.head.project.weight.detach()}, "a file")


def test_patience_ends_a_training_that_gets_no_better_and_the_best_step_is_kept(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    result = training(
        store, steps=200, validate_every=2, patience=3, learning_rate=1e-9, schedule="constant"
    ).run()
    assert result["stopped"] == "patience"
    assert result["steps"] == result["best_step"] + 6
    assert result["best_step"] in checkpoint_steps(store, KEY)
    assert len(checkpoint_steps(store, KEY)) <= 3


def test_a_loss_that_is_no_number_stops_and_leaves_its_batch(tmp_path: Path) -> None:
    class Poisoned(FeatureExamples):
        def batch(self, places_B: NDArray[np.int64], step: int, offset: int) -> Tensor:
            found = super().batch(places_B, step, offset)
            return found * math.nan if step == 3 else found

    store = LocalStore(tmp_path)
    stopped = training(store, Poisoned(features(), 0), loss="contrastive")
    with pytest.raises(UsageError, match="the loss of step 3 is nan"):
        stopped.run()
    left = training_document(store, KEY, "diverged")
    assert left is not None
    assert left["step"] == 3
    assert left["rows"] == stopped.data.train[stopped.plan.batch(3)].tolist()


def test_class_losses_refuse_images_with_several_labels(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="arcface needs one label for each image"):
        training(LocalStore(tmp_path), loss="arcface", multi=True)


def test_validation_agrees_with_the_evaluation_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.train.validate._BLOCK", 7)
    x_ND = torch.nn.functional.normalize(torch.from_numpy(features()[0]), dim=1)
    ids = [f"{number:03d}" for number in range(len(LABELS))]
    vectors = LabelledVectors(x_ND=x_ND.numpy(), ids=ids, labels=[str(label) for label in LABELS])
    ranked = query_set_ranks(vectors, vectors, depth=5).found
    found = validate(x_ND, torch.from_numpy(LABELS))
    assert found.success_at_1 == pytest.approx(metrics.success_at(ranked, 1).mean())
    assert found.map_at_r == pytest.approx(metrics.map_at_r(ranked).mean(), abs=1e-6)
    assert found.mean_distance == pytest.approx(float(torch.pdist(x_ND).mean()), abs=1e-5)
    assert found.mean_distance >= COLLAPSED_BELOW
    assert validate(torch.ones(4, 4) / 2, torch.tensor([0, 0, 1, 1])).mean_distance < COLLAPSED_BELOW
