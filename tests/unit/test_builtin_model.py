"""The model that ships: what it says of itself, and that it beats the fixed filters on products new to it."""

import numpy as np
import pytest

from jobs.models import BUILTIN, FILTERS, model_bytes
from pipeline.embed.query import embed_queries
from pipeline.evaluate.comparison import Benchmark, compare
from pipeline.evaluate.paired import Verdict
from pipeline.images.products import catalog_images
from pipeline.model.file import read_model
from pipeline.model.session import EmbeddingSession


def test_builtin_model_is_small_and_says_what_it_is() -> None:
    data = model_bytes(BUILTIN)
    assert len(data) < 2_000_000
    model = read_model(data, BUILTIN)
    assert (model.card.name, model.card.license, model.card.dim) == ("bitsieve-builtin", "Apache-2.0", 128)
    assert model.card.normalised
    assert model.input_dtype == "uint8"
    assert model.input_shape is not None
    assert model.input_shape[0] is None
    assert model.model_id != read_model(model_bytes(FILTERS), FILTERS).model_id


@pytest.mark.parametrize("level", [0, 128, 255])
def test_builtin_model_even_image_gives_a_finite_unit_vector(level: int) -> None:
    with EmbeddingSession(model_bytes(BUILTIN)) as session:
        vector = session.run_raw(np.full((1, *session.model.pixels_shape), level, np.uint8))
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_builtin_model_is_better_than_the_filters_on_products_that_it_was_not_trained_on() -> None:
    photos = list(catalog_images(40, 4))
    labels = [of_photo["product"] for _, _, of_photo in photos]
    vectors = []
    for name in (FILTERS, BUILTIN):
        with EmbeddingSession(model_bytes(name)) as session:
            vectors.append(embed_queries(session, [jpeg for _, jpeg, _ in photos]).xq_QD)
    found = compare(
        Benchmark(
            ids=[image_id for image_id, _, _ in photos],
            labels=labels,
            groups=labels,
            slices={},
            old_ND=vectors[0],
            new_NE=vectors[1],
        )
    )
    assert found.verdict is Verdict.BETTER
    assert found.metrics["success@1"].new > 0.9
