"""Nights keep C and probes, measure their recall, and choose them anew when that is due."""

import json
import shutil
from pathlib import Path

import pytest

from jobs.reindex import Night
from tests.support import models
from tests.support.nights import Collection
from tests.support.tiny_catalogs import jpeg, tar_of, write_tar

_IMAGES = 1_200


@pytest.fixture
def shop(tmp_path: Path) -> Collection:
    """Tars of 1,200 images, just enough for a sieve, after a first night."""
    collection = Collection(tmp_path / "shop", model=models.projection_model("Gemm", side=8, dim=16))
    change(collection)
    collection.night()
    return collection


def change(shop: Collection, *numbers: int) -> None:
    """Writes the tars; the images ``numbers`` have other bytes than before."""
    others = {number: (f"{number:04d}.jpg", jpeg(5_000 + number)) for number in numbers}
    for start in range(0, _IMAGES, 400):
        members = tar_of(*range(start, start + 400))
        write_tar(
            shop.source / f"{start:04d}.tar",
            [others.get(start + place, member) for place, member in enumerate(members)],
        )


def why(shop: Collection) -> str:
    """Why the last night chose C anew."""
    assert shop.run is not None
    lines = b"".join(
        shop.store.get(item.key) for item in shop.store.list_objects(f"runs/{shop.run.run_id}/events/")
    ).splitlines()
    events = [json.loads(line) for line in lines]
    return str(next(event["why_anew"] for event in events if event["event"] == "calibrated"))


def point(night: Night) -> tuple[str, dict[int, int], int]:
    found = night.manifest.content.operating_point()
    return found.method, found.candidates, found.kept


def test_reindex_keeps_the_operating_point_until_the_schedule_is_due(shop: Collection) -> None:
    assert why(shop) == "nothing to keep"
    kept = []
    for number in range(3):
        change(shop, *range(number + 1))
        night = shop.night(index={"calibrate_nights": 3})
        assert night.published
        kept.append(point(night)[2])
    assert kept == [1, 2, 0]
    assert why(shop) == "chosen 3 nights ago"


def test_reindex_asked_for_another_recall_chooses_anew(shop: Collection) -> None:
    change(shop, 1)
    night = shop.night(index={"recall": 0.95})
    assert point(night)[2] == 0
    assert why(shop) == "nothing to keep"


def test_reindex_has_the_same_digest_whether_neighbours_were_known_or_not(shop: Collection) -> None:
    change(shop, 1, 2)
    shop.night()
    other = Collection(shop.folder.parent / "other", settings={"source": str(shop.source)})
    shutil.copytree(shop.folder / "store", other.folder / "store", dirs_exist_ok=True)
    other.use(shop.model)
    other.n_runs = 10
    change(shop, 1, 2, 3)
    warm, cold = shop.night(), other.night()
    assert point(warm)[2] == 2
    assert warm.manifest.digest == cold.manifest.digest
    assert warm.manifest.content.calibration == cold.manifest.content.calibration
