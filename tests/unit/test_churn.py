"""The night's report: what changed, and neighbours that are others now."""

from pathlib import Path

import pytest

from tests.support.nights import Collection
from tests.support.tiny_catalogs import GARBAGE, jpeg, write_folder


@pytest.fixture
def shop(tmp_path: Path) -> Collection:
    collection = Collection(tmp_path, settings={"max_reembed": 1, "gates": {"max_rejected_share": 1}})
    write_folder(collection.source, {f"{number:03d}.jpg": jpeg(number) for number in range(40)})
    return collection


def report(shop: Collection) -> dict[str, object]:
    shop.night()
    assert shop.run is not None
    return shop.run.report


def test_report_counts_what_the_night_did(shop: Collection) -> None:
    first = report(shop)
    assert (first["added"], first["changed"], first["neighbour_churn"]) == (40, 0, None)
    write_folder(shop.source, {"a.jpg": jpeg(60), "b.jpg": jpeg(61), "003.jpg": jpeg(63), "004.jpg": GARBAGE})
    (shop.source / "005.jpg").unlink()
    second = report(shop)
    assert {name: second[name] for name in ("added", "changed", "deleted", "stale", "rejected")} == {
        "added": 2, "changed": 1, "deleted": 1, "stale": 1, "rejected": {"unidentified": 1},
    }  # fmt: skip
    third = report(shop)
    assert (third["added"], third["changed"], third["neighbour_churn"]) == (0, 0, None)


def test_report_churn_is_the_share_of_neighbours_that_are_new(shop: Collection) -> None:
    report(shop)
    (shop.source / "000.jpg").unlink()
    one_gone = report(shop)["neighbour_churn"]
    assert isinstance(one_gone, dict)
    assert one_gone["n_probes"] == 39
    opened = shop.open(shop.night())
    ids = opened.live["image_id"].to_pylist()
    assert len(ids) == 39
    assert 0 < one_gone["share"] < 0.1  # where it was among ten, one other takes its place
    write_folder(shop.source, {f"copy {number:03d}.jpg": jpeg(number) + b"x" for number in range(1, 40)})
    copies = report(shop)["neighbour_churn"]
    assert isinstance(copies, dict)
    assert copies["n_probes"] == 39
    assert copies["share"] > 0.4  # every neighbour brings its copy along
