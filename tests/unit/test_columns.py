"""What is compiled for many rows gives the lists and bits that numpy gives, ties and thresholds included."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from pipeline.index import encoder, lists
from pipeline.index.columns import COMPILED_FROM
from pipeline.index.encoder import fit_encoder
from pipeline.index.lists import GRID, assign_lists
from tests.support.index_shards import unit_rows

pytest.importorskip("numba")


def _plainly(function: Any, *given: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "available", lambda: False)
        patch.setattr(encoder, "available", lambda: False)
        return function(*given)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("d", "n_lists"), [(3, 1), (128, 31), (128, 200), (130, 64)])
def test_rows_go_to_the_lists_that_numpy_finds(d: int, n_lists: int, dtype: Any) -> None:
    x_ND = unit_rows(COMPILED_FROM + 9, d, seed=1).astype(dtype)
    centroids_LD = (np.rint(unit_rows(n_lists, d, seed=2) * GRID) / GRID).astype(np.float32)
    centroids_LD[n_lists // 2] = centroids_LD[0]
    list_N = assign_lists(x_ND, centroids_LD)
    assert list_N.tolist() == _plainly(assign_lists, x_ND, centroids_LD).tolist()


def test_of_equal_centroids_the_first_gets_the_row() -> None:
    centroids_LD = np.repeat(np.eye(2, dtype=np.float32), 40, axis=0)
    x_ND = np.repeat(np.eye(2, dtype=np.float32), COMPILED_FROM, axis=0)
    assert assign_lists(x_ND, centroids_LD).tolist() == [0] * COMPILED_FROM + [40] * COMPILED_FROM


@pytest.mark.parametrize(("d", "bits"), [(8, 8), (128, 40), (128, 512), (130, 72)])
def test_bits_are_those_of_numpy_on_either_side_of_a_threshold(d: int, bits: int) -> None:
    """Thresholds that are values of a row, and their nearest neighbours in float64: no float32 tells them."""
    x_ND = unit_rows(COMPILED_FROM + 9, d, seed=1)
    fitted = fit_encoder(x_ND[:100], bits=bits, seed=3)
    at_B = fitted.values(x_ND[5:6])[0]
    for thresholds_B in (at_B, np.nextafter(at_B, -1), np.zeros(bits)):
        asked = dataclasses.replace(fitted, thresholds_B=thresholds_B.copy())
        np.testing.assert_array_equal(asked.encode(x_ND), _plainly(asked.encode, x_ND))
