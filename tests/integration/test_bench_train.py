"""The loaders that are raced give the same pixels."""

from pathlib import Path

import pytest

from jobs.bench.loaders import LoaderRace, race_loaders

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def test_our_loader_and_pytorchs_give_the_same_batches_plain_and_augmented(tmp_path: Path) -> None:
    race = LoaderRace(images=None, size=32, batch=8, n_batches=2, n_products=4, rounds=1, work=tmp_path)
    found = race_loaders(race)
    assert (found["images"], found["left_out"]) == (40, 6)  # the shop's broken files
    assert found["plain"]["digest"] != found["augmented"]["digest"]
    for mode in ("plain", "augmented"):
        assert all(found[mode][who]["images_per_s"] > 0 for who in ("ours", "dataloader"))
        assert found[mode]["ratio"] > 0
