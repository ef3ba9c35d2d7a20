"""Bits where nobody asked: few for neighbours that stand out, more for a crowd, judged on the sample."""

import numpy as np
import pytest

from pipeline.index.arrays import Float32Array
from pipeline.index.bits import cheapest_bits, offered_bits


def rows(n_groups: int, spread: float, *, n_each: int = 20, d: int = 64) -> Float32Array:
    generator = np.random.default_rng(5)
    centres = np.repeat(generator.standard_normal((n_groups, d)), n_each, axis=0)
    x_ND = centres + spread * generator.standard_normal(centres.shape)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    return generator.permutation(x_ND).astype(np.float32)


@pytest.mark.parametrize(("d", "offers"), [(8, (256, 512)), (512, (256, 512)), (1280, (256, 512, 1280))])
def test_offers(d: int, offers: tuple[int, ...]) -> None:
    assert offered_bits(d) == offers


def test_neighbours_that_stand_out_need_few_bits_and_a_crowd_needs_more() -> None:
    clear, crowded = rows(100, 0.3), rows(2_000, 30.0, n_each=1)
    assert cheapest_bits(clear, 2_000, (256, 512), seed=0) == 256
    assert cheapest_bits(crowded, 2_000, (256, 512), seed=0) == 512
    assert cheapest_bits(crowded, 2_000, (256,), seed=0) == 256


def test_where_few_rows_are_compared_only_the_candidates_count() -> None:
    loose = rows(100, 1.5)
    assert cheapest_bits(loose, 2_000, (256, 512), seed=0, share_scanned=0.0) == 512
    assert cheapest_bits(loose, 2_000, (256, 512), seed=0, share_scanned=1_000.0) == 256


def test_too_small_a_sample_takes_the_most_bits() -> None:
    assert cheapest_bits(rows(10, 0.3), 200, (256, 512), seed=0) == 512
