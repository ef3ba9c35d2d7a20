"""What it costs to go from one snapshot to another: embedding hours, memory, latency."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.embed.task import STAGE
from pipeline.evaluate.index_facts import memory_facts
from pipeline.snapshot.open import OpenSnapshot
from pipeline.storage.receipts import read_receipt

_RECEIPTS = 32
_QUERIES = 64
_K = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SideCost:
    """One side: what it holds and how fast it answers on this machine, one query at a time."""

    images: int
    dim: int
    method: str
    hot_bytes_per_vector: float
    cold_bytes_per_vector: float
    hot_bytes: int
    single_p50_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeCost:
    """From old to new.

    Attributes:
        old: What is in use.
        new: What may replace it; None for a model without a snapshot.
        images_to_embed: Images of the old snapshot that have no vector of the new model.
        images_per_s: Of one worker with the new model; None if nothing is known of it.
        embed_hours: Of one worker, for the images to embed.
    """

    old: SideCost
    new: SideCost | None
    images_to_embed: int
    images_per_s: float | None
    embed_hours: float | None

    def to_json(self) -> dict[str, Any]:
        """The cost as JSON values."""
        return asdict(self)


def cost_of_snapshot(old: OpenSnapshot, new: OpenSnapshot, only_old: int) -> ChangeCost:
    """From one snapshot to another; ``only_old`` images are in the old one only."""
    same_model = old.content.model.id == new.content.model.id
    return _cost(old, _side(new), 0 if same_model else only_old, _images_per_s(new))


def cost_of_model(old: OpenSnapshot, images_per_s: float | None) -> ChangeCost:
    """From a snapshot to a model of which nothing but a sample is embedded."""
    return _cost(old, None, old.content.live_rows, images_per_s)


def _cost(old: OpenSnapshot, new: SideCost | None, missing: int, per_s: float | None) -> ChangeCost:
    return ChangeCost(
        old=_side(old),
        new=new,
        images_to_embed=missing,
        images_per_s=per_s,
        embed_hours=missing / per_s / 3600 if per_s else None,
    )


def _side(snapshot: OpenSnapshot) -> SideCost:
    memory = memory_facts(snapshot.searcher)
    n_live = snapshot.content.live_rows
    return SideCost(
        images=n_live,
        dim=snapshot.content.model.dim,
        method=snapshot.content.operating_point().method,
        hot_bytes_per_vector=memory.hot_bytes_per_vector,
        cold_bytes_per_vector=memory.cold_bytes_per_vector,
        hot_bytes=round(memory.hot_bytes_per_vector * n_live),
        single_p50_ms=_single_p50_ms(snapshot),
    )


def _single_p50_ms(snapshot: OpenSnapshot) -> float:
    step = max(1, len(snapshot.vectors) // _QUERIES)
    xq_QD = snapshot.vectors[::step][:_QUERIES]
    spent_s = []
    for warm in (True, False):
        for query in range(len(xq_QD)):
            begun = time.perf_counter()
            snapshot.searcher.search(xq_QD[query : query + 1], _K)
            if not warm:
                spent_s.append(time.perf_counter() - begun)
    return round(1_000 * float(np.median(spent_s)), 3) if spent_s else 0.0


def _images_per_s(snapshot: OpenSnapshot) -> float | None:
    """Images that one worker embedded in a second, over the largest parts of the snapshot."""
    n_images, wall_s = 0, 0.0
    for part in sorted(snapshot.content.parts, key=lambda part: -part.rows)[:_RECEIPTS]:
        receipt = read_receipt(snapshot.store, STAGE, part.key)
        if receipt is not None and receipt.facts.get("seconds", {}).get("infer"):
            n_images += receipt.counts.get("rows", 0)
            wall_s += receipt.facts["seconds"]["wall"]
    return round(n_images / wall_s, 2) if wall_s else None
