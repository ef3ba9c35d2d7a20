"""SIFT as a graph gives OpenCV's descriptors; fitted words find pictures of the same texture."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.cli import run
from pipeline.errors import UsageError
from pipeline.model.file import read_model
from pipeline.model.session import EmbeddingSession
from pipeline.model.sift import DESCRIPTOR, build_descriptor_model, places, sampled_places
from pipeline.model.sift_fit import fit_sift
from tests.support.nights import Collection
from tests.support.pictures import jpeg
from tests.support.tiny_catalogs import write_folder

SIDE = 64
GOLDEN = Path(__file__).parents[1] / "golden" / "sift_opencv.json"


def textured(kind: int, view: int) -> np.ndarray:
    """A pattern of strokes, [3, 64, 64]; another view is moved, and has noise of its own."""
    frequency, angle = 0.25 + 0.09 * (kind % 4), kind * 0.6
    y, x = np.mgrid[:SIDE, :SIDE] + 3 * view
    wave = np.sin(frequency * (x * np.cos(angle) + y * np.sin(angle))) * np.cos(0.2 * x * (kind % 3))
    noise = np.random.default_rng(100 * kind + view).normal(0, 6, (SIDE, SIDE))
    grey = np.clip(128 + 70 * wave + noise, 0, 255).astype(np.uint8)
    return np.repeat(grey[None], 3, axis=0)


def test_descriptors_are_those_of_opencv() -> None:
    """Rooted descriptors that OpenCV 5.0.0 computes at places of the grid; its gradients are its own."""
    golden = json.loads(GOLDEN.read_text())
    small = np.array(golden["small"], dtype=np.uint8)
    side = golden["side"]
    grey = np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))
    with EmbeddingSession(build_descriptor_model(side)) as session:
        found = session.run_raw([np.ascontiguousarray(np.repeat(grey[None], 3, axis=0))])
    found_PD = found.reshape(-1, DESCRIPTOR)
    assert len(found_PD) == places(side) == len(sampled_places(side))
    for one in golden["places"]:
        ours = found_PD[one["place"]].reshape(8, 4, 4)  # direction, row, column
        theirs = np.sqrt(np.array(one["descriptor"]) / sum(one["descriptor"])).reshape(4, 4, 8)
        assert np.linalg.norm(ours) == pytest.approx(1, abs=1e-4)
        assert float((ours * theirs.transpose(2, 0, 1)).sum()) > one["least_cosine"]


def test_flat_places_have_no_descriptor_and_long_lists_are_thinned() -> None:
    half = np.full((3, 224, 224), 128, dtype=np.uint8)
    half[:, :, 112:] = np.random.default_rng(0).integers(0, 255, (224, 112), dtype=np.uint8)
    assert places(224) > 512 >= len(sampled_places(224)) > 256
    with EmbeddingSession(build_descriptor_model(224)) as session:
        found_PD = session.run_raw([half]).reshape(-1, DESCRIPTOR)
    share = found_PD.any(axis=1).mean()
    assert 0.4 < share < 0.7


@pytest.fixture(scope="module")
def model() -> bytes:
    images = [textured(kind, view) for kind in range(12) for view in range(4)]
    return fit_sift(images, n_words=32, dim=16, seed=0)


def test_textures_find_their_own(model: bytes) -> None:
    fresh = [textured(kind, view) for kind in range(12) for view in (7, 9)]
    with EmbeddingSession(model) as session:
        x_ND, ok_N = session.embed(fresh)
    assert ok_N.all()
    products_NN = x_ND @ x_ND.T - 2 * np.eye(len(x_ND))
    assert (products_NN.argmax(axis=1) == np.arange(len(x_ND)) ^ 1).mean() > 0.9


def test_fit_is_the_same_for_a_seed_and_a_picture_without_texture_has_no_vector(model: bytes) -> None:
    images = [textured(kind, view) for kind in range(12) for view in range(4)]
    again = fit_sift(images, n_words=32, dim=16, seed=0)
    assert read_model(again, "again").model_id == read_model(model, "model").model_id
    assert read_model(model, "model").card.train_data.startswith("48 images of the catalog: 32 visual words")
    with EmbeddingSession(model) as session:
        _, ok_N = session.embed([np.full((3, SIDE, SIDE), 200, dtype=np.uint8), images[0]])
    assert ok_N.tolist() == [False, True]


@pytest.mark.parametrize(
    ("n_words", "dim", "said"), [(32, 60, "cannot give 60 dim"), (800, 8, "too few for 800")]
)
def test_too_little_to_fit_is_said(n_words: int, dim: int, said: str) -> None:
    images = [textured(kind, 0) for kind in range(12)]
    with pytest.raises(UsageError, match=said):
        fit_sift(images, n_words=n_words, dim=dim, seed=0)


def test_model_of_a_collection_makes_a_collection(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    collection = Collection(tmp_path)
    write_folder(collection.source, {f"{n:02d}.jpg": jpeg(90, 80, seed=n) for n in range(20)})
    collection.night()
    out = tmp_path / "sift.onnx"
    arguments = ["model", "sift", "--store", str(tmp_path / "store"), "-o", str(out), "--json"]
    assert run([*arguments, "--words", "16", "--dim", "8", "--size", "64", "--images", "16"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["images"], said["model_id"]) == (16, read_model(out.read_bytes(), "sift").model_id)
    collection.use(out.read_bytes())
    night = collection.night(collection="sift")
    assert night.manifest.content.model.name == "sift-words"
    assert night.manifest.coverage.embedded == 20
    assert run(arguments) == 2
    assert "exists already" in capfd.readouterr().err
    assert run([*arguments, "--force", "--size", "20"]) == 2
    assert "no place for a descriptor" in capfd.readouterr().err
