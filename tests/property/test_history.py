"""Random histories of a collection against a plain model of its catalog: search always agrees with it.

Images are added, changed, renamed, spoilt and deleted; snapshots are rolled back, images purged, old
snapshots expired; nights, purges and expiries crash at a write. After each step the store is checked from
outside, too. With ``BITSIEVE_SOAK`` set, other and longer histories each time.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from jobs.purge import Purge, purge
from pipeline.fingerprint import sha256_hex
from pipeline.snapshot.expire import Retention, carry_out, plan_expiry, server_now_s
from pipeline.snapshot.expired import expired_sequences
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.publish import newest, newest_sequence, rollback
from tests.support.ages import let_pass
from tests.support.crashes import Crash, ending_at
from tests.support.invariants import folder_state, violations
from tests.support.nights import Collection, Silence
from tests.support.tally import judged, tally
from tests.support.tiny_catalogs import GARBAGE, jpeg, write_folder

SOAK = "BITSIEVE_SOAK" in os.environ
SETTINGS = {
    "max_reembed": 1,
    "gates": {
        "max_rejected_share": 1.0,
        "max_shrink_share": 1.0,
        "min_variance": 0.0,
        "min_distinct_codes": 0.0,
        "max_bit_imbalance": 0.5,
    },
    "index": {"compact_share": 0.2, "compact_deltas": 2},
}
N_PICTURES = 12
STAY = {"stays-1.jpg": 0, "stays-2.jpg": 1}

Row = tuple[str, str]  # version and sha256 of the bytes whose vector is live
Change = tuple[str, str, int, str]  # kind, id, number of a picture, another id
IDS = ["a.jpg", "b.jpg", "c/d.jpg", "\u00e9.jpg", "e.jpg", "f.jpg"]
some_ids = st.sampled_from(IDS)
some_kinds = st.sampled_from(["put", "put", "spoil", "delete", "rename"])
some_changes = st.lists(st.tuples(some_kinds, some_ids, st.integers(2, N_PICTURES - 1), some_ids), max_size=5)


@cache
def vectors() -> dict[str, npt.NDArray[np.float32]]:
    """The vector of each picture, by the sha256 of its bytes: as embedded in a collection of its own."""
    folder = Path(tempfile.mkdtemp())
    try:
        other = Collection(folder)
        write_folder(other.source, {f"{number}.jpg": jpeg(number) for number in range(N_PICTURES)})
        opened = other.open(other.night())
        return dict(zip(opened.live["content_digest"].to_pylist(), opened.vectors, strict=True))
    finally:
        shutil.rmtree(folder)


@dataclass
class Model:
    """What the catalog holds, what is live, and what has been: dictionaries."""

    listed: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # id: version and bytes
    live: dict[str, Row] = field(default_factory=dict)
    history: list[dict[str, Row]] = field(default_factory=list)
    refused: set[frozenset[tuple[str, str]]] = field(default_factory=set)
    purged: set[str] = field(default_factory=set)

    def tonight(self) -> dict[str, Row]:
        """What is live after a night: new bytes if they are an image, else the old ones, while listed."""
        after = {}
        for image_id, (version, data) in self.listed.items():
            if image_id in self.purged:
                continue
            if data != GARBAGE:
                after[image_id] = (version, sha256_hex(data))
            elif image_id in self.live:
                after[image_id] = self.live[image_id]
        return after

    def published(self, live: dict[str, Row]) -> None:
        self.live = live
        self.history.append(live)

    def rolled_back(self, to: int) -> None:
        """The content of snapshot ``to`` again; what came after it is refused from now on."""
        wanted = self.history[to - 1]
        self.refused |= {rows_of(taken_back) for taken_back in self.history[to:]}
        self.refused -= {rows_of(wanted)}
        self.published(wanted)


def rows_of(live: dict[str, Row]) -> frozenset[tuple[str, str]]:
    """The rows by which a rollback knows a snapshot again."""
    return frozenset((image_id, version) for image_id, (version, _) in live.items())


class History:
    """A collection and its model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shop = Collection(self.folder, settings=SETTINGS)
        self.model = Model()
        self.n_writes = 0
        self.state: dict[str, bytes] = {}
        for image_id, number in STAY.items():
            self.put(image_id, jpeg(number))
        self.night([("put", image_id, 2, "") for image_id in IDS[:4]])

    def put(self, image_id: str, data: bytes) -> None:
        """Each write has a time of change of its own, so that no two files have the same version."""
        path = self.shop.source / image_id
        path.unlink(missing_ok=True)
        write_folder(self.shop.source, {image_id: data})
        self.n_writes += 1
        os.utime(path, (1.7e9 + self.n_writes, 1.7e9 + self.n_writes))
        self.model.listed[image_id] = (f"version {self.n_writes}", data)

    def change(self, changes: list[Change]) -> None:
        """What happens to the catalog in a day."""
        listed, source = self.model.listed, self.shop.source
        for kind, image_id, number, other in changes:
            if kind == "put":
                self.put(image_id, jpeg(number))
            elif kind == "spoil":
                self.put(image_id, GARBAGE)
            elif kind == "delete" and image_id in listed:
                (source / image_id).unlink()
                del listed[image_id]
            elif kind == "rename" and image_id in listed and other not in listed:
                (source / other).parent.mkdir(exist_ok=True)
                (source / image_id).rename(source / other)
                listed[other] = listed.pop(image_id)

    def night(self, changes: list[Change]) -> None:
        self.change(changes)
        after = self.model.tonight()
        night = self.shop.night()
        assert self.shop.run is not None
        event(f"a night ended {self.shop.run.ended}")
        if self.shop.run.compacted is not None:
            event("a night compacted")
        if night.manifest.coverage.stale:
            event("a stale image")
        if night.refused:
            present = newest(self.shop.store, "main")
            assert present is not None
            assert rows_of(after) in self.model.refused or night.manifest.digest in present.refused_digests
        else:
            assert rows_of(after) not in self.model.refused or after == self.model.live
            if night.published:
                self.model.published(after)
            assert after == self.model.live
        self.check()

    def night_that_crashes(self, changes: list[Change], at: int) -> None:
        """A crash after the commit leaves the snapshot; before it, nothing that a reader sees."""
        self.change(changes)
        before = newest_sequence(self.shop.store, "main")
        after = self.model.tonight()
        with suppress(Crash), ending_at(at) as writes:
            self.shop.night()
        if writes.begun >= at:
            event("a night crashed")
            tally.crash_points += 1
        if newest_sequence(self.shop.store, "main") > before:
            self.model.published(after)
        self.check()

    def roll_back(self, choice: int) -> None:
        store = self.shop.store
        gone = expired_sequences(store, "main")
        kept = [number for number in range(1, len(self.model.history)) if number not in gone]
        if kept:
            to = kept[choice % len(kept)]
            self.n_writes += 1
            created = datetime.now(UTC).isoformat()
            rollback(store, "main", to, reason="test", run_id=f"rollback-{self.n_writes}", created=created)
            self.model.rolled_back(to)
            event("rolled back")
        self.check()

    def purge(self, image_id: str, at: int) -> None:
        """Broken off at a write, if it has so many, and given again."""
        if len(self.model.purged) >= 2:
            return
        before = newest_sequence(self.shop.store, "main")
        for crash_at in (at, None):
            self.n_writes += 1
            order = Purge(
                store=self.shop.store,
                ids=(image_id,),
                reason="test",
                run_id=f"purge-{self.n_writes}",
                now=datetime.now(UTC),
                cache=self.folder / "cache",
                progress=Silence(),
            )
            with suppress(Crash), ending_at(crash_at) as writes:
                purge(order)
            if crash_at is not None and writes.begun >= crash_at:
                event("a purge crashed")
                tally.crash_points += 1
            assert violations(folder_state(self.folder / "store")) == []
        self.model.purged.add(image_id)
        if newest_sequence(self.shop.store, "main") > before:
            self.model.published({id_: row for id_, row in self.model.live.items() if id_ != image_id})
        gone = expired_sequences(self.shop.store, "main")
        for sequence, live in enumerate(self.model.history, start=1):
            assert sequence in gone or image_id not in live
        self.check()

    def expire(self, keep_last: int, at: int) -> None:
        """Three times, with time between them, so that condemned files go; the second is broken off."""
        store = self.shop.store
        for crash_at in (None, at, None):
            let_pass(self.folder / "store", 20)
            self.n_writes += 1
            run_id = f"expire-{self.n_writes}"
            retention = Retention(keep_last=keep_last, older_than_s=0, min_age_s=0)
            with suppress(Crash), ending_at(crash_at) as writes:
                expiry = plan_expiry(store, "main", retention, server_now_s(store, run_id))
                carry_out(store, expiry, run_id, when="2026-01-01", reason="test")
            tally.crash_points += crash_at is not None and writes.begun >= crash_at
            assert violations(folder_state(self.folder / "store")) == []
        self.check()

    def check(self) -> None:
        """Search agrees with the model, and the store is sound, now and compared with before."""
        manifest = newest(self.shop.store, "main")
        assert manifest is not None
        assert manifest.sequence == len(self.model.history)
        opened = OpenSnapshot(store=self.shop.store, manifest=manifest, cache=self.folder / "cache")
        digests = opened.live["content_digest"].to_pylist()
        live = dict(zip(opened.live["image_id"].to_pylist(), digests, strict=True))
        assert live == {image_id: digest for image_id, (_, digest) in self.model.live.items()}
        ids = sorted(live, key=str.encode)
        x_ND = np.stack([vectors()[live[image_id]] for image_id in ids]).astype(np.float64)
        for exact in (True, False):
            found = opened.searcher.search(x_ND.astype(np.float32), len(ids), exact=exact)
            for row, x_D in enumerate(x_ND):
                distance_N = ((x_ND - x_D) ** 2).sum(axis=1)
                order = sorted(range(len(ids)), key=lambda place: (distance_N[place], place))
                assert list(found.ids[row]) == [ids[place] for place in order]
                np.testing.assert_allclose(found.distances[row], distance_N[order], atol=1e-6)
        state = folder_state(self.folder / "store")
        assert judged(state, before=self.state) == []
        self.state = state


nights = st.tuples(st.just(History.night), some_changes)
crashes = st.tuples(st.just(History.night_that_crashes), some_changes, st.integers(1, 18))
rollbacks = st.tuples(st.just(History.roll_back), st.integers(0, 10**6))
purges = st.tuples(st.just(History.purge), some_ids, st.integers(1, 10))
expiries = st.tuples(st.just(History.expire), st.integers(1, 3), st.integers(1, 8))
steps = st.one_of(nights, crashes, nights, rollbacks, crashes, purges, nights, expiries)


@pytest.mark.timeout(36_000 if SOAK else 120)
@settings(
    max_examples=300 if SOAK else 10,
    deadline=None,
    derandomize=not SOAK,
    phases=list(Phase) if SOAK else [Phase.generate],  # a failure is made smaller only in a soak
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(steps, min_size=5, max_size=50 if SOAK else 16))
def test_history_any_sequence_of_steps_leaves_what_the_plain_model_holds(
    history: list[tuple[Callable[..., None], Any]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        collection = History(Path(folder))
        for step, *arguments in history:
            step(collection, *arguments)
