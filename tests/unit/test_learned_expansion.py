"""The learned expansion: untrained it is alpha-weighted, trained it is better; other files are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.cli import run
from pipeline.errors import ModelError, UsageError
from pipeline.evaluate.exact_base import ExactBase
from pipeline.model.expansion import ExpansionCard, ExpansionSession
from pipeline.rerank.learned import LearnedExpansion
from pipeline.rerank.method import parse_reranker, spelled
from pipeline.train.expansion import (
    ExpansionNet,
    ExpansionSettings,
    TrainedExpansion,
    expansion_file,
    train_expansion,
)
from tests.support.index_shards import unit_rows
from tests.support.models import pool_model
from tests.support.nights import Collection
from tests.support.tiny_catalogs import jpeg, write_parquet

SMALL = ExpansionSettings(n=12, width=32, heads=4, layers=1, epochs=12, batch=32, learning_rate=3e-3)
CARD = ExpansionCard(
    model_id="m" * 64, dim=16, n=12, alpha=3, label="p", digest="", n_identities=1, n_queries=1, seed=0
)


@pytest.fixture(scope="module")
def base() -> tuple[ExactBase, np.ndarray]:
    """Identities of four images: of twelve neighbours at most three are right."""
    code_N = np.repeat(np.arange(80), 4)
    x_ND = unit_rows(80, 16, 1)[code_N] + 0.2 * np.random.default_rng(0).standard_normal((320, 16))
    x_ND = (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)
    return ExactBase(x_ND, [f"{row:03d}" for row in range(320)]), code_N


@pytest.fixture(scope="module")
def trained(base: tuple[ExactBase, np.ndarray]) -> TrainedExpansion:
    return train_expansion(*base, SMALL, lambda epoch, value: None)


@pytest.fixture(scope="module")
def exported(trained: TrainedExpansion) -> bytes:
    return expansion_file(trained.net, CARD)


def test_untrained_expansion_is_alpha_weighted(base: tuple[ExactBase, np.ndarray]) -> None:
    net = ExpansionNet(16, SMALL)

    def weigh(xq_QD: np.ndarray, x_QND: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(np.concatenate([xq_QD[:, None], x_QND], axis=1))).numpy()

    own_Q, alpha = np.arange(40), parse_reranker("alpha-qe:n=12,alpha=3")
    learned = parse_reranker(
        "lattqe:model=a.onnx", lambda where: LearnedExpansion(n=12, weigh=weigh, where=where)
    )
    xq_QD = base[0].x_ND[own_Q]
    found = learned.rank(base[0], xq_QD, 20, own_Q)
    assert (found == alpha.rank(base[0], xq_QD, 20, own_Q)).all()
    assert spelled(learned) == "lattqe:model=a.onnx"


def test_nobody_weighs_nothing_and_company_changes_nothing(exported: bytes) -> None:
    session = ExpansionSession(exported, "expansion.onnx")
    xq_QD, x_QND = unit_rows(3, 16, 3), unit_rows(36, 16, 4).reshape(3, 12, 16)
    x_QND[:, 9:] = 0
    weight_QN = session.weigh(xq_QD, x_QND)
    assert (weight_QN[:, 9:] == 0).all()
    assert (weight_QN[:, :9] > 0).any()
    assert (weight_QN[1] == session.weigh(xq_QD[1:2], x_QND[1:2])[0]).all()


def test_training_learns_which_neighbours_to_leave_out(trained: TrainedExpansion) -> None:
    assert trained.map_by_epoch[trained.best_epoch] > trained.map_by_epoch[0] + 0.01
    assert trained.best_epoch > 0
    assert trained.n_identities == 64


def test_file_gives_what_the_trained_network_gives(
    base: tuple[ExactBase, np.ndarray], trained: TrainedExpansion, exported: bytes
) -> None:
    session = ExpansionSession(exported, "expansion.onnx")
    tokens_BTD = base[0].x_ND[:65].reshape(5, 13, 16)
    with torch.no_grad():
        expected_BN = trained.net(torch.from_numpy(tokens_BTD)).numpy()
    np.testing.assert_allclose(session.weigh(tokens_BTD[:, 0], tokens_BTD[:, 1:]), expected_BN, atol=1e-6)


def test_few_identities_are_refused(base: tuple[ExactBase, np.ndarray]) -> None:
    with pytest.raises(UsageError, match="expected at least 10, got 3"):
        train_expansion(base[0], np.minimum(base[1], 2), SMALL, lambda epoch, value: None)


def test_model_of_images_is_no_expansion() -> None:
    with pytest.raises(ModelError, match=r"no sound bitsieve\.expansion"):
        ExpansionSession(pool_model(), "pool.onnx")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """28 products with two photos each."""
    made = Collection(tmp_path_factory.mktemp("expansion"))
    numbers = [n for product in range(28) for n in (product, 100 + product)]
    columns = {
        "image_id": [f"i{n:03d}" for n in numbers],
        "image": [jpeg(n) for n in numbers],
        "product": [f"p{n % 100}" for n in numbers],
    }
    write_parquet(made.source / "shop.parquet", columns)
    made.night(label="product")
    return made


def test_command_trains_for_the_collection_and_search_takes_its_file(
    shop: Collection, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> dict[str, Any]:
        assert run([*arguments, "--store", str(shop.folder / "store"), "--json"]) == 0
        found: dict[str, Any] = json.loads(capfd.readouterr()[0])
        return found

    out = tmp_path / "expansion.onnx"
    made = said("train-expansion", "-o", str(out), "--neighbours", "4", "--epochs", "0")
    assert (made["best_epoch"], len(made["map_by_epoch"])) == (0, 1)
    assert (made["card"]["label"], made["card"]["n_identities"]) == ("product", 12)
    (tmp_path / "q.jpg").write_bytes(jpeg(3))
    learned, alpha = (
        said("search", str(tmp_path / "q.jpg"), "-k", "50", "--rerank", rerank)["results"]
        for rerank in (f"lattqe:model={out}", "alpha-qe:n=4,alpha=3")
    )
    assert learned == alpha
    judge = ("evaluate", "reranking", "--rerank", f"lattqe:model={out}")
    assert said(*judge)["rerankers"][0]["name"] == f"lattqe:model={out}"
    assert run([*judge, "--seed", "1", "--store", str(shop.folder / "store"), "--json"]) == 2
    assert "has seen images that would judge it" in capfd.readouterr()[0]


@pytest.mark.parametrize(
    ("rerank", "said"),
    [
        ("lattqe:model=gone.onnx", "gone.onnx cannot be read"),
        ("lattqe:n=3", "which file"),
        ("lattqe:model=other.onnx", "weighs vectors of model mmmmmmmmmmmm"),
    ],
)
def test_search_refuses_a_file_that_it_cannot_use(
    shop: Collection,
    exported: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    rerank: str,
    said: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.jpg").write_bytes(jpeg(1))
    (tmp_path / "other.onnx").write_bytes(exported)
    code = run(["search", "q.jpg", "--store", str(shop.folder / "store"), "--rerank", rerank])
    assert code in (1, 2)
    assert said in capfd.readouterr()[1]
