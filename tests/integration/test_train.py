"""Training by the command: two workers as one, a killed run, the exported file in a night."""

import signal
import time
from pathlib import Path

import pytest

from pipeline.catalog.source import SourceSpec
from pipeline.config import TrainConfig
from pipeline.images.products import product_jpeg
from pipeline.storage.local import LocalStore
from pipeline.train.checkpoint import checkpoint_steps
from pipeline.train.job import TrainJob
from pipeline.train.labelled import labelled_images
from pipeline.train.results import training_document
from tests.support.command import Command
from tests.support.tiny_catalogs import GARBAGE, list_of, write_folder

pytestmark = pytest.mark.integration

_PRODUCTS, _VIEWS = 48, 4
_SETTINGS = (
    *("--model", "tiny", "--size", "32", "--dim", "8", "--steps", "6", "--set", "train.validate_every=2"),
    *("--set", "train.classes=4", "--set", "train.images=2", "--set", "train.cpus=0.5"),
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    photos = {
        f"p{product:02d}/{view}.jpg": product_jpeg(product, view)
        for product in range(_PRODUCTS)
        for view in range(_VIEWS)
    }
    return write_folder(tmp_path_factory.mktemp("shop"), {**photos, "p00/broken.jpg": GARBAGE})


def losses(store: Path, key: str) -> list[float]:
    curves = training_document(LocalStore(store), key, "curves")
    assert curves is not None
    return [loss for _, loss in curves["losses"]]


@pytest.mark.timeout(300)
def test_two_workers_train_as_one(shop: Path, tmp_path: Path) -> None:
    command = Command(tmp_path / "cache")
    two = command.json(
        *("train", shop, "--store", tmp_path / "two", "--label", "@folder", *_SETTINGS, "--workers", "2")
    )
    assert two["images"]["rejected"] == {"unidentified": 1}
    job = TrainJob(
        settings=TrainConfig(
            size=(32, 32), dim=8, steps=6, validate_every=2, classes=4, images=2, workers=1, cpus=2
        ),
        images=labelled_images(list_of(shop, tmp_path).images(), "@folder"),
        source=LocalStore(shop),
        spec=SourceSpec(uri=str(shop)),
        store=LocalStore(tmp_path / "one"),
        folder=tmp_path / "cache" / "training",
    )
    assert job.run()["key"] == two["training"]
    alone, together = losses(tmp_path / "one", job.key()), losses(tmp_path / "two", job.key())
    assert len(alone) == 6
    assert together == pytest.approx(alone, rel=1e-3)


@pytest.mark.timeout(300)
def test_a_killed_training_goes_on_and_its_export_is_taken_by_a_night(shop: Path, tmp_path: Path) -> None:
    command, store = Command(tmp_path / "cache"), tmp_path / "store"
    arguments = ("train", shop, "--store", store, "--label", "@folder", *_SETTINGS, "--steps", "60")
    process = command.start(*arguments, own_group=True)
    try:
        deadline_s = time.monotonic() + 200
        while not (steps := _steps(store)) or steps[-1] < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    key = _key(store)
    before = losses(store, key)
    assert training_document(LocalStore(store), key, "result") is None
    finished = command.json(*arguments)
    after = losses(store, key)
    assert finished["training"] == key
    assert after[: len(before)] == before
    assert 0 < len(before) < len(after)

    file = tmp_path / "model.onnx"
    export = ("export-model", key[:12], "--store", store, "-o", file, "--name", "shop", "--license", "MIT")
    assert command.json(*export)["parity"]["least_cosine"] > 0.99999
    lenient = ("--label", "@folder", "--set", "gates.max_rejected_share=1", "--set", "gates.min_variance=0")
    night = command.json("reindex", shop, "--store", tmp_path / "index", "--model", file, *lenient)
    assert night["images"]["embedded"] == _PRODUCTS * _VIEWS
    check_upgrade(command, shop, tmp_path, key)


def check_upgrade(command: Command, shop: Path, folder: Path, old_key: str) -> None:
    """A second model is trained beside what the first has stored, and its file says so."""
    beside = ("--compatible-with", f"{folder / 'index'}#main")
    store = folder / "store"
    train = ("train", shop, "--store", store, "--label", "@folder", *_SETTINGS, *beside, "--steps", "2")
    refused = command.run(*train, "--dim", "9", "--json")
    assert refused.code == 2
    assert "have 8 dimensions, the training makes 9" in refused.json["error"]["message"]
    apart = ("--set", "train.validation_share=0.9")
    saw = command.run(*train, *apart, "--set", f"train.init={old_key}", "--json")
    assert saw.code == 2
    assert "may have seen classes that are to judge" in saw.json["error"]["message"]
    made = command.run(*train, *apart, "--set", "train.learning_rate=1e-9", "--json")
    assert made.code == 3
    (key,) = {one.name for one in (store / "trainings").iterdir()} - {old_key}
    result = training_document(LocalStore(store), key, "result")
    assert result is not None
    older = result["older"]
    assert (older["accepted"], older["n_joined"]) == (False, _PRODUCTS * _VIEWS)
    assert older["n_judged"] >= 20 * _VIEWS

    named = ("-o", folder / "new.onnx", "--name", "new", "--license", "MIT")
    exported = command.json("export-model", key, "--store", store, *named)
    assert exported["compatible_with"] == []

    again = command.run(*train, *apart, "--set", f"train.init={key}", "--steps", "1", "--json")
    assert again.code == 3  # it begins, and is judged by the same classes


def _key(store: Path) -> str:
    (folder,) = (store / "trainings").iterdir()
    return folder.name


def _steps(store: Path) -> list[int]:
    return checkpoint_steps(LocalStore(store), _key(store)) if (store / "trainings").exists() else []
