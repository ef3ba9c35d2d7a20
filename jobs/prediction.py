"""What ``plan`` predicted of the embedding of some images, kept in the store until a run has done it.

A prediction is found by the work that it speaks of, the embed keys of all image shards, so a run compares
itself only with a plan of exactly what it does: speed, requests and bytes.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence

from jobs.run import Compared, Run, utc_now
from pipeline.catalog.plan import ImageShard
from pipeline.embed.task import EmbedSettings, embed_key
from pipeline.errors import ObjectMissing
from pipeline.fingerprint import digest
from pipeline.storage import layout
from pipeline.storage.store import ObjectStore
from pipeline.storage.traffic import LIST


def work_id(shards: Sequence[ImageShard], settings: EmbedSettings) -> str:
    """What the embedding of these shards is known by, in whatever order they are done."""
    return digest(sorted(embed_key(shard, settings) for shard in shards))


def predict(store: ObjectStore, work: str, images_per_s: float, traffic: Mapping[str, int]) -> None:
    """Keeps that one worker does ``images_per_s`` of this work, and what all of it asks for."""
    document = {
        "images_per_s_per_worker": images_per_s,
        "traffic": dict(traffic),
        "planned": utc_now().isoformat(),
    }
    store.put(layout.prediction(work), json.dumps(document).encode())


def compare(run: Run, work: str, n_images: int) -> Compared | None:
    """The prediction of this work beside what the tasks of this sitting took; None if nobody planned it.

    ``n_images`` are those of the work: nothing is compared unless this sitting did them all. Ray's
    start is in neither time.
    """
    if not n_images or sum(run.images_now.values()) != n_images or not run.embed_workers:
        return None
    with contextlib.suppress(ObjectMissing):
        found = json.loads(run.store.get(layout.prediction(work)))
        per_s = found["images_per_s_per_worker"]
        if per_s > 0 and "traffic" in found:
            lists = run.source.traffic.so_far()[LIST]
            return Compared(
                predicted_s=n_images / per_s / run.embed_workers,
                actual_s=run.embed_seconds.get("wall", 0.0) / run.embed_workers,
                images=n_images,
                workers=run.embed_workers,
                planned=found["planned"],
                predicted=found["traffic"],
                actual=dict(run.traffic) | ({LIST: lists} if lists else {}),
            )
    return None
