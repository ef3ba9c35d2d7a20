import numpy as np
import onnx
import pytest

from pipeline.model.card import card_from_metadata
from pipeline.model.filters import DIM, NAME, build_filter_model
from pipeline.model.filters_centre import CENTRE
from tests.support.measure_centre import catalog_pixels, measure_centre, run_model


@pytest.fixture(scope="module")
def model() -> bytes:
    return build_filter_model()


@pytest.fixture(scope="module")
def catalog() -> tuple[np.ndarray, np.ndarray]:
    return catalog_pixels(n_products=90, views=4)


@pytest.fixture(scope="module")
def vectors(model: bytes, catalog: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return run_model(model, catalog[0], batch=8)


def test_filter_model_same_bytes_on_every_call_and_small(model: bytes) -> None:
    assert build_filter_model() == model
    assert len(model) < 500_000


def test_filter_model_says_how_it_wants_its_input(model: bytes) -> None:
    proto = onnx.load_from_string(model)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    card, preprocess = card_from_metadata(metadata, "built-in")
    assert (card.name, card.dim, card.normalised, card.license) == (NAME, 128, True, "Apache-2.0")
    assert (preprocess.size, preprocess.resize, preprocess.crop) == ((96, 96), "squash", "none")
    assert preprocess.is_identity
    image = proto.graph.input[0]
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert [output.name for output in proto.graph.output] == [card.output]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 3, 7, 32, 100])
def test_filter_model_any_batch_size_gives_the_same_bytes(
    model: bytes,
    catalog: tuple[np.ndarray, np.ndarray],
    vectors: np.ndarray,
    batch: int,
    threads: int,
) -> None:
    again = run_model(model, catalog[0][:100], batch=batch, threads=threads)
    assert again.tobytes() == vectors[:100].tobytes()


def test_filter_model_vectors_are_unit_length(vectors: np.ndarray) -> None:
    assert vectors.shape == (360, DIM)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_filter_model_even_image_gives_a_finite_unit_vector(model: bytes, level: int) -> None:
    vector = run_model(model, np.full((1, 3, 96, 96), level, np.uint8))
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_filter_model_random_pixels_give_a_finite_unit_vector(model: bytes) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 3, 96, 96), dtype=np.uint8)
    np.testing.assert_allclose(np.linalg.norm(run_model(model, noise), axis=1), 1, atol=1e-5)


def test_filter_model_finds_other_photos_but_not_always(
    catalog: tuple[np.ndarray, np.ndarray], vectors: np.ndarray
) -> None:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -2)
    success_at_1 = (catalog[1][scores.argmax(axis=1)] == catalog[1]).mean()
    assert 0.75 < success_at_1 < 0.97  # 3 other photos a product here, 9 in the demo


def test_filter_model_effective_dimension_suits_hamming_codes(vectors: np.ndarray) -> None:
    variances = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False) ** 2
    assert variances.sum() ** 2 / (variances**2).sum() > 15


def test_filter_centre_is_what_the_catalog_measures() -> None:
    measured = measure_centre(n_products=60, views=3)
    assert np.linalg.norm(measured - CENTRE) < 0.15 * np.linalg.norm(CENTRE)


def test_filter_model_wrong_centre_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a centre of 128"):
        build_filter_model(centre=[0.0])
