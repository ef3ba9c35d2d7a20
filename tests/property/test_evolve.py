"""Random histories of a catalog against a plain model: what lives, what is stale and what died, each night.

The embedding is made up (a version that begins with "bad" is refused); parts, rejects, bitmaps and manifests
are real and go through the store between any two nights.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.catalog.change import diff
from pipeline.catalog.plan import ImageShard, plan_shards
from pipeline.catalog.table import Catalog
from pipeline.embed.table import EmbeddedImage, rejects_bytes
from pipeline.fingerprint import sha256_hex, task_key
from pipeline.snapshot.evolve import Rows, evolve, load_parent, reasons
from pipeline.snapshot.manifest import Content, Manifest, PartRef
from pipeline.snapshot.rows import write_dead_rows
from pipeline.storage.local import LocalStore
from pipeline.storage.receipts import DataFile
from pipeline.values import Reject, RejectReason
from tests.support.manifests import content, manifest
from tests.support.parts import part_bytes
from tests.support.tiny_catalogs import listing

Listed = dict[str, str]
_REASON = RejectReason.CORRUPT


@dataclass
class Model:
    """The same rules in a few lines: dictionaries instead of parts and bitmaps."""

    stale_nights: int
    live: dict[str, str] = field(default_factory=dict)
    refused_since: dict[tuple[str, str], int] = field(default_factory=dict)
    sequence: int = 0

    def night(self, listed: Listed) -> dict[str, int]:
        """Counts of the night that ends in the next snapshot."""
        self.sequence += 1
        counts = {"embedded": 0, "reused": 0, "stale": 0, "rejected": 0, "deleted": 0}
        after = {}
        for image_id, version in listed.items():
            if self.live.get(image_id) == version:
                counts["reused"] += 1
                after[image_id] = version
                continue
            if not version.startswith("bad"):
                counts["embedded"] += 1
                after[image_id] = version
                continue
            since = self.refused_since.setdefault((image_id, version), self.sequence)
            if image_id in self.live and since > self.sequence - self.stale_nights:
                counts["stale"] += 1
                after[image_id] = self.live[image_id]
            else:
                counts["rejected"] += 1
        counts["deleted"] = len(self.live.keys() - listed.keys())
        self.live = after
        return counts


class Store:
    """The real thing, fed with made-up embeddings."""

    def __init__(self, folder: Path, stale_nights: int, max_images: int) -> None:
        self.store = LocalStore(folder)
        self.cache = folder / "cache"
        self.stale_nights = stale_nights
        self.max_images = max_images
        self.files: dict[str, tuple[int, int, DataFile | None, DataFile | None]] = {}
        self.manifest: Manifest | None = None

    def night(self, listed: Listed) -> tuple[Rows, dict[str, int]]:
        catalog = Catalog(table=listing(list(listed.items())), format="prefix", skipped={})
        parent = load_parent(self.store, self.manifest, "m" * 64, self.cache)
        change = diff(catalog, parent.live, parent.lasting_refusals("c" * 64))
        tonight = parent.sequence + 1
        new = [self.embed(shard, tonight) for shard in plan_shards(change.fresh, self.max_images)]
        rows = evolve(
            self.store,
            parent,
            change,
            new,
            is_recent=lambda since: since > tonight - self.stale_nights,
            cache=self.cache,
        )
        n_stale = int(rows.stale.sum())
        refused = reasons(parent, change, catalog.refused(), new)
        counts = {
            "embedded": sum(part.rows for part in new),
            "reused": int(change.kept.sum()),
            "stale": n_stale,
            "rejected": sum(refused.values()) - n_stale,
            "deleted": int(change.gone.sum()),
        }
        body: Content = content(
            parts=rows.parts,
            dead_rows=write_dead_rows(self.store, rows.masks),
            live_rows=rows.live.num_rows,
        )
        self.manifest = manifest(body, parent=parent.sequence or None, sequence=tonight)
        return rows, counts

    def embed(self, shard: ImageShard, since: int) -> PartRef:
        key = task_key("embed", 1, {}, [shard.digest])
        if key not in self.files:
            self.files[key] = self.write(shard, key)
        n_rows, n_rejected, part, rejects = self.files[key]
        rejected = {"corrupt": n_rejected} if n_rejected else {}
        return PartRef(
            key=key,
            config="c" * 64,
            rows=n_rows,
            rejected=rejected,
            embeddings=part,
            rejects=rejects,
            since=since,
        )

    def write(self, shard: ImageShard, key: str) -> tuple[int, int, DataFile | None, DataFile | None]:
        rows = shard.table.to_pylist()
        good = [row for row in rows if not row["version"].startswith("bad")]
        bad = [row for row in rows if row["version"].startswith("bad")]
        images = [
            EmbeddedImage(
                image_id=row["image_id"],
                version=row["version"],
                content_digest=row["version"],
                locator=row["locator"],
                width_px=1,
                height_px=1,
            )
            for row in good
        ]
        rejects = [
            Reject(
                image_id=row["image_id"], version=row["version"], reason=RejectReason.CORRUPT, detail="bad"
            )
            for row in bad
        ]
        part = part_bytes(images, np.ones((len(good), 2), dtype=np.float32), {}) if good else None
        return (
            len(good),
            len(bad),
            None if part is None else self.put(f"parts/{key}", part),
            self.put(f"rejects/{key}", rejects_bytes(rejects)) if bad else None,
        )

    def put(self, key: str, data: bytes) -> DataFile:
        self.store.put(key, data)
        return DataFile(key=key, sha256=sha256_hex(data), size_bytes=len(data))


some_ids = st.sampled_from(["a", "b", "c", "d", "e", "\u00e9"])
catalogs = st.dictionaries(some_ids, st.sampled_from(["v1", "v2", "bad1", "bad2"]), max_size=6)


@settings(max_examples=30, deadline=None)
@given(
    nights=st.lists(catalogs, min_size=1, max_size=8),
    stale_nights=st.integers(0, 4),
    max_images=st.sampled_from([1, 2, 100]),
)
def test_evolve_any_history_is_the_plain_models(
    tmp_path_factory: pytest.TempPathFactory, nights: list[Listed], stale_nights: int, max_images: int
) -> None:
    store = Store(tmp_path_factory.mktemp("nights"), stale_nights, max_images)
    model = Model(stale_nights)
    for listed in nights:
        before = dict(model.live)
        rows, counts = store.night(listed)
        assert counts == model.night(listed)
        assert sum(counts.values()) - counts["deleted"] == len(listed)
        found = list(zip(rows.live["image_id"].to_pylist(), rows.live["version"].to_pylist(), strict=True))
        assert len({image_id for image_id, _ in found}) == len(found)
        assert dict(found) == model.live
        assert rows.moved or before == model.live
        assert len({part.key for part in rows.parts}) == len(rows.parts)
        n_dead = sum(int(mask.sum()) for mask in rows.masks.values())
        assert sum(part.rows for part in rows.parts) - n_dead == len(found)


def test_evolve_same_listing_again_moves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, 3, 2)
    listed = {"a": "v1", "b": "v1", "c": "bad1", "d": "v2"}
    store.night(listed)
    parts = store.manifest
    rows, counts = store.night(listed)
    assert not rows.moved
    assert parts is not None
    assert rows.parts == parts.content.parts
    assert counts == {"embedded": 0, "reused": 3, "stale": 0, "rejected": 1, "deleted": 0}


def test_evolve_other_model_hands_on_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, 3, 100)
    store.night({"a": "v1", "b": "bad1"})
    parent = load_parent(store.store, store.manifest, "n" * 64, store.cache)
    assert (parent.sequence, parent.parts, parent.masks) == (1, [], {})
    assert parent.live.num_rows == parent.refused.num_rows == 0
