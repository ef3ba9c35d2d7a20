"""What is retained stays whole whatever expires; what nobody reaches goes, a day after its receipt."""

import json
import os
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import run
from pipeline.errors import DataCorrupt, StoreMismatch
from pipeline.snapshot.expire import DAY_S, Retention, carry_out, plan_expiry, server_now_s
from pipeline.snapshot.expired import expired_sequences
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.publish import manifest_of, newest_sequence, rollback, snapshot
from pipeline.snapshot.verify import verify
from pipeline.storage import layout
from pipeline.storage.local import TEMPORARY, LocalStore
from pipeline.storage.receipts import Receipt, upload, write_receipt
from tests.support.ages import let_pass
from tests.support.nights import Collection, Silence
from tests.support.tiny_catalogs import GARBAGE, jpeg, tar_of, write_folder, write_tar


@pytest.fixture
def shop(tmp_path: Path) -> Collection:
    """Four nights, ten days apart; each changes the images anew, so that it has parts of its own."""
    shop = Collection(tmp_path, settings={"max_reembed": 1, "gates": {"max_shrink_share": 1.0}})
    for night in range(4):
        write_folder(shop.source, {f"{number}.jpg": jpeg(100 * night + number) for number in range(3)})
        shop.night(index={"refit": True})
        end(shop)
        let_pass(shop.folder / "store", 10)
    return shop


def end(shop: Collection) -> None:
    """The last run says how it ended, as a command does."""
    assert shop.run is not None
    shop.store.put(layout.run_progress(shop.run.run_id), b'{"ended": "published"}')


def expire(shop: Collection, **changes: Any) -> None:
    """Looks and deletes, as the command does."""
    plan_and_delete(shop.store, Retention(**({"keep_last": 1, "older_than_s": 25 * DAY_S} | changes)))


def plan_and_delete(store: LocalStore, retention: Retention) -> None:
    run_id = f"expire-{random.randrange(2**40):x}"
    now_s = server_now_s(store, run_id)
    expiry = plan_expiry(store, "main", retention, now_s)
    carry_out(store, expiry, run_id, when="2026-01-01", reason="old")


def sound(shop: Collection, *sequences: int) -> None:
    manifests = [manifest_of(shop.store, "main", sequence) for sequence in sequences]
    assert verify(shop.store, manifests, shop.folder / "cache", Silence()).findings == ()


def data_files(shop: Collection) -> set[str]:
    return {key for key in shop.files() if not key.startswith(("collections/", "condemned/", "format"))}


def test_expired_files_go_a_day_after_their_receipts_and_what_is_retained_verifies(shop: Collection) -> None:
    sound(shop, 1, 2, 3, 4)
    before = data_files(shop)
    expire(shop)
    gone = before - data_files(shop)
    assert gone
    assert all(key.startswith("receipts/") for key in gone), "the receipts first"
    sound(shop, 3, 4)
    expire(shop)
    assert data_files(shop) == before - gone, "not yet"
    let_pass(shop.folder / "store", 1.1)
    expire(shop)
    left = data_files(shop)
    assert any(key.startswith("index/") for key in before - left)
    assert not any(key.startswith("condemned/") for key in shop.files())
    sound(shop, 3, 4)
    first = manifest_of(shop.store, "main", 1)
    assert not (Path(shop.store.uri) / first.content.index_shards[0].codes.key).exists()
    night = shop.night()
    assert not night.published
    expire(shop)
    assert data_files(shop) == left, "nothing more to do"


