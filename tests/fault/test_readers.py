"""Readers take no lock: while nights publish and snapshots expire, each answer is of one whole snapshot."""

import threading
from pathlib import Path

import pytest

from pipeline.errors import BitsieveError, ObjectMissing, StoreMismatch
from pipeline.snapshot.expire import Retention, carry_out, plan_expiry, server_now_s
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.publish import snapshot
from tests.support.ages import let_pass
from tests.support.nights import Collection
from tests.support.tally import tally
from tests.support.tiny_catalogs import jpeg, write_folder

pytestmark = [pytest.mark.fault, pytest.mark.timeout(120)]
N_READERS, N_NIGHTS = 4, 6


def test_readers_beside_nights_and_expiry_see_whole_snapshots_or_are_told_what_is_gone(
    tmp_path: Path,
) -> None:
    collection = Collection(tmp_path, settings={"max_reembed": 1})
    live: dict[int, set[str]] = {}

    def night(number: int) -> None:
        (collection.source / f"{number - 1}.jpg").unlink(missing_ok=True)
        write_folder(collection.source, {f"{number}.jpg": jpeg(number), "stays.jpg": jpeg(99)})
        live[number] = {f"{number}.jpg", "stays.jpg"}
        collection.night(gates={"max_shrink_share": 1.0})

    done = threading.Event()
    answers: list[tuple[int, set[str]]] = []
    told: list[BitsieveError] = []
    others: list[BaseException] = []

    def read(sequence: int | None) -> None:
        while not done.is_set():
            try:
                manifest = snapshot(collection.store, "main", sequence)
                opened = OpenSnapshot(store=collection.store, manifest=manifest, cache=tmp_path / "cache")
                found = opened.searcher.search(opened.vectors[:1], 5, exact=True)
                answers.append((manifest.sequence, set(found.ids[0])))
            except (ObjectMissing, StoreMismatch) as exc:
                told.append(exc)
            except BaseException as exc:
                others.append(exc)
                return

    night(1)
    readers = [threading.Thread(target=read, args=(None if number else 1,)) for number in range(N_READERS)]
    for reader in readers:
        reader.start()
    for number in range(2, N_NIGHTS + 1):
        night(number)
        let_pass(collection.folder / "store", 20)
        run_id = f"expire-{number}"
        retention = Retention(keep_last=1, older_than_s=0, min_age_s=0)
        expiry = plan_expiry(collection.store, "main", retention, server_now_s(collection.store, run_id))
        carry_out(collection.store, expiry, run_id, when="2026-01-01", reason="test")
        tally.faults["expiry under readers"] += 1
    done.set()
    for reader in readers:
        reader.join()
    assert others == []
    assert all(found == live[sequence] for sequence, found in answers)
    assert len({sequence for sequence, _ in answers}) >= 2
    assert all("expired" in exc.message or "does not exist" in exc.message for exc in told)
    assert any("expired" in exc.message for exc in told)  # the reader of snapshot 1
