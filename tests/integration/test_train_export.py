"""The exported file gives what the network gives, or is not written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config import TrainConfig
from pipeline.errors import ModelError, UsageError
from pipeline.model.compose import in_half_precision
from pipeline.model.file import read_model, wrap_model
from pipeline.model.parity import check_parity, noise_pixels
from pipeline.storage.local import LocalStore
from pipeline.train.export import Exported, Trained, export_model, load_trained
from pipeline.train.networks import build_network, feature_network
from pipeline.train.results import find_training
from pipeline.values import Preprocess
from tests.support.models import SIDE, card, two_output_bare

pytestmark = pytest.mark.integration

_BGR = Preprocess(
    size=(SIDE, SIDE),
    resize="squash",
    scale=1 / 128,
    mean=(0.1, 0.5, 0.9),
    std=(1, 2, 4),
    channel_order="BGR",
)


def trained(net: Any, trunk: bytes | None = None, **settings: Any) -> Trained:
    config = TrainConfig(**{"dim": 5, "size": (24, 32), **settings})
    return Trained(net=net.eval(), settings=config, trunk=trunk, result={})


@pytest.fixture(scope="module")
def net() -> Any:
    torch.manual_seed(0)
    return build_network("tiny", pooling="gem", dim=5)


@pytest.fixture(scope="module")
def exported(net: Any) -> Exported:
    return export_model(trained(net), card(dim=5))


def test_exported_network_takes_pixels_in_any_number_and_gives_its_vectors(exported: Exported) -> None:
    model = read_model(exported.data, "exported")
    assert model.input_dtype == "uint8"
    assert model.input_shape == (None, 3, 24, 32)
    assert (model.card.dim, model.card.normalised, model.card.license) == (5, True, "CC0-1.0")
    assert exported.parity.least_cosine > 0.999999


def test_trunk_and_head_become_one_file_with_the_trunks_normalisation_inside() -> None:
    torch.manual_seed(0)
    trunk = wrap_model(two_output_bare(), card(), _BGR)
    exported = export_model(trained(feature_network(3, 5), trunk), card(dim=5))
    model = read_model(exported.data, "exported")
    assert model.preprocess.is_identity
    assert model.preprocess.channel_order == "BGR"
    assert model.input_dtype == "uint8"
    assert exported.parity.least_cosine > 0.999999


def test_a_file_that_gives_other_vectors_than_promised_is_refused(net: Any, exported: Exported) -> None:
    pixels_N = noise_pixels((7, 3, 24, 32))
    with torch.no_grad():
        promised_ND = net(torch.from_numpy(pixels_N)).numpy()
    check_parity(exported.data, pixels_N, promised_ND, "float32")
    for other_ND in (np.roll(promised_ND, 1, axis=1), promised_ND[:, :4]):
        with pytest.raises(ModelError, match="does not give what training promised"):
            check_parity(exported.data, pixels_N, other_ND, "float32")


def test_half_precision_halves_the_file_and_stays_near(net: Any, exported: Exported) -> None:
    half = in_half_precision(exported.data)
    pixels_N = noise_pixels((7, 3, 24, 32))
    with torch.no_grad():
        promised_ND = net(torch.from_numpy(pixels_N)).numpy()
    parity = check_parity(half, pixels_N, promised_ND, "float16")
    assert 0.999 < parity.least_cosine < 1 - 1e-8  # it is not the same file
    assert len(half) < 0.65 * len(exported.data)


def test_a_training_that_is_not_there_or_not_over_cannot_be_exported(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("trainings/abc1/progress.json", b"{}")
    store.put("trainings/abc2/progress.json", b"{}")
    assert find_training(store, "abc1") == "abc1"
    with pytest.raises(UsageError, match="2 trainings"):
        find_training(store, "abc")
    with pytest.raises(ModelError, match="no training 'abc1' that has ended"):
        load_trained(store, "abc1")
