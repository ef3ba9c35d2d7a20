"""The session's promise: the same bytes for an image alone, in any batch, on any number of threads."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.model.session import EmbeddingSession
from tests.support import models

SIDE = 12
KINDS = ("Gemm", "GemmT", "MatMul", "MLP")


@functools.cache
def session(
    kind: str, threads: int, batch: int | None = None, *, overridable: bool = True
) -> EmbeddingSession:
    data = models.projection_model(kind, side=SIDE, overridable=overridable, batch=batch)
    return EmbeddingSession(data, threads=threads)


@functools.cache
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 3, SIDE, SIDE)).astype(np.float32)


@pytest.mark.parametrize("overridable", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(40)), cuts=st.sets(st.integers(1, 39)), threads=st.sampled_from([1, 2, 3]))
def test_embed_any_batches_in_any_order_give_the_same_bytes(
    kind: str, overridable: bool, order: list[int], cuts: set[int], threads: int
) -> None:
    alone = session(kind, 1, overridable=overridable).embed(pictures())[0]
    batches = np.split(np.array(order), sorted(cuts))
    runner = session(kind, threads, overridable=overridable)
    parts = np.concatenate([runner.embed(pictures()[rows])[0] for rows in batches])
    assert parts.tobytes() == alone[order].tobytes()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(40)), cuts=st.sets(st.integers(1, 39)))
def test_embed_fixed_batch_padding_and_neighbours_change_nothing(
    kind: str, order: list[int], cuts: set[int]
) -> None:
    runner = session(kind, 1, 4)
    whole = runner.embed(pictures())[0]
    parts = np.concatenate(
        [runner.embed(pictures()[rows])[0] for rows in np.split(np.array(order), sorted(cuts))]
    )
    assert parts.tobytes() == whole[order].tobytes()
