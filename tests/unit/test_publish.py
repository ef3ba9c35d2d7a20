"""Publication and rollback: the next sequence exactly once, whoever races and whatever the hint says."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from pipeline.errors import CommitConflict, StoreMismatch, UsageError
from pipeline.snapshot.manifest import Manifest
from pipeline.snapshot.publish import keep_candidate, newest, newest_sequence, publish, rollback, snapshot
from pipeline.storage import layout
from pipeline.storage.local import LocalStore
from tests.support.manifests import content, manifest


def publish_many(store: LocalStore, *names: str) -> list[Manifest]:
    """Snapshots with one part each, on top of what is there."""
    made = []
    for name in names:
        parent = newest_sequence(store, "main") or None
        made.append(publish(store, manifest(content(name), parent=parent, run_id=f"run {name}")).manifest)
    return made


def test_publish_takes_the_next_sequence(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert newest(store, "main") is None
    first, second = publish_many(store, "a", "b")
    assert (first.sequence, first.parent) == (1, None)
    assert (second.sequence, second.parent) == (2, 1)
    assert newest(store, "main") == second
    assert snapshot(store, "main", 1) == first
    assert snapshot(store, "main") == second
    assert store.get(layout.latest("main")) == b"2"


def test_publish_same_digest_again_is_not_published(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first = publish(store, manifest(content("a"), run_id="one"))
    again = publish(store, manifest(content("a", attempt="2"), run_id="two"))
    assert first.published
    assert not again.published
    assert again.manifest == first.manifest
    assert newest_sequence(store, "main") == 1


def test_publish_other_content_first_is_a_conflict_that_names_the_winner(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    publish(store, manifest(content("a"), run_id="winner"))
    with pytest.raises(CommitConflict, match="winner"):
        publish(store, manifest(content("b"), run_id="loser"))
    assert [part.key for part in snapshot(store, "main").content.parts] == ["a"]


def test_publish_same_run_again_after_a_crash_is_its_own_success(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    candidate = manifest(content("a"), run_id="one")
    assert publish(store, candidate).published
    assert publish(store, candidate).published
    assert newest_sequence(store, "main") == 1


def test_publish_race_each_sequence_has_one_winner_and_none_is_skipped(tmp_path: Path) -> None:
    """Every thread wants its own content in; losers plan again on top, as a run does."""
    n_threads, n_each = 8, 4
    start = Barrier(n_threads)

    def writer(number: int) -> list[int]:
        store = LocalStore(tmp_path)
        start.wait()
        taken = []
        for turn in range(n_each):
            while True:
                parent = newest_sequence(store, "main") or None
                try:
                    done = publish(store, manifest(content(f"{number}/{turn}"), parent=parent))
                except CommitConflict:
                    continue
                assert done.published
                taken.append(done.manifest.sequence)
                break
        return taken

    with ThreadPoolExecutor(n_threads) as threads:
        taken = [sequence for found in threads.map(writer, range(n_threads)) for sequence in found]
    assert sorted(taken) == list(range(1, n_threads * n_each + 1))
    store = LocalStore(tmp_path)
    history = [snapshot(store, "main", sequence) for sequence in range(1, len(taken) + 1)]
    assert [one.sequence for one in history] == sorted(taken)
    assert [one.parent for one in history] == [None, *range(1, len(taken))]
    assert len({one.digest for one in history}) == len(taken)


def test_publish_race_with_one_content_is_published_once(tmp_path: Path) -> None:
    start = Barrier(8)

    def writer(number: int) -> bool:
        start.wait()
        return publish(LocalStore(tmp_path), manifest(content("a"), run_id=f"run {number}")).published

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(writer, range(8))) == [False] * 7 + [True]
    assert newest_sequence(LocalStore(tmp_path), "main") == 1


@pytest.mark.parametrize(
    "hint",
    [
        None,
        b"",
        b"1",
        b"3",
        b"7",
        b"8",
        b"9",
        b"1000000",
        b"-1",
        b"0",
        b"9" * 500,
        b"seven",
        b"\xff",
        b"7.0",
        b"\0",
    ],
)
def test_newest_sequence_is_found_whatever_the_hint_says(hint: bytes | None, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    publish_many(store, *"abcdefg")
    if hint is None:
        store.delete(layout.latest("main"))
    else:
        store.put(layout.latest("main"), hint)
    assert newest_sequence(store, "main") == 7
    assert newest_sequence(store, "other") == 0


def test_snapshot_that_does_not_exist_says_which_do(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with pytest.raises(StoreMismatch, match="no snapshot yet"):
        snapshot(store, "main")
    publish_many(store, "a", "b")
    for sequence in (0, 3, -1):
        with pytest.raises(StoreMismatch, match=rf"1 to 2, not {sequence}"):
            snapshot(store, "main", sequence)


def test_collections_have_sequences_of_their_own(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    publish_many(store, "a", "b")
    canary = publish(store, manifest(content("c"), collection="canary"))
    assert canary.manifest.sequence == 1
    assert newest_sequence(store, "main") == 2


def back(store: LocalStore, to: int, run_id: str = "back") -> Manifest:
    return rollback(store, "main", to, reason="bad", run_id=run_id, created="later").manifest


def test_rollback_publishes_the_old_content_as_the_next_snapshot(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first, second, third = publish_many(store, "a", "b", "c")
    made = back(store, 1)
    assert newest(store, "main") == made
    assert (made.sequence, made.parent, made.content, made.digest) == (4, 3, first.content, first.digest)
    assert made.rollback is not None
    assert (made.rollback.content_of, made.rollback.taken_back, made.rollback.reason) == (1, [2, 3], "bad")
    assert made.refused_digests == sorted([second.digest, third.digest])
    assert snapshot(store, "main", 3) == third


def test_rollback_forward_again_lifts_the_refusal_of_what_it_restores(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first, second = publish_many(store, "a", "b")
    assert back(store, 1, "one").refused_digests == [second.digest]
    forward = back(store, 2, "two")
    assert forward.digest == second.digest
    assert forward.refused_digests == [first.digest]


def test_rollback_to_the_newest_or_to_none_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    publish_many(store, "a", "b")
    with pytest.raises(UsageError, match="newest already"):
        back(store, 2)
    with pytest.raises(StoreMismatch):
        back(store, 3)
    assert newest_sequence(store, "main") == 2


def test_candidate_is_kept_beside_the_snapshots(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    publish_many(store, "a")
    key = keep_candidate(store, manifest(content("b"), parent=1, run_id="refused"))
    assert store.stat(key) is not None
    assert newest_sequence(store, "main") == 1
