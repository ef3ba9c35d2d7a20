"""Running models: answers worked out by hand, unusable rows, fixed batches, and what loading refuses."""

import numpy as np
import pytest

from pipeline.errors import ModelError, WorkerError
from pipeline.model.file import wrap_model
from pipeline.model.session import EmbeddingSession
from tests.support import models


def pictures(*values: float) -> np.ndarray:
    """[N, 3, 4, 4]: picture i has red = value i, green 0 and blue 4."""
    images = np.zeros((len(values), 3, models.SIDE, models.SIDE), dtype=np.float32)
    images[:, 0] = np.array(values)[:, None, None]
    images[:, 2] = 4
    return images


def test_embed_normalises_when_the_card_says_the_model_does_not() -> None:
    with EmbeddingSession(models.pool_model()) as session:
        vectors, ok = session.embed(pictures(3, 0))
    np.testing.assert_allclose(vectors, [[0.6, 0, 0.8], [0, 0, 1]], rtol=0, atol=1e-7)
    assert vectors.dtype == np.float32
    assert ok.tolist() == [True, True]


def test_embed_leaves_vectors_alone_when_the_card_says_normalised() -> None:
    with EmbeddingSession(models.pool_model(normalised=True)) as session:
        vectors, _ = session.embed(pictures(3))
    np.testing.assert_array_equal(vectors, [[3, 0, 4]])


def test_embed_nothing_gives_nothing() -> None:
    with EmbeddingSession(models.pool_model()) as session:
        vectors, ok = session.embed(pictures())
    assert vectors.shape == (0, 3)
    assert ok.shape == (0,)


def test_embed_zero_and_nonfinite_rows_are_flagged_and_others_kept() -> None:
    sevens = np.full((1, 3, 4, 4), 7, dtype=np.float32)
    with EmbeddingSession(models.inverse_model()) as session:
        vectors, ok = session.embed(np.concatenate([pictures(1), sevens, pictures(2)]))
    assert ok.tolist() == [True, False, True]
    assert np.isinf(vectors[1]).all()
    np.testing.assert_allclose(np.linalg.norm(vectors[[0, 2]], axis=1), 1, atol=1e-6)
    with EmbeddingSession(models.pool_model()) as session:
        vectors, ok = session.embed(np.zeros((2, 3, 4, 4), dtype=np.float32))
    assert ok.tolist() == [False, False]
    assert not vectors.any()


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_embed_fixed_batch_model_takes_any_number_and_says_so(count: int) -> None:
    values = np.arange(1, count + 1, dtype=np.float32)
    with (
        EmbeddingSession(models.pool_model()) as free,
        EmbeddingSession(models.fixed_batch_model(4)) as fixed,
    ):
        assert free.notes == ()
        assert "fixed at 4" in fixed.notes[0]
        np.testing.assert_array_equal(fixed.embed(pictures(*values))[0], free.embed(pictures(*values))[0])


def test_embed_byte_input_in_nhwc_is_run() -> None:
    images = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    images[0] = (3, 0, 4)
    images[1] = (0, 255, 0)
    with EmbeddingSession(models.byte_input_model()) as session:
        np.testing.assert_allclose(session.embed(images)[0], [[0.6, 0, 0.8], [0, 1, 0]], atol=1e-7)


def test_embed_named_output_is_the_one_that_is_run() -> None:
    bare = models.two_output_bare()
    with EmbeddingSession(wrap_model(bare, models.card(), models.PLAIN, output="logits")) as session:
        np.testing.assert_allclose(session.embed(pictures(3))[0], [[-0.6, 0, -0.8]], atol=1e-7)


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 3, 4, 5), np.float32), np.zeros((1, 3, 4, 4), np.uint8), np.zeros((3, 4, 4), np.float32)],
)
def test_embed_pixels_of_another_shape_or_dtype_are_a_mistake(images: np.ndarray) -> None:
    with (
        EmbeddingSession(models.pool_model()) as session,
        pytest.raises(ValueError, match=r"float32 \[N, 3, 4, 4\]"),
    ):
        session.embed(images)


def test_session_dim_that_the_graph_does_not_state_is_checked_by_a_probe() -> None:
    bare = models.bare_pool(output_shape=("N", "D"))
    with pytest.raises(ModelError, match=r"\[1, 5\].*\[1, 3\]"):
        EmbeddingSession(wrap_model(bare, models.card(dim=5), models.PLAIN))


def test_session_model_without_finite_answer_is_refused_at_load() -> None:
    with pytest.raises(ModelError, match="NaN"):
        EmbeddingSession(models.nan_model())


def test_session_model_that_cannot_run_is_refused_at_load() -> None:
    bare = models.graph_bytes(
        [*models.pool_nodes(target="means"), models.helper.make_node("Add", ["means", "w"], ["embedding"])],
        output_shape=("N", "D"),
        weights={"w": np.zeros(5, dtype=np.float32)},
    )
    with pytest.raises(ModelError):
        EmbeddingSession(wrap_model(bare, models.card(), models.PLAIN))


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_session_provider_that_is_not_there_is_an_error_not_the_cpu(provider: str) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has the CUDA provider")
    with pytest.raises(WorkerError, match="installed: onnxruntime ") as caught:
        EmbeddingSession(models.pool_model(), provider=provider)  # type: ignore[arg-type]
    assert "never both" in caught.value.fix
