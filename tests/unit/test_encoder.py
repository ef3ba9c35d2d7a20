"""The encoder: recipes, exactness, and a file that plain numpy opens."""

import io
from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import DataCorrupt, UsageError
from pipeline.index.balance import Drift, bit_balance, count_ones, effective_dimension, mean_shift
from pipeline.index.encoder import Encoder, Recipe, choose_bits, default_bits, fit_encoder
from pipeline.index.rotation import random_rotation
from tests.support.index_shards import unit_rows


def _fitted(bits: int = 256, d: int = 48) -> Encoder:
    return fit_encoder(unit_rows(300, d, seed=1), bits=bits, seed=5, fit_threshold="00ff00ff00ff00ff")


@pytest.mark.parametrize(
    ("d", "bits"), [(64, 512), (128, 512), (192, 512), (512, 512), (768, 768), (1000, 1024)]
)
def test_default_bits_are_512_or_one_per_dimension(d: int, bits: int) -> None:
    assert bits == default_bits(d)


@pytest.mark.parametrize(("bits", "d"), [(64, 64), (16, 64), (256, 48)])
def test_rotation_has_unit_rows_orthogonal_within_each_block(bits: int, d: int) -> None:
    rotation_BD = random_rotation(bits, d, seed=3).astype(np.float64)
    assert rotation_BD.shape == (bits, d)
    for start in range(0, bits, d):
        block = rotation_BD[start : start + d]
        np.testing.assert_allclose(block @ block.T, np.eye(len(block)), atol=1e-6)


def test_rotation_of_fewer_bits_is_the_first_rows_of_more() -> None:
    np.testing.assert_array_equal(random_rotation(16, 32, seed=2), random_rotation(96, 32, seed=2)[:16])


def test_codes_are_the_same_row_by_row_in_any_memory_order_and_in_one_block() -> None:
    encoder, x_ND = _fitted(), unit_rows(200, 48, seed=2)
    codes_NW = encoder.encode(x_ND)
    np.testing.assert_array_equal(codes_NW, np.concatenate([encoder.encode(x_D[None]) for x_D in x_ND]))
    np.testing.assert_array_equal(codes_NW, encoder.encode(np.asfortranarray(x_ND)))
    np.testing.assert_array_equal(codes_NW, encoder.encode(x_ND.astype(np.float64)))


def test_values_before_the_threshold_are_exact_in_any_order_of_summation() -> None:
    """The promise of the module: a product of multiples of 2**-26 and 2**-24 is never rounded."""
    encoder, x_ND = _fitted(), unit_rows(5, 48, seed=4)
    assert encoder.rotation_BD is not None
    centred = np.rint(x_ND.astype(np.float64) * 2**26) - encoder.mean_D * 2**26
    rotation = np.rint(encoder.rotation_BD.astype(np.float64) * 2**24)
    for value_B, y_D in zip(encoder.values(x_ND), centred, strict=True):
        for value, r_D in zip(value_B, rotation, strict=True):
            products = [
                int(y) * int(r) for y, r in zip(y_D, r_D, strict=True)
            ]  # Python integers: no rounding
            assert sum(products) == value * 2**50


def test_hamming_distance_of_rotated_bits_follows_the_angle() -> None:
    encoder = fit_encoder(np.empty((0, 32), dtype=np.float32), bits=8192, seed=1)
    x_ND = unit_rows(2, 32, seed=7)
    hamming = int(np.bitwise_count(np.bitwise_xor(*encoder.encode(x_ND))).sum())
    angle = float(np.arccos(x_ND[0] @ x_ND[1]))
    assert hamming / 8192 == pytest.approx(angle / np.pi, abs=0.02)


def test_bits_are_balanced_after_centring_where_signs_are_not() -> None:
    x_ND = unit_rows(2000, 64, seed=3) + np.float32(0.4)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    sign = fit_encoder(x_ND, recipe="sign")
    rotated = fit_encoder(x_ND, bits=256)
    assert bit_balance(count_ones(sign.encode(x_ND)), 2000) > 0.4
    assert bit_balance(count_ones(rotated.encode(x_ND)), 2000) < 0.05


def test_encoder_survives_its_file_byte_for_byte() -> None:
    encoder = _fitted()
    again = Encoder.from_bytes(encoder.to_bytes())
    assert (again.digest, again.to_bytes()) == (encoder.digest, encoder.to_bytes())
    assert again.fit_threshold == "00ff00ff00ff00ff"
    np.testing.assert_array_equal(again.encode(unit_rows(9, 48, 1)), encoder.encode(unit_rows(9, 48, 1)))


def test_sign_encoder_survives_its_file() -> None:
    encoder = fit_encoder(unit_rows(9, 24, seed=0), recipe="sign")
    assert Encoder.from_bytes(encoder.to_bytes()).digest == encoder.digest


def test_encoder_file_opens_with_plain_numpy_without_pickle() -> None:
    with np.load(io.BytesIO(_fitted().to_bytes()), allow_pickle=False) as archive:
        assert archive["rotation_BD"].shape == (256, 48)
        assert str(archive["recipe"]) == "centred-rotated"


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-40], lambda b: b"", lambda b: b"PK" + b[3:], lambda b: b[:500]]
)
def test_garbled_encoder_is_refused_as_corrupt(spoil: object) -> None:
    with pytest.raises(DataCorrupt):
        Encoder.from_bytes(spoil(_fitted().to_bytes()))  # type: ignore[operator]


