"""Refused images are tried again when somebody asks, once, and counted where they end up."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.cli import run
from pipeline.snapshot.requeue import Request, requests, requeued
from pipeline.values import RejectReason
from tests.support.nights import Collection, live
from tests.support.tiny_catalogs import GARBAGE, jpeg, write_folder

N_GOOD = 24


class Shop(Collection):
    """Photos behind a listing that never says when bytes change, so that only a retry can notice."""

    def prepare(self, bad: dict[str, bytes]) -> None:
        files = {f"{number:03d}.jpg": jpeg(number) for number in range(N_GOOD)}
        write_folder(self.source, files | bad)
        rows = [f"{name},r1" for name in sorted(files | bad)]
        (self.folder / "list.csv").write_text("\n".join(["key,version", *rows, "../out.jpg,r1"]) + "\n")
        self.settings = {
            "source": str(self.folder / "list.csv"),
            "read": {"format": "listing", "root": str(self.source)},
            "gates": {"max_rejected_share": 1.0},
        }

    def rejects(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        assert run(["rejects", "--store", str(self.folder / "store"), "--json", *arguments]) == 0
        result = json.loads(capsys.readouterr().out)
        assert isinstance(result, dict)
        return result


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """24 photos, two files of garbage, an empty one, and a key that leads out."""
    shop = Shop(tmp_path)
    shop.prepare({"bad1.jpg": GARBAGE, "bad2.jpg": GARBAGE + b"2", "empty.jpg": b""})
    return shop


COUNTS = {"empty": 1, "source_not_allowed": 1, "unidentified": 2}


def test_rejects_shows_counts_samples_and_ids(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.night()
    result = shop.rejects(capsys, "--reason", "unidentified")
    assert (result["snapshot"], result["rejected"]) == (1, COUNTS)
    assert result["ids"] == ["bad1.jpg", "bad2.jpg"]
    assert [sample["image_id"] for sample in result["samples"]["unidentified"]] == ["bad1.jpg", "bad2.jpg"]
    everything = shop.rejects(capsys)
    assert {reason: len(rows) for reason, rows in everything["samples"].items()} == COUNTS
    assert everything["samples"]["source_not_allowed"][0]["locator"] == "../out.jpg"


def test_requeued_image_that_can_be_read_now_gets_its_vector(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    first = shop.night()
    write_folder(shop.source, {"bad1.jpg": jpeg(100)})
    assert not shop.night().published, "nobody asked"
    assert shop.rejects(capsys, "--requeue", "unidentified")["requeued"] == {"unidentified": 2}
    second = shop.night()
    assert second.manifest.coverage.model_dump() == {
        "listed": 28, "embedded": 1, "reused": 24, "stale": 0, "rejected": 3, "set_aside": 0, "deleted": 0,
    }  # fmt: skip
    assert second.manifest.content.rejected == COUNTS | {"unidentified": 1}
    assert live(shop, second).keys() - live(shop, first).keys() == {"bad1.jpg"}
    keys = [part.key for part in second.manifest.content.parts]
    assert len(keys) == len(set(keys)) == 2
    assert shop.rejects(capsys, "--reason", "unidentified")["ids"] == ["bad2.jpg"]
    third = shop.night()
    assert not third.published
    assert shop.pool.n_tasks == [], "the request is fulfilled"


def test_requeued_image_that_is_refused_again_is_counted_once(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.night()
    shop.rejects(capsys, "--requeue", "unidentified", "--requeue", "empty")
    again = shop.night()
    assert shop.pool.n_tasks[:1] == [2], "one image shard for each request"
    assert again.manifest.content.rejected == COUNTS
    assert again.manifest.coverage.rejected == 4
    assert not shop.night().published
    assert shop.pool.n_tasks == []
    assert shop.rejects(capsys, "--requeue", "empty")["rejected"] == COUNTS
    shop.night()
    assert shop.pool.n_tasks == [1], "asked again, tried again"


def test_request_outlives_a_run_that_a_gate_refused(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.night()
    write_folder(shop.source, {"bad1.jpg": jpeg(100)})
    shop.rejects(capsys, "--requeue", "unidentified")
    assert shop.night(gates={"max_rejected_share": 0.01}).refused
    night = shop.night()
    assert night.published
    assert "bad1.jpg" in live(shop, night)
    assert shop.pool.n_tasks == [], "the refused run's work was found"


def test_requeue_of_what_the_listing_refused_asks_for_nothing(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.night()
    result = shop.rejects(capsys, "--requeue", "source_not_allowed", "--requeue", "corrupt")
    assert result["requeued"] == {"source_not_allowed": 0, "corrupt": 0}
    assert requests(shop.store, "main") == []


def test_requeue_of_an_unknown_reason_names_the_known_ones(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.night()
    store = str(shop.folder / "store")
    assert run(["rejects", "--store", store, "--json", "--requeue", "bad_luck"]) == 2
    assert "decode_timeout" in json.loads(capsys.readouterr().out)["error"]["fix"]


def test_rejects_for_people_are_lines(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.night()
    capsys.readouterr()
    assert run(["rejects", "--store", str(shop.folder / "store")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "snapshot 1 of main refused 4 images"
    assert lines[1].split() == ["2", "unidentified"]
    assert run(["rejects", "--store", str(shop.folder / "store"), "--reason", "empty"]) == 0
    assert capsys.readouterr().out == "empty.jpg\n"


def test_request_speaks_of_the_newest_refusal_up_to_its_snapshot() -> None:
    rows = [("a", 1, "empty"), ("b", 1, "empty"), ("b", 3, "corrupt"), ("c", 4, "empty"), ("d", 1, "corrupt")]
    names = ("image_id", "since", "reason")
    columns = dict(zip(names, (list(column) for column in zip(*rows, strict=True)), strict=True))
    refused = pa.table({**columns, "version": ["v"] * len(rows)})
    asked = [
        Request(name="1-empty-x", snapshot=3, reason=RejectReason.EMPTY),
        Request(name="2-empty-y", snapshot=2, reason=RejectReason.EMPTY),
        Request(name="3-corrupt-z", snapshot=2, reason=RejectReason.CORRUPT),
    ]
    found = {row["key"]: row["request"] for row in requeued(refused, asked).to_pylist()}
    assert found == {"a\0v": "1-empty-x 2-empty-y ", "d\0v": "3-corrupt-z "}
