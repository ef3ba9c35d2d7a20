"""A purged image is in no answer at once, in no file a day later, and does not come back unasked."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import run
from pipeline.catalog.change_list import read_changes
from pipeline.snapshot.expire import Retention, carry_out, plan_expiry, server_now_s
from pipeline.snapshot.publish import newest_sequence, snapshot
from pipeline.snapshot.purge import not_purged, remember
from pipeline.storage.local import LocalStore
from tests.support.ages import let_pass
from tests.support.nights import Collection, live
from tests.support.tiny_catalogs import GARBAGE, jpeg, tar_of, write_folder, write_tar

SECRET = "secret-person.jpg"


@pytest.fixture
def shop(tmp_path: Path) -> Collection:
    """Three nights; the image is in all of them, with other bytes in the last."""
    settings = {"gates": {"max_rejected_share": 1.0}, "max_reembed": 1, "collection": "main"}
    shop = Collection(tmp_path, settings=settings)
    write_folder(shop.source, {f"{number}.jpg": jpeg(number) for number in range(6)})
    write_folder(shop.source, {SECRET: jpeg(77), "bad.jpg": GARBAGE})
    shop.night()
    write_folder(shop.source, {"6.jpg": jpeg(6)})
    shop.night()
    write_folder(shop.source, {SECRET: jpeg(78)})
    shop.night()
    let_pass(tmp_path / "store", 20)
    return shop


def test_catalog_of_any_length_lists_no_purged_image(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    ids = [f"{number}.jpg" for number in range(70_000)]
    remember(store, "main", [ids[1], ids[-1]], when="today", reason="asked")
    assert not_purged(store, pa.table({"image_id": ids}))["image_id"].to_pylist() == [ids[0], *ids[2:-1]]


def purge(shop: Collection, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["purge", *arguments, "--store", shop.store.uri, "--reason", "asked for", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert isinstance(result, dict)
    return result


def verified(shop: Collection, capsys: pytest.CaptureFixture[str]) -> list[int]:
    capsys.readouterr()
    code = run(["verify", "--store", shop.store.uri, "--all", "--json", "--sample", "0"])
    result = json.loads(capsys.readouterr().out)
    assert code == 0, result
    found: list[int] = result["snapshots"]
    return found


def a_day_later(shop: Collection) -> None:
    let_pass(shop.folder / "store", 1.1)
    now_s = server_now_s(shop.store, "clock")
    expiry = plan_expiry(shop.store, "main", Retention(keep_last=99, older_than_s=0), now_s)
    carry_out(shop.store, expiry, f"expire-{now_s}", when="now", reason="old")


def traces(shop: Collection, needles: list[bytes]) -> set[str]:
    """Files that hold one of the needles, as bytes or inside a table."""
    found = set()
    for path in (shop.folder / "store").rglob("*"):
        if not path.is_file():
            continue
        haystack = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path).combine_chunks()
            haystack += b"".join(
                bytes(buffer)
                for column in table.columns
                for chunk in column.chunks
                for buffer in (*chunk.buffers(), *_inner(chunk))
                if buffer is not None
            )
        if any(needle in haystack for needle in needles):
            found.add(str(path.relative_to(shop.folder / "store")))
    return found


def _inner(chunk: Any) -> list[Any]:
    return chunk.flatten().buffers() if pa.types.is_fixed_size_list(chunk.type) else []


def vectors_of(shop: Collection, image_id: str) -> list[bytes]:
    """The stored bytes of the image's vectors in all parts."""
    found = []
    for path in (shop.folder / "store/embeddings").rglob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            if row["image_id"] == image_id:
                found.append(np.array(row["embedding"], dtype=np.float32).tobytes())
    return found


