"""Candidates become snapshots: once, on the base they were made for, after the gates; by whomever races."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from pipeline.errors import CommitConflict, GateRefused, ObjectMissing, StoreMismatch, UsageError
from pipeline.snapshot.candidates import adopt, candidate, promote
from pipeline.snapshot.contents import snapshot_files
from pipeline.snapshot.gates import Thresholds, judge
from pipeline.snapshot.manifest import Manifest
from pipeline.snapshot.publish import (
    Published,
    keep_candidate,
    newest,
    newest_sequence,
    publish,
    rollback,
    snapshot,
)
from pipeline.storage.local import LocalStore
from tests.support.manifests import content as made_up
from tests.support.manifests import coverage, evidence, manifest

NOW = "2026-11-22T03:00:00+00:00"


def content(store: LocalStore, *names: str, **changes: Any) -> Any:
    """Content whose files are there."""
    made = made_up(*names, **changes)
    for one in snapshot_files(made):
        store.put(one.file.key, bytes(one.file.size_bytes))
    return made


def verdicts(**changes: Any) -> Any:
    return judge(evidence(**changes), Thresholds(), {})


def keep(store: LocalStore, *names: str, run_id: str = "backfill", **changes: Any) -> Manifest:
    """A candidate on top of what stands."""
    parent = newest_sequence(store, "main") or None
    made = manifest(
        content(store, *names), run_id=run_id, **{"gates": verdicts(), "parent": parent, **changes}
    )
    keep_candidate(store, made)
    return made


def promoted(store: LocalStore, run_id: str = "backfill", **overrides: str) -> Published:
    return promote(store, "main", run_id, overrides=overrides, commit_id=f"c {run_id}", created=NOW)


def adopted(store: LocalStore, run_id: str = "flip", **overrides: str) -> Published:
    return adopt(store, "canary", None, "main", overrides=overrides, run_id=run_id, created=NOW)


def publish_in(store: LocalStore, collection: str, *names: str, **changes: Any) -> Manifest:
    made = manifest(
        content(store, *names),
        collection=collection,
        parent=newest_sequence(store, collection) or None,
        run_id=f"{collection} {names}",
        **{"gates": verdicts(), **changes},
    )
    return publish(store, made).manifest


def test_promote_publishes_the_candidate_as_it_is_and_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    made = keep(store, "a")
    assert candidate(store, "main", "backfill") == made
    done = promoted(store)
    assert done.published
    assert (done.manifest.sequence, done.manifest.digest, done.manifest.run_id) == (
        1,
        made.digest,
        "backfill",
    )
    assert done.manifest.created == NOW
    again = promoted(store)
    assert (again.published, again.manifest) == (False, done.manifest)
    publish_in(store, "main", "b")
    assert promoted(store).manifest.sequence == 1  # also when others have published since
    assert newest_sequence(store, "main") == 2


def test_promote_of_an_unknown_run_names_the_candidates(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with pytest.raises(StoreMismatch, match="no candidate of run 'x'") as caught:
        promoted(store, "x")
    assert caught.value.fix == "it has no candidates"
    keep(store, "a", run_id="one")
    with pytest.raises(StoreMismatch) as caught:
        promoted(store, "x")
    assert "one" in caught.value.fix


def test_promote_after_the_collection_moved_on_is_a_conflict_and_takes_nothing_back(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    keep(store, "a")
    tonight = publish_in(store, "main", "b")
    with pytest.raises(CommitConflict, match="at snapshot 1, run backfill planned on top of nothing"):
        promoted(store)
    assert newest(store, "main") == tonight


def test_promote_is_refused_by_a_gate_unless_a_reason_is_given_which_is_recorded(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    keep(store, "a", gates=verdicts(coverage=coverage(embedded=90, rejected=10)))
    with pytest.raises(GateRefused, match="rejected_share"):
        promoted(store)
    with pytest.raises(UsageError, match="no gate 'rejected'"):
        promoted(store, rejected="typo")
    assert newest_sequence(store, "main") == 0
    done = promoted(store, rejected_share="looked at them")
    gate = next(gate for gate in done.manifest.gates if gate.name == "rejected_share")
    assert (gate.passed, gate.override) == (False, "looked at them")


def test_promote_and_adopt_refuse_content_whose_files_are_gone(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    made = keep(store, "a")
    publish_in(store, "canary", "a")
    store.delete(made.content.index_shards[0].codes.key)
    for attempt in (promoted, adopted):
        with pytest.raises(ObjectMissing, match=r"1 of 5 files .*a codes-1"):
            attempt(store)
    assert newest_sequence(store, "main") == 0


def test_promote_raced_by_eight_publishes_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    keep(store, "a")
    start = Barrier(8)

    def publisher(number: int) -> Published:
        start.wait()
        return promote(
            LocalStore(tmp_path), "main", "backfill", overrides={}, commit_id=f"c{number}", created=NOW
        )

    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(publisher, range(8)))
    assert sorted(one.published for one in done) == [False] * 7 + [True]
    assert newest_sequence(store, "main") == 1


def test_two_candidates_of_one_base_race_and_one_wins(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    keep(store, "a", run_id="a")
    keep(store, "b", run_id="b")
    start = Barrier(2)

    def publisher(run_id: str) -> str:
        start.wait()
        try:
            promote(LocalStore(tmp_path), "main", run_id, overrides={}, commit_id=run_id, created=NOW)
        except CommitConflict:
            return "conflict"
        return "published"

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(publisher, "ab")) == ["conflict", "published"]
    assert newest_sequence(store, "main") == 1


def test_adopt_shares_the_files_and_rollback_returns(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    old = publish_in(store, "main", "a", "b")
    publish_in(store, "canary", "x")
    canary = publish_in(store, "canary", "c", "d")
    files = {item.key for item in store.list_objects("files/")}
    done = adopted(store)
    assert done.published
    made = done.manifest
    assert (made.collection, made.sequence, made.parent, made.digest) == ("main", 2, 1, canary.digest)
    assert made.adopted is not None
    assert (made.adopted.collection, made.adopted.sequence) == ("canary", 2)
    assert [part.since for part in made.content.parts] == [2, 2]
    assert {item.key for item in store.list_objects("files/")} == files
    assert not adopted(store, "again").published
    back = rollback(store, "main", 1, reason="worse", run_id="back", created=NOW).manifest
    assert back.digest == old.digest
    with pytest.raises(GateRefused, match="not_rolled_back"):
        adopted(store, "once more")
    assert adopted(store, "once more", not_rolled_back="it was the prices").published


def test_adopt_keeps_the_label_of_the_collection_where_the_other_has_none(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    unlabelled = manifest(made_up("a")).source
    publish_in(store, "main", "a", source=unlabelled.model_copy(update={"label": "identity"}))
    publish_in(store, "canary", "b", source=unlabelled)
    assert adopted(store).manifest.source.label == "identity"
    publish_in(store, "canary", "c", source=unlabelled.model_copy(update={"label": "brand"}))
    assert adopted(store, "again").manifest.source.label == "brand"


def test_adopt_takes_an_earlier_snapshot_where_it_is_named(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first = publish_in(store, "canary", "a")
    publish_in(store, "canary", "b")
    done = adopt(store, "canary", 1, "main", overrides={}, run_id="flip", created=NOW)
    assert done.manifest.digest == first.digest


def test_adopt_is_judged_against_the_collection_it_comes_to(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    publish_in(store, "main", *"abcdefgh")
    publish_in(
        store,
        "canary",
        "x",
        gates=judge(evidence(live_rows=50), Thresholds(), {"shrink": "canary is small"}),
    )
    with pytest.raises(GateRefused, match=r"shrink .*0\.875"):
        adopted(store)
    assert adopted(store, shrink="half the shop closed").published


def test_adopt_of_another_source_is_refused_unless_it_is_meant(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    main = publish_in(store, "main", "a")
    moved = main.source.model_copy(update={"uri": "/hats"})
    publish_in(store, "canary", "b", source=moved)
    with pytest.raises(StoreMismatch, match="'main' is made from /photos, 'canary' from /hats"):
        adopted(store)
    assert newest_sequence(store, "main") == 1
    done = adopt(store, "canary", None, "main", overrides={}, run_id="flip", created=NOW, replace_source=True)
    assert done.manifest.source.uri == "/hats"


def test_adopt_raced_by_nights_loses_none_of_them(tmp_path: Path) -> None:
    """Each publishes something else in ``main``; sequences have no gap and each content stands once."""
    store = LocalStore(tmp_path)
    for name in "abc":
        publish_in(store, f"from-{name}", name)
    start = Barrier(3)

    def flip(name: str) -> int:
        start.wait()
        done = adopt(
            LocalStore(tmp_path), f"from-{name}", None, "main", overrides={}, run_id=name, created=NOW
        )
        assert done.published
        return done.manifest.sequence

    with ThreadPoolExecutor(3) as threads:
        taken = list(threads.map(flip, "abc"))
    assert sorted(taken) == [1, 2, 3]
    history = [snapshot(store, "main", sequence) for sequence in taken]
    assert {one.run_id for one in history} == set("abc")
    assert sorted(one.parent or 0 for one in history) == [0, 1, 2]
