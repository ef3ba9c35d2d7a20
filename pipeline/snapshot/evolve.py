"""From one night's rows to the next: what the newest snapshot hands on, what dies, what is added.

Four things can happen to a live row of the parent. It is *kept*: its image is listed with the same version.
It is *gone*: its image is listed no more. It is *replaced*: its image has other bytes and they have a vector.
It is *stale*: its image has other bytes and they were refused; the old vector then stays for some nights,
counted from the snapshot in which those bytes were first refused. Parts are never touched, rows only die in
bitmaps.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog.change import Change, contains
from pipeline.snapshot.manifest import AttributesRef, Manifest, PartRef
from pipeline.snapshot.rows import LIVE_SCHEMA, Mask, dead_masks, live_rows, refused_rows
from pipeline.storage.store import ObjectStore
from pipeline.values import COSTLY_REASONS, SOURCE_REASONS

MAX_TRIES = 3
"""How many nights an image is tried that costs its worker."""
_COSTLY = pa.array(sorted(COSTLY_REASONS))
_OF_A_MOMENT = pa.array(sorted(SOURCE_REASONS))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parent:
    """What the newest snapshot hands on. Parts, rows and rejects are empty if another model made it."""

    manifest: Manifest | None
    parts: list[PartRef]
    masks: dict[str, Mask]
    live: pa.Table
    refused: pa.Table

    @property
    def sequence(self) -> int:
        """Its sequence, 0 before the first publication."""
        return 0 if self.manifest is None else self.manifest.sequence

    @property
    def layers(self) -> list[AttributesRef]:
        """Its attributes; they do not depend on the model."""
        return [] if self.manifest is None else self.manifest.content.attributes

    def lasting_refusals(self, config: str) -> pa.Table:
        """The rejects that are not tried again under the embed config with this digest.

        They are facts about bytes, and attempts that cost a worker three times. What was refused under other
        decode limits is tried, and what was not there or not the same is tried every night.
        """
        same_config = pc.equal(self.refused["config"], config)
        of_a_moment = pc.is_in(self.refused["reason"], value_set=_OF_A_MOMENT)
        lasting = self.refused.filter(pc.and_(same_config, pc.invert(of_a_moment)))
        costly = pc.is_in(lasting["reason"], value_set=_COSTLY)
        tries = Counter(_keys(lasting.filter(costly)))
        worn_out = pa.array([tries[key] >= MAX_TRIES for key in _keys(lasting)], type=pa.bool_())
        return lasting.filter(pc.or_(pc.invert(costly), worn_out))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """A candidate's parts, their dead rows and its live rows; ``stale`` marks live rows of the parent."""

    parts: list[PartRef]
    masks: dict[str, Mask]
    live: pa.Table
    stale: Mask
    moved: bool  # whether any row was added or died


def load_parent(store: ObjectStore, manifest: Manifest | None, model_id: str, cache: Path) -> Parent:
    """Reads what ``manifest`` hands on to a run with this model."""
    if manifest is None or manifest.content.model.id != model_id:
        refused = refused_rows(store, [], cache)
        return Parent(manifest=manifest, parts=[], masks={}, live=LIVE_SCHEMA.empty_table(), refused=refused)
    content = manifest.content
    masks = dead_masks(store, content, cache)
    return Parent(
        manifest=manifest,
        parts=content.parts,
        masks=masks,
        live=live_rows(store, content.parts, masks, cache),
        refused=refused_rows(store, content.parts, cache),
    )


