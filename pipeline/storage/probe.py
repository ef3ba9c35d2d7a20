"""Prepares a store for writers: proves, once, that it keeps the promises that commits rest on.

Some services that speak S3 ignore ``If-None-Match`` or check it without a lock; two publishers would then
both win. So the first writer of a store races with itself before it writes anything else. Steps of
``prepare_store``:

1. ``format.json`` is there: check that its layout is one we know; done.
2. It is absent and something else is there: this is somebody else's folder; refuse.
3. The store is empty: race creates, try to overwrite by create, read and list what was written, read the
   clock.
4. Create ``format.json`` with what was found. Whoever comes second finds the first one's.
"""

import json
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from threading import Barrier

from pipeline.errors import DataCorrupt, ObjectMissing, StoreMismatch
from pipeline.fingerprint import canonical_json
from pipeline.storage import layout
from pipeline.storage.commit import commit
from pipeline.storage.store import ObjectStore

_WRITERS = 8
_ROUNDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a store was found to do. ``clock_skew_s``: its clock minus this machine's."""

    one_winner: bool
    keeps_first: bool
    reads_own_writes: bool
    lists_own_writes: bool
    clock_skew_s: float

    @property
    def failures(self) -> list[str]:
        """The promises the store does not keep, in words."""
        promises = {
            "of racing creates of one key exactly one wins": self.one_winner,
            "a create does not overwrite": self.keeps_first,
            "what was written is read": self.reads_own_writes,
            "what was written is listed": self.lists_own_writes,
        }
        return [promise for promise, kept in promises.items() if not kept]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFormat:
    """The content of ``format.json``. ``single_writer``: made for a store that failed the probe."""

    layout: int
    probe: Probe
    single_writer: bool = False


def prepare_store(
    store: ObjectStore, *, single_writer: bool = False, clock: Callable[[], float] = time.time
) -> StoreFormat:
    """Makes the store one that may be written to, if it is not yet; may be called by many at once, and again.

    ``single_writer`` is the user's word that no two runs write at once; it is needed, on each run, by a
    store that failed the probe.

    Raises:
        StoreMismatch: not ours, of a newer layout, or not safe for more than one writer.
    """
    found = read_format(store)
    if found is None:
        _check_empty(store)
        probe = probe_store(store, clock=clock)
        if probe.failures and not single_writer:
            raise _unsafe(store, probe)
        made = StoreFormat(layout=layout.LAYOUT_VERSION, probe=probe, single_writer=bool(probe.failures))
        commit(store, layout.FORMAT, canonical_json(asdict(made)))
        found = read_format(store) or made
    if found.single_writer and not single_writer:
        raise _unsafe(store, found.probe)
    return found


def read_format(store: ObjectStore) -> StoreFormat | None:
    """What ``format.json`` says, None if there is none.

    Raises:
        StoreMismatch: it says a layout this version does not know, or is not ours.
    """
    try:
        data = store.get(layout.FORMAT)
    except ObjectMissing:
        return None
    try:
        value = json.loads(data)
        version = int(value["layout"])
        if version == layout.LAYOUT_VERSION:
            return StoreFormat(
                layout=version, probe=Probe(**value["probe"]), single_writer=bool(value["single_writer"])
            )
    except (ValueError, TypeError, KeyError) as exc:
        raise StoreMismatch(
            f"{layout.FORMAT} in {store.uri} is not that of a bitsieve store",
            "choose another folder or prefix",
        ) from exc
    raise StoreMismatch(
        f"the store {store.uri} has layout {version}; this version reads layout {layout.LAYOUT_VERSION}",
        "use a newer bitsieve",
    )


def probe_store(store: ObjectStore, *, clock: Callable[[], float] = time.time) -> Probe:
    """Finds out what the store does, with a few small objects under ``probe/``, deleted afterwards."""
    place = layout.probe(uuid.uuid4().hex)
    keys = [f"{place}{number}" for number in range(_ROUNDS)]
    try:
        winners = [_race(store, key) for key in keys]
        first = store.get(keys[0])
        refused = not store.create(keys[0], b"overwritten")
        skew_s = _clock_skew_s(store, f"{place}clock", clock)
        listed = {item.key for item in store.list_objects(place)}
        return Probe(
            one_winner=all(winner is not None for winner in winners),
            keeps_first=refused and store.get(keys[0]) == first,
            reads_own_writes=[store.get(key) for key in keys] == winners,
            lists_own_writes=listed == {*keys, f"{place}clock"},
            clock_skew_s=skew_s,
        )
    finally:
        for key in [*keys, f"{place}clock"]:
            store.delete(key)


def _race(store: ObjectStore, key: str) -> bytes | None:
    """Creates one key from many threads at once; the winner's bytes, None unless exactly one wins."""
    barrier = Barrier(_WRITERS)

    def enter(body: bytes) -> bool:
        barrier.wait()
        return commit(store, key, body)

    bodies = [uuid.uuid4().hex.encode() for _ in range(_WRITERS)]
    with ThreadPoolExecutor(_WRITERS) as threads:
        won = list(threads.map(enter, bodies))
    return bodies[won.index(True)] if won.count(True) == 1 else None


def _clock_skew_s(store: ObjectStore, key: str, clock: Callable[[], float]) -> float:
    before_s = clock()
    store.put(key, b"")
    after_s = clock()
    stat = store.stat(key)
    if stat is None:
        raise DataCorrupt(f"{key!r} in {store.uri} was written and is not there")
    return round(stat.modified_s - (before_s + after_s) / 2, 3)


def _check_empty(store: ObjectStore) -> None:
    """Refuses a place that holds somebody else's objects; another process may be preparing it meanwhile."""
    stranger = next((item for item in store.list_objects() if not item.key.startswith(layout.PROBES)), None)
    if stranger is not None and read_format(store) is None:
        raise StoreMismatch(
            f"{store.uri} is a store that is not empty and not ours: "
            f"it holds {stranger.key!r} and no {layout.FORMAT}",
            "choose an empty folder or prefix for --store",
        )


def _unsafe(store: ObjectStore, probe: Probe) -> StoreMismatch:
    return StoreMismatch(
        f"the store {store.uri} does not keep what concurrent writers need: {'; '.join(probe.failures)}",
        "use a store that does (AWS S3, Ceph, a local folder), "
        "or pass --single-writer and never run two writers at once",
    )
