"""Training beside an older model: its losses, the classes that judge, and what comes of it."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipeline.config import TrainConfig
from pipeline.errors import UsageError
from pipeline.model.card import SetApart
from pipeline.storage.local import LocalStore
from pipeline.train.compatible import Influence, harmonic_loss
from pipeline.train.examples import FeatureExamples
from pipeline.train.labelled import LabelledImages, split_by_identity
from pipeline.train.loop import Data, Training
from pipeline.train.losses import ArcFace
from pipeline.train.mining import Miner
from pipeline.train.networks import feature_network
from pipeline.train.stored import OlderModel, StoredVectors, joined, set_apart

N_CLASSES, EACH, F, SIGNAL, D = 120, 8, 16, 6, 8
NAMES = tuple(f"p{number:03d}" for number in range(N_CLASSES))
LABELS = np.repeat(np.arange(N_CLASSES), EACH)
OLD = OlderModel(model_id="0" * 64, name="old", collection="main", snapshot="1" * 64, label="product")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads only wait for each other where matrices are so small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images() -> LabelledImages:
    rows = pa.table({"image_id": [f"i{row:04d}" for row in range(len(LABELS))]})
    return LabelledImages(rows=rows, labels=LABELS, names=NAMES)


def features() -> NDArray[np.float32]:
    """Classes differ in some dimensions; the others are louder noise, other in each of three views."""
    rng = np.random.default_rng(0)
    centre_CF = np.zeros((N_CLASSES, F))
    centre_CF[:, :SIGNAL] = rng.standard_normal((N_CLASSES, SIGNAL))
    noise_VNF = rng.standard_normal((3, len(LABELS), F)) * ([0.4] * SIGNAL + [1.0] * (F - SIGNAL))
    return (centre_CF[LABELS] + noise_VNF).astype(np.float32)


def stored(x_ND: NDArray[np.float32], has_N: NDArray[np.bool_] | None = None) -> StoredVectors:
    has_N = np.ones(len(x_ND), dtype=bool) if has_N is None else has_N
    return StoredVectors(of=OLD, x_ND=x_ND, has_N=has_N)


def training(store: Path, older: StoredVectors | None = None, **settings: Any) -> Training:
    config = TrainConfig(
        **{
            "dim": D,
            "classes": 12,
            "images": 4,
            "steps": 100,
            "validate_every": 50,
            "learning_rate": 0.02,
            "warmup_steps": 5,
            "validation_share": 0.7,
            **settings,
        }
    )
    train, held = split_by_identity(images(), config.validation_share, 0)
    apart = None
    if older is not None:
        held, apart = set_apart(images(), held, older, 0)
    data = Data(labels=LABELS, train=train, held=held, n_classes=N_CLASSES, older=apart)
    torch.manual_seed(config.seed)
    net = feature_network(F, D)
    return Training(
        net, data, FeatureExamples(features(), config.seed), config, store=LocalStore(store), key="a" * 64
    )


@pytest.fixture(scope="module")
def old_vectors(tmp_path_factory: pytest.TempPathFactory) -> StoredVectors:
    """Of a first model that learned for a short while."""
    first = training(tmp_path_factory.mktemp("first"), steps=15, seed=1)
    first.run()
    first.net.eval()
    with torch.no_grad():
        e_ND = first.net(first.examples.plain(np.arange(len(LABELS))))
    return stored(e_ND.numpy())


def success(result: dict[str, Any], query: str, base: str) -> float:
    (row,) = [row for row in result["older"]["matrix"] if (row["query"], row["base"]) == (query, base)]
    return float(row["success_at_1"]["mean"])


@pytest.mark.parametrize("loss", ["harmonic", "influence"])
def test_new_model_trained_beside_an_older_one_searches_its_vectors(
    loss: str, old_vectors: StoredVectors, tmp_path: Path
) -> None:
    """Better than the older one itself, less a margin; one that was trained alone finds them by chance."""
    beside = training(tmp_path / "beside", old_vectors, seed=2, compatible_loss=loss).run()
    margin, chance = 0.02, (EACH - 1) / (beside["older"]["n_base"] - 1)
    assert beside["older"]["accepted"]
    assert success(beside, "new", "old") > success(beside, "old", "old") - margin
    assert success(beside, "new", "new") > success(beside, "old", "old")
    assert beside["validation"]["on_older"]["map_at_r"] > beside["untrained"]["on_older"]["map_at_r"] + 0.1
    alone = training(tmp_path / "alone", old_vectors, seed=2, steps=50, compatible_weight=1e-9).run()
    assert not alone["older"]["accepted"]
    assert success(alone, "new", "old") < 3 * chance
    assert success(alone, "new", "new") > success(beside, "old", "old")


def pooled(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_ND = functional.normalize(torch.randn(20, 4, generator=generator, dtype=torch.float64), dim=1)
    labels_B = torch.arange(12) % 3
    return x_ND[:12], x_ND[12:], labels_B, labels_B[:8]


def test_harmonic_loss_is_that_of_all_triplets_that_mix_old_and_new_vectors() -> None:
    e_BD, old_bD, labels_B, labels_b = pooled()
    pool, labels = torch.cat([e_BD, old_bD]), torch.cat([labels_B, labels_b]).tolist()
    losses = []
    for a, p, n in itertools.permutations(range(len(pool)), 3):
        if labels[a] == labels[p] != labels[n] and 0 < sum(place < 12 for place in (a, p, n)) < 3:
            d2_p, d2_n = (float((pool[a] - pool[other]).square().sum()) for other in (p, n))
            losses.append(max(0.0, d2_p - d2_n + 0.2))
    expected = sum(losses) / sum(loss > 0 for loss in losses)
    assert harmonic_loss(e_BD, old_bD, labels_B, labels_b, Miner.ALL).item() == pytest.approx(expected)


def test_new_vectors_learn_from_old_anchors_and_the_old_ones_stay_as_they_are() -> None:
    e_BD, old_bD, labels_B, labels_b = pooled()
    e_BD.requires_grad_()
    harmonic_loss(e_BD, old_bD, labels_B, labels_b, Miner.SEMI_HARD).backward()
    assert e_BD.grad is not None
    assert (e_BD.grad.abs().sum(dim=1) > 0).any()
    none = harmonic_loss(e_BD, old_bD[:0], labels_B, labels_b[:0], Miner.ALL)
    assert none.item() == 0  # triplets of new vectors alone belong to the main loss


def test_influence_is_arcface_on_the_means_of_the_older_classes() -> None:
    _, old_bD, _, labels_b = pooled()
    influence = Influence(old_bD, labels_b * 2, 6)  # classes 0, 2 and 4
    expected = ArcFace(4, 3).double()
    with torch.no_grad():
        expected.weight_CD.copy_(torch.stack([old_bD[labels_b == c].mean(dim=0) for c in range(3)]))
    e_BD = pooled(1)[0][:3]
    found = influence.double()(e_BD, torch.tensor([0, 4, 2]))
    assert found.item() == pytest.approx(expected(e_BD, torch.tensor([0, 2, 1])).item())
    assert influence(e_BD, torch.tensor([1, 3, 5])).item() == 0  # classes that the older model does not know
    assert not [one for one in influence.parameters() if one.requires_grad]


def test_influence_of_classes_that_nobody_trains_on_is_refused(tmp_path: Path) -> None:
    train, _ = split_by_identity(images(), 0.7, 0)
    has_N = np.ones(len(LABELS), dtype=bool)
    has_N[train] = False
    apart_alone = stored(np.ones((len(LABELS), D), dtype=np.float32), has_N)
    with pytest.raises(UsageError, match="none of the 288 images to train on has a vector"):
        training(tmp_path, apart_alone, compatible_loss="influence")


def test_stored_vectors_are_joined_by_id_and_the_others_counted() -> None:
    x_MD = np.eye(3, dtype=np.float32)
    found = joined(OLD, ["b", "x", "a"], ["a", "b", "c"], x_MD)
    assert found.has_N.tolist() == [True, False, True]
    np.testing.assert_array_equal(found.x_ND, [x_MD[1], np.zeros(3), x_MD[0]])
    assert found.take(np.array([2])).x_ND.tolist() == [x_MD[0].tolist()]
    with pytest.raises(UsageError, match="none of the 1 images to train on is in collection 'main'"):
        joined(OLD, ["x"], ["a"], x_MD)


def test_classes_that_judge_choose_nothing_and_are_known_by_their_draw() -> None:
    x_ND = functional.normalize(torch.ones(len(LABELS), D), dim=1).numpy()
    has_N = np.arange(len(LABELS)) % EACH != 0
    train, held = split_by_identity(images(), 0.7, 0)
    choose, older = set_apart(images(), held, stored(x_ND, has_N), 0)
    parts = [set(LABELS[places].tolist()) for places in (train, choose, older.judge)]
    assert [len(part) for part in parts] == [36, 42, 42]
    assert len(set.union(*parts)) == N_CLASSES
    assert has_N[choose].all()
    assert has_N[older.judge].all()
    apart = SetApart(label="product", seed=0, up_to=older.up_to)
    assert {number for number, name in enumerate(NAMES) if apart.has(name)} == parts[2]


def test_too_few_images_to_judge_by_and_several_labels_are_refused() -> None:
    x_ND = np.ones((len(LABELS), D), dtype=np.float32)
    _, held = split_by_identity(images(), 0.7, 0)
    few_N = np.isin(np.arange(len(LABELS)) % EACH, [0])
    with pytest.raises(UsageError, match="0 can choose the best step and 0 judge it"):
        set_apart(images(), held, stored(x_ND, few_N), 0)
    each = np.eye(N_CLASSES, dtype=bool)[LABELS]
    several = LabelledImages(rows=images().rows, labels=each, names=NAMES)
    with pytest.raises(UsageError, match="one label for each image"):
        set_apart(several, held, stored(x_ND), 0)


def test_a_killed_training_beside_an_older_model_comes_to_the_same_verdict(
    old_vectors: StoredVectors, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"steps": 20, "validate_every": 10}
    whole = training(tmp_path / "whole", old_vectors, **settings).run()

    class Dying(FeatureExamples):
        def batch(self, places_B: NDArray[np.int64], step: int, offset: int) -> torch.Tensor:
            if step == 17:
                raise KeyboardInterrupt
            return super().batch(places_B, step, offset)

    killed = training(tmp_path / "killed", old_vectors, **settings)
    killed.examples = Dying(features(), 0)
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    again = training(tmp_path / "killed", old_vectors, **settings)
    assert again.step == 10
    assert again.run() == whole