def test_encoder_with_swapped_contents_is_refused_as_corrupt() -> None:
    with np.load(io.BytesIO(_fitted().to_bytes())) as archive:
        arrays = dict(archive) | {"mean_D": np.zeros(48)}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with pytest.raises(DataCorrupt, match="digest"):
        Encoder.from_bytes(buffer.getvalue())


def test_every_field_is_part_of_the_digest() -> None:
    encoder = _fitted()
    assert replace(encoder, seed=6).digest != encoder.digest
    assert replace(encoder, fit_threshold="").digest != encoder.digest
    assert replace(encoder, thresholds_B=encoder.thresholds_B + 1e-9).digest != encoder.digest


def test_vectors_of_another_dimension_are_refused_with_both_numbers() -> None:
    with pytest.raises(UsageError, match=r"48 dimensions.*\(3, 50\)"):
        _fitted().encode(unit_rows(3, 50, seed=0))


@pytest.mark.parametrize(("bits", "recipe"), [(12, "centred-rotated"), (0, "centred-rotated"), (64, "sign")])
def test_impossible_numbers_of_bits_are_refused(bits: int, recipe: str) -> None:
    with pytest.raises(UsageError, match="bit"):
        fit_encoder(unit_rows(3, 48, seed=0), bits=bits, recipe=recipe)  # type: ignore[arg-type]


def test_identical_rows_all_get_the_code_zero() -> None:
    x_ND = np.repeat(unit_rows(1, 16, seed=0), 50, axis=0)
    encoder = fit_encoder(x_ND, bits=64)
    codes_NW = encoder.encode(x_ND)
    assert len(np.unique(codes_NW, axis=0)) == 1


def test_no_rows_encode_to_no_codes() -> None:
    assert _fitted().encode(np.empty((0, 48), dtype=np.float32)).shape == (0, 32)


def test_effective_dimension_counts_the_dimensions_that_vary() -> None:
    rng = np.random.default_rng(0)
    x_ND = np.zeros((4000, 40))
    x_ND[:, :7] = rng.standard_normal((4000, 7))
    assert effective_dimension(x_ND) == pytest.approx(7, rel=0.02)
    assert effective_dimension(np.ones((5, 3))) == 0.0
    assert effective_dimension(np.empty((0, 3))) == 0.0


def test_median_thresholds_halve_the_fit_sample_on_every_bit() -> None:
    x_ND = np.abs(unit_rows(400, 48, seed=2))  # skewed: zero after centring is not the median
    ones_B = count_ones(fit_encoder(x_ND, bits=128, thresholds="median").encode(x_ND))
    assert (np.abs(ones_B - 200) <= 1).all()
    assert bit_balance(count_ones(fit_encoder(x_ND, bits=128).encode(x_ND)), 400) > 0.01


def test_itq_loses_less_than_a_random_rotation_when_only_signs_stay() -> None:
    x_ND = unit_rows(600, 32, seed=3, n_clusters=12)
    found = {}
    for recipe in ("centred-rotated", "itq"):
        encoder = fit_encoder(x_ND, bits=32, recipe=recipe)
        assert encoder.rotation_BD is not None
        value_NB = (x_ND - encoder.mean_D) @ encoder.rotation_BD.T
        found[recipe] = ((np.sign(value_NB) / 32**0.5 - value_NB) ** 2).sum()  # the paper's objective
        np.testing.assert_allclose(encoder.rotation_BD @ encoder.rotation_BD.T, np.eye(32), atol=1e-5)
    assert found["itq"] < 0.95 * found["centred-rotated"]


def test_itq_refuses_more_bits_than_dimensions() -> None:
    with pytest.raises(UsageError, match="at most 32 bits, got 64"):
        fit_encoder(unit_rows(50, 32, seed=0), bits=64, recipe="itq")
    assert [choose_bits(100, recipe) for recipe in ("sign", "itq", "centred-rotated")] == [100, 96, 512]


@pytest.mark.parametrize("recipe", ["centred-rotated", "itq", "sign"])
def test_encoder_with_medians_and_lists_survives_its_file(recipe: Recipe) -> None:
    x_ND = unit_rows(200, 48, seed=1)
    encoder = fit_encoder(x_ND, bits=48, recipe=recipe, thresholds="median", n_lists=4)
    again = Encoder.from_bytes(encoder.to_bytes())
    assert (again.digest, again.n_lists) == (encoder.digest, 4)
    assert (again.encode(x_ND) == encoder.encode(x_ND)).all()
    assert encoder.digest == fit_encoder(x_ND, bits=48, recipe=recipe, thresholds="median", n_lists=4).digest


def test_rows_of_another_mean_are_drift_and_those_of_the_sample_are_not() -> None:
    x_ND = unit_rows(2_000, 48, seed=1)
    mean_D = fit_encoder(x_ND, bits=64).mean_D
    moved_ND = x_ND + 0.05
    moved_ND /= np.linalg.norm(moved_ND, axis=1, keepdims=True)
    same, moved = (mean_shift(y.sum(axis=0), len(y), mean_D) for y in (x_ND, moved_ND))
    assert same < 1e-6
    assert moved == pytest.approx(0.3, abs=0.05)  # about .05 * sqrt(48) before normalising
    assert Drift(mean_shift=same, bit_imbalance=0.01, list_imbalance=1.5).advice == ""
    assert "moved by 0.3" in Drift(mean_shift=0.3, bit_imbalance=0.01, list_imbalance=1.5).advice