def evolve(
    store: ObjectStore,
    parent: Parent,
    change: Change,
    new: Sequence[PartRef],
    *,
    is_recent: Callable[[int], bool],
    cache: Path,
) -> Rows:
    """The rows after ``new`` parts were embedded for ``change``.

    A new part that the parent has already (an image that went back to earlier bytes) comes to life again.
    ``is_recent`` tells of the sequence in which bytes were first refused whether an old vector may stand in
    for them still.
    """
    repeats = [part for part in new if _repeats(store, parent, part, cache)]
    new = [part for part in new if part not in repeats]
    parts = _with_new(parent.parts, new)
    fresh_masks = {part.key: np.zeros(part.rows, dtype=bool) for part in new}
    added = live_rows(store, new, fresh_masks, cache)
    replaced = change.changed & contains(parent.live["image_id"], added["image_id"])
    refused = _refused_now(store, parent, change, new, repeats, cache)
    was_refused = change.changed & ~replaced & contains(parent.live["image_id"], refused["image_id"])
    names = parent.live["image_id"].filter(pa.array(was_refused))
    theirs = refused.filter(pa.array(contains(refused["image_id"], names)))
    recent = [since for since in pc.unique(theirs["since"]).to_pylist() if is_recent(since)]
    waiting = theirs.filter(pc.is_in(theirs["since"], value_set=pa.array(recent, type=pa.int64())))
    stale = was_refused & contains(parent.live["image_id"], waiting["image_id"])
    # what the listing refuses has no first night on record: its old vector stays while it is listed so
    stale |= (
        change.changed & ~replaced & contains(parent.live["image_id"], change.refused_listing["image_id"])
    )
    dying = change.gone | replaced | (was_refused & ~stale)
    masks = {**_bury(parent, dying), **fresh_masks}
    moved = bool(new) or bool(dying.any())
    live = live_rows(store, parts, masks, cache) if moved else parent.live
    return Rows(parts=parts, masks=masks, live=live, stale=stale, moved=moved)


def reasons(parent: Parent, change: Change, listing: pa.Table, new: Sequence[PartRef]) -> dict[str, int]:
    """How many listed images were refused for which reason: while listing, before, and tonight."""
    counts: dict[str, int] = {}
    known = dict(zip(_keys(parent.refused), parent.refused["reason"].to_pylist(), strict=True))
    found = [*listing["reject"].to_pylist(), *(known[key] for key in _keys(change.refused_again))]
    for reason in found:
        counts[reason] = counts.get(reason, 0) + 1
    for part in new:
        for reason, count in part.rejected.items():
            counts[reason] = counts.get(reason, 0) + count
    return dict(sorted(counts.items()))


def _with_new(parts: Sequence[PartRef], new: Sequence[PartRef]) -> list[PartRef]:
    """The parts and the new ones; of a part that was packed away, but for its rejects, the rows come back."""
    again = {part.key: part for part in new}
    known = {part.key for part in parts}
    old = [
        again[part.key].model_copy(update={"since": part.since}) if part.key in again else part
        for part in parts
    ]
    return [*old, *(part for part in new if part.key not in known)]


def _refused_now(
    store: ObjectStore,
    parent: Parent,
    change: Change,
    new: Sequence[PartRef],
    repeats: Sequence[PartRef],
    cache: Path,
) -> pa.Table:
    """The rejects of the listed bytes, with ``since``: those of earlier nights and tonight's.

    What was tried again and refused as before (``repeats``) is as old as the first refusal.
    """
    again = {*_keys(change.refused_again), *_keys(refused_rows(store, repeats, cache))}
    before = parent.refused.filter(pa.array([key in again for key in _keys(parent.refused)], type=pa.bool_()))
    return pa.concat_tables([before, refused_rows(store, new, cache)])


def _repeats(store: ObjectStore, parent: Parent, part: PartRef, cache: Path) -> bool:
    """Whether a part has nothing but refusals that are in the books already: no reason to publish."""
    if part.rows:
        return False
    columns = ("image_id", "version", "reason", "config")
    known = set(zip(*(parent.refused[name].to_pylist() for name in columns), strict=True))
    found = refused_rows(store, [part], cache)
    return known.issuperset(zip(*(found[name].to_pylist() for name in columns), strict=True))


def _bury(parent: Parent, dying: Mask) -> dict[str, Mask]:
    masks = {key: mask.copy() for key, mask in parent.masks.items()}
    rows = parent.live.filter(pa.array(dying))
    for number in pc.unique(rows["part"]).to_pylist():
        of_part = rows.filter(pc.equal(rows["part"], number))
        masks[parent.parts[number].key][of_part["row"].to_numpy()] = True
    return masks


def _keys(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["image_id"].to_pylist(), table["version"].to_pylist(), strict=True))
