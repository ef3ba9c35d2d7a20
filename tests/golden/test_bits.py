"""Hand-computed bits: they must never change, because every stored code depends on them."""

import numpy as np

from pipeline.index.arrays import Float32Array
from pipeline.index.encoder import Encoder, fit_encoder

A = (0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8)
B = (0.1, 0.2, -0.3, -0.4, 0.5, 0.6, 0.7, -0.8)


def _sign_encoder(d: int) -> Encoder:
    return fit_encoder(np.empty((0, d), dtype=np.float32), bits=d, recipe="sign")


def _rows(*rows: tuple[float, ...]) -> Float32Array:
    return np.array(rows, dtype=np.float32)


def test_sign_bits_of_the_golden_vectors_are_85_and_115_three_bits_apart() -> None:
    codes_NW = _sign_encoder(8).encode(_rows(A, B))
    assert codes_NW.tolist() == [[85], [115]]
    assert int(np.bitwise_count(codes_NW[0] ^ codes_NW[1]).sum()) == 3


def test_sign_bit_of_zero_and_minus_zero_is_0() -> None:
    assert _sign_encoder(8).encode(_rows((0.0,) * 8, (-0.0,) * 8)).tolist() == [[0], [0]]


def test_ninth_dimension_is_the_lowest_bit_of_the_second_byte() -> None:
    x = np.full((1, 16), -1.0, dtype=np.float32)
    x[0, 8] = 1.0
    assert _sign_encoder(16).encode(x).tolist() == [[0, 1]]


def test_rotated_codes_of_a_stored_encoder_are_pinned() -> None:
    """A quarter turn and a swap, written by hand: no generator, no QR."""
    rotation_BD = np.zeros((8, 2), dtype=np.float32)
    rotation_BD[:4] = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    rotation_BD[4:] = [(0.6, 0.8), (-0.8, 0.6), (0.8, 0.6), (0.6, -0.8)]
    encoder = Encoder(
        d=2,
        bits=8,
        recipe="centred-rotated",
        mean_D=np.array([0.25, 0.0]),
        rotation_BD=rotation_BD,
        thresholds_B=np.zeros(8),
        seed=0,
        fit_threshold="",
    )
    # (1, 0) - mean = (.75, 0): + 0 - 0 + - + +; (0, 1) - mean = (-.25, 1): - + + - + + + -
    assert encoder.encode(_rows((1.0, 0.0), (0.0, 1.0))).tolist() == [[0b11010001], [0b01110110]]