def test_purge_then_expire_leave_no_byte_of_the_image(
    shop: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    needles = [SECRET.encode(), *vectors_of(shop, SECRET)]
    assert len(needles) == 3
    kinds = {key.partition("/")[0] for key in traces(shop, needles)}
    assert kinds >= {"embeddings", "attributes", "index"}
    others = live(shop, shop.night())
    let_pass(shop.folder / "store", 20)
    result = purge(shop, capsys, SECRET)
    assert result["collections"] == {"main": {"snapshot": 4, "removed": 1}}
    assert result["expired"] == [["main", 1], ["main", 2], ["main", 3]]
    assert set(result["files"]) >= traces(shop, needles), "it says what still holds it"
    assert verified(shop, capsys) == [4]
    night = shop.night()
    assert not night.published
    assert SECRET not in live(shop, night)
    assert live(shop, night) == {name: sha for name, sha in others.items() if name != SECRET}
    assert night.manifest.content.rejected == {"unidentified": 1}
    a_day_later(shop)
    assert traces(shop, needles) == set()
    assert verified(shop, capsys) == [4]
    assert not shop.night().published


def test_purged_image_comes_back_only_when_it_is_forgotten(
    shop: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    purge(shop, capsys, SECRET)
    write_folder(shop.source, {SECRET: jpeg(79), "7.jpg": jpeg(7)})
    night = shop.night()
    assert night.published
    assert SECRET not in live(shop, night)
    assert night.manifest.coverage.listed == 9, "it is not counted: 8 images and a reject"
    (shop.folder / "changes.csv").write_text(f"key\n{SECRET}\n7.jpg\n")
    shop.changes = read_changes(shop.folder / "changes.csv")
    assert SECRET not in live(shop, shop.night()), "nor by a change list"
    shop.changes = None
    assert SECRET not in live(shop, shop.night(collection="younger")), "which could be published in main"
    result = purge(shop, capsys, SECRET, "--forget")
    assert result["collections"]["main"] == {"snapshot": None, "removed": 0}
    assert SECRET in live(shop, shop.night())


def test_purge_of_a_rejected_image_and_of_one_in_a_tar(
    shop: Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    purge(shop, capsys, "bad.jpg", "0.jpg")
    content = snapshot(shop.store, "main").content
    assert (content.rejected, content.live_rows) == ({}, 7)
    a_day_later(shop)
    assert traces(shop, [b"bad.jpg", b"0.jpg"]) == set()
    assert verified(shop, capsys) == [4]
    tars = Collection(tmp_path / "tars")
    write_tar(tars.source / "a.tar", [*tar_of(*range(5)), ("person-x.jpg", jpeg(90))])
    tars.night()
    let_pass(tars.folder / "store", 20)
    purge(tars, capsys, "person-x")
    a_day_later(tars)
    assert traces(tars, [b"person-x"]) == set(), "nor in the listing of the tar"


def test_purge_of_several_collections_deletes_candidates_that_hold_it(
    shop: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.night(collection="other")
    write_folder(shop.source, {"8.jpg": jpeg(8)})
    refused = shop.night(gates={"max_rejected_share": 0.0})
    result = purge(shop, capsys, SECRET)
    assert {name: found["snapshot"] for name, found in result["collections"].items()} == {
        "main": 4,
        "other": 2,
    }
    assert result["candidates"] == [refused.candidate_key]
    let_pass(shop.folder / "store", 20)
    a_day_later(shop)
    assert traces(shop, [SECRET.encode()]) == set()


def test_purge_of_an_unknown_image_publishes_nothing_and_remembers(
    shop: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    result = purge(shop, capsys, "nobody.jpg")
    assert (result["files"], result["expired"], result["unknown"]) == ([], [], ["nobody.jpg"])
    assert purge(shop, capsys, SECRET, "nobody.jpg")["unknown"] == ["nobody.jpg"]
    assert run(["purge", "nobody.jpg", "--store", shop.store.uri, "--reason", "asked for"]) == 0
    assert "no file of this store holds nobody.jpg" in capsys.readouterr().out
    assert newest_sequence(shop.store, "main") == 4
    write_folder(shop.source, {"nobody.jpg": jpeg(50)})
    assert "nobody.jpg" not in live(shop, shop.night())
    capsys.readouterr()
    assert run(["explain", "nobody.jpg", "--store", shop.store.uri]) == 0
    assert "it was purged" in capsys.readouterr().out
    assert run(["purge", "x", "--store", shop.store.uri, "--reason", " "]) == 2