def test_expired_snapshot_stays_listed_and_says_so_when_it_is_opened(
    shop: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    expire(shop)
    assert newest_sequence(shop.store, "main") == 4
    with pytest.raises(StoreMismatch, match="snapshot 1 of 'main' expired on 2026-01-01: old"):
        snapshot(shop.store, "main", 1)
    with pytest.raises(StoreMismatch, match="expired"):
        rollback(shop.store, "main", 1, reason="x", run_id="r", created="2026-01-01T00:00:00+00:00")
    assert run(["snapshots", "list", "--store", shop.store.uri, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["snapshots"]
    assert [(row["snapshot"], row["expired"]) for row in rows] == [
        (4, False),
        (3, False),
        (2, True),
        (1, True),
    ]
    assert run(["verify", "--store", shop.store.uri, "--all", "--json", "--sample", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["snapshots"] == [3, 4]
    assert run(["verify", "--store", shop.store.uri, "--snapshot", "1"]) == 2


def test_dry_run_changes_nothing_and_says_what_would_go(
    shop: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shop.files()
    arguments = ["expire", "--store", shop.store.uri, "--keep-last", "1", "--older-than", "25"]
    assert run([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["snapshots"] == [["main", 1], ["main", 2]]
    assert not result["deleted"]
    assert result["condemned"]
    assert result["receipts"]
    assert shop.files() == before
    assert run([*arguments, "--delete", "--json"]) == 0
    assert not set(result["receipts"]) & shop.files()
    assert run(arguments) == 0
    assert "--delete does it" in capsys.readouterr().out


def test_nothing_younger_than_the_guard_is_condemned(shop: Collection) -> None:
    for path in (shop.folder / "store/embeddings").rglob("*.parquet"):
        os.utime(path)
    for path in (shop.folder / "store/receipts/embed").iterdir():
        os.utime(path)
    before = data_files(shop)
    expire(shop)
    let_pass(shop.folder / "store", 1.1)
    expire(shop)
    assert not any(key.startswith(("embeddings/", "receipts/embed/")) for key in before - data_files(shop))


def test_unreadable_manifest_receipt_or_gap_stops_everything(shop: Collection) -> None:
    root = Path(shop.store.uri)
    damaged = [layout.snapshot("main", 2), next(key for key in shop.files() if key.startswith("receipts/"))]
    for key in damaged:
        whole, before = (root / key).read_bytes(), shop.files()
        (root / key).write_bytes(whole[:-9])
        with pytest.raises(DataCorrupt):
            expire(shop)
        assert shop.files() == before
        (root / key).write_bytes(whole)
    (root / layout.snapshot("main", 2)).unlink()
    with pytest.raises(DataCorrupt, match=r"snapshot 2 of 'main' .* is missing; nothing was deleted"):
        expire(shop)


def test_candidates_and_other_collections_are_reached(shop: Collection) -> None:
    write_folder(shop.source, {f"{number}.jpg": jpeg(900 + number) for number in range(3)})
    write_folder(shop.source, {"bad.jpg": GARBAGE})
    refused = shop.night(gates={"max_rejected_share": 0.0})
    assert refused.candidate_key is not None
    (shop.source / "bad.jpg").unlink()
    shop.night(collection="other")
    let_pass(shop.folder / "store", 60)
    for _ in range(2):
        expire(shop)
        let_pass(shop.folder / "store", 1.1)
    manifests = [refused.manifest, snapshot(shop.store, "other")]
    assert verify(shop.store, manifests, shop.folder / "cache", Silence()).findings == ()


def test_candidate_that_its_collection_has_left_behind_goes_and_one_that_may_be_published_stays(
    shop: Collection,
) -> None:
    write_folder(shop.source, {"bad.jpg": GARBAGE})
    refused = [shop.night(gates={"max_rejected_share": 0.0}).candidate_key]
    (shop.source / "bad.jpg").unlink()
    write_folder(shop.source, {"9.jpg": jpeg(900)})
    assert shop.night().published
    end(shop)
    write_folder(shop.source, {"worse.jpg": GARBAGE})
    refused.append(shop.night(gates={"max_rejected_share": 0.0}).candidate_key)
    end(shop)
    shop.store.put(layout.run_progress("run-005"), b'{"ended": "refused"}')
    let_pass(shop.folder / "store", 20)
    expire(shop)
    assert [shop.store.stat(key) is not None for key in refused if key] == [True, True]
    let_pass(shop.folder / "store", 20)
    expire(shop)
    assert [shop.store.stat(key) is not None for key in refused if key] == [False, True]
    let_pass(shop.folder / "store", 1.1)
    expire(shop)
    sound(shop, 5)


def test_listing_of_a_tar_goes_when_a_newer_one_has_followed_it(tmp_path: Path) -> None:
    shop = Collection(tmp_path, settings={"max_reembed": 1, "gates": {"max_shrink_share": 1.0}})

    def listings() -> int:
        return len([key for key in data_files(shop) if key.startswith("listings/")])

    for night in range(3):
        write_tar(shop.source / "a.tar", tar_of(1, 2, 3 + night))
        write_tar(shop.source / "b.tar", tar_of(*range(10, 14 + night)) if night == 1 else tar_of(10))
        shop.night()
        end(shop)
        let_pass(shop.folder / "store", 8)
    counts = []
    for _ in range(2):
        expire(shop, keep_last=9)
        counts.append(listings())
        let_pass(shop.folder / "store", 1.1)
    assert counts[0] >= 5
    expire(shop, keep_last=9)
    assert listings() == 2
    again = shop.night()
    assert (again.published, shop.run.bytes_read if shop.run else None) == (False, 0)


def test_run_at_work_keeps_everything_and_one_that_froze_keeps_what_it_may_have_read(
    shop: Collection,
) -> None:
    root, before = Path(shop.store.uri), data_files(shop)
    shop.store.put(layout.run_plan("live"), b"{}")
    expire(shop)
    assert data_files(shop) == before
    let_pass(root, 1.5)  # it is silent: receipts may go, the files that it may have read about stay
    expire(shop)
    left = data_files(shop)
    assert left < before
    let_pass(root, 1.5)
    expire(shop)
    assert data_files(shop) == left
    shop.store.put(layout.run_progress("live"), b'{"ended": "published"}')
    let_pass(root, 1.5)
    expire(shop)
    assert data_files(shop) < left


def test_file_condemned_and_reached_again_stays(shop: Collection) -> None:
    expire(shop, keep_last=1, older_than_s=5 * DAY_S)
    for sequence in (1, 2, 3):  # somebody keeps it after all
        shop.store.delete(layout.expiration("main", sequence))
    let_pass(shop.folder / "store", 1.5)
    plan_and_delete(shop.store, Retention(keep_last=9, older_than_s=0))
    for sequence in (1, 2, 3):
        manifest = manifest_of(shop.store, "main", sequence)
        opened = OpenSnapshot(store=shop.store, manifest=manifest, cache=shop.folder / "cache")
        assert opened.searcher.n_live == 3


def test_orphans_and_leftovers_of_killed_writers_go(shop: Collection) -> None:
    store = shop.store
    orphan = upload(store, "embeddings", "a" * 64, ".parquet", b"half a part")
    work = upload(store, "embeddings", "b" * 64, ".parquet", b"of a backfill")
    write_receipt(store, Receipt(stage="embed", key="b" * 64, files={"embeddings": work}))
    aside = Path(store.uri) / TEMPORARY / "0123"
    aside.write_bytes(b"half")
    store.put(f"{layout.probe('p')}race", b"")
    let_pass(Path(store.uri), 8)
    store.put(f"{layout.probe('young')}race", b"")
    expire(shop)
    let_pass(Path(store.uri), 1.1)
    expire(shop)
    assert store.stat(orphan.key) is None
    assert store.stat(work.key) is not None, "a backfill may go on"
    assert not aside.exists()
    assert [stat.key for stat in store.list_objects(layout.PROBES)] == ["probe/young/race"]
    let_pass(Path(store.uri), 30)
    expire(shop)
    let_pass(Path(store.uri), 1.1)
    expire(shop)
    assert store.stat(work.key) is None
    assert not list(store.list_objects(layout.RUNS))


class DyingStore(LocalStore):
    """Dies after so many deletions."""

    left = 0

    def delete(self, key: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        super().delete(key)


def test_random_histories_leave_what_is_retained_whole(tmp_path: Path) -> None:
    """Invariant I10, with expiry broken off after any number of deletions."""
    rng = random.Random(5)
    shop = Collection(tmp_path, settings={"max_reembed": 1, "gates": {"max_shrink_share": 1.0}})
    write_folder(shop.source, {"always.jpg": jpeg(99)})
    for _ in range(8):
        for _ in range(rng.randrange(3)):
            write_folder(shop.source, {f"{rng.randrange(4)}.jpg": jpeg(rng.randrange(12))})
        shop.night()
        end(shop)
        let_pass(shop.folder / "store", rng.choice([0.5, 3, 20]))
        dying = DyingStore(shop.store.uri)
        dying.left = rng.randrange(1, 12)
        retention = Retention(
            keep_last=rng.randrange(1, 4), older_than_s=rng.choice([0, 10]) * DAY_S, min_age_s=0
        )
        with suppress(KeyboardInterrupt):
            plan_and_delete(dying, retention)
        every = set(range(1, newest_sequence(shop.store, "main") + 1))
        retained = sorted(every - expired_sequences(shop.store, "main"))
        assert retained
        sound(shop, *retained)
