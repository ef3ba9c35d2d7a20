"""Damaged images are images of the pipeline again, the same every time, and as much changed as stated."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.images.damage import Damage, DamageKind, damaged, usual_damages
from pipeline.images.decode import ImageRejected, decode
from pipeline.values import DecodeLimits

EVERYTHING = frozenset(DamageKind)


def photo(seed: int = 7) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(60, 200, (9, 12, 3), dtype=np.uint8))
    smooth_HWC = np.asarray(coarse.resize((192, 144), Image.Resampling.BICUBIC))
    out = io.BytesIO()
    Image.fromarray(smooth_HWC + rng.integers(0, 10, smooth_HWC.shape, dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, DecodeLimits())).astype(float)


def change(damage: Damage, seed: int = 0) -> float:
    return float(np.abs(pixels(damaged(photo(), damage, seed=seed)) - pixels(photo())).mean())


@pytest.mark.parametrize("damage", usual_damages(EVERYTHING, 112), ids=lambda damage: damage.name)
def test_every_level_is_an_image_again_and_always_the_same(damage: Damage) -> None:
    data = damaged(photo(), damage, seed=5)
    assert data == damaged(photo(), damage, seed=5)
    if damage.kind is DamageKind.PIXELS and damage.level < 144:
        assert pixels(data).shape == (damage.level, round(192 * damage.level / 144), 3)
    else:
        assert pixels(data).shape == (144, 192, 3)
        harmless = damage.kind is DamageKind.NONE or damage.kind is DamageKind.PIXELS
        assert (change(damage, seed=5) == 0) is harmless


@pytest.mark.parametrize(
    ("kind", "milder_first"),
    [
        (DamageKind.JPEG, (90, 50, 10)),
        (DamageKind.BLUR, (0.005, 0.02, 0.04)),
        (DamageKind.CROP, (0.95, 0.8, 0.7)),
        (DamageKind.ROTATION, (5, 20)),
        (DamageKind.BRIGHTNESS, (1.5, 2.0)),
    ],
)
def test_more_damage_changes_more(kind: DamageKind, milder_first: tuple[float, ...]) -> None:
    changes = [change(Damage(kind=kind, level=level)) for level in milder_first]
    assert changes == sorted(changes)
    assert changes[0] < changes[-1]


def test_levels_are_named_apart_and_sides_end_below_the_input() -> None:
    levels = usual_damages(EVERYTHING, 112)
    assert len({one.name for one in levels}) == len(levels) == 44
    assert [one.level for one in levels if one.kind is DamageKind.PIXELS] == [20, 40, 80]
    assert [one.kind for one in usual_damages(frozenset({DamageKind.JPEG}), 224)] == ["none"] + ["jpeg"] * 6


def test_seed_turns_and_crops_but_a_watermark_is_the_same_for_all() -> None:
    turn, crop = Damage(kind=DamageKind.ROTATION, level=20), Damage(kind=DamageKind.CROP, level=0.8)
    for damage in (turn, crop):
        assert damaged(photo(), damage, seed=1) != damaged(photo(), damage, seed=2)
    logo = Damage(kind=DamageKind.WATERMARK, level=0.8, style="logo", area=0.15)
    marked_NHWC = [
        np.abs(pixels(damaged(photo(n), logo, seed=3)) - pixels(photo(n))).sum(axis=2) > 0 for n in (1, 2)
    ]
    assert (marked_NHWC[0] == marked_NHWC[1]).mean() > 0.99


def test_what_is_no_image_is_rejected() -> None:
    with pytest.raises(ImageRejected):
        damaged(b"<html>", Damage(kind=DamageKind.NONE, level=0), seed=0)
