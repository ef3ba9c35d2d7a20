"""Requests to try refused images again: small objects in the store that the next run finds and obeys.

A request names a reason and the snapshot that somebody was looking at. It speaks of the images whose newest
refusal is for that reason and was published by then. Such an image is not held to be refused, so it is
fresh again; it goes into image shards of its own, whose digest has the request in it, so that no receipt of
an earlier try is found. Once a try is published the newest refusal is younger than the request, which then
speaks of nobody; a try that ends as before publishes nothing, and its receipt keeps it from being made every
night. Nothing has to be ticked off, and a run that is killed or refused by a gate forgets nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog.change import contains
from pipeline.catalog.plan import ImageShard, plan_shards
from pipeline.fingerprint import canonical_json, digest
from pipeline.snapshot.reuse import Reusable
from pipeline.storage import layout
from pipeline.storage.store import ObjectStore
from pipeline.values import RejectReason

_SCHEMA = pa.schema([("key", pa.string()), ("request", pa.string())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request; ``name`` occurs once in its collection."""

    name: str
    snapshot: int
    reason: RejectReason


def write_request(
    store: ObjectStore, collection: str, snapshot: int, reason: RejectReason, stamp: str
) -> Request:
    """Asks the next run to try again what was refused for ``reason`` up to ``snapshot``.

    ``stamp`` is a new run id: two requests with the same are one.
    """
    name = f"{snapshot:020d}-{reason.value}-{stamp}"
    body = {"snapshot": snapshot, "reason": reason.value, "requested_by": stamp}
    store.create(layout.requeue(collection, name), canonical_json(body))
    return Request(name=name, snapshot=snapshot, reason=reason)


def requests(store: ObjectStore, collection: str) -> list[Request]:
    """All requests ever made, told by their names alone: one listing. Other objects there are passed over."""
    prefix = layout.requeues(collection)
    found = []
    for stat in store.list_objects(prefix):
        name = stat.key.removeprefix(prefix).removesuffix(".json")
        sequence, _, rest = name.partition("-")
        reason = rest.partition("-")[0]
        if sequence.isdecimal() and reason in set(RejectReason):
            found.append(Request(name=name, snapshot=int(sequence), reason=RejectReason(reason)))
    return found


def requeued(refused: pa.Table, asked: Sequence[Request]) -> pa.Table:
    """The images that requests speak of: ``key`` (id and version) and ``request``, the names of all that do.

    One request more makes another text, so that asking again is trying again.

    Args:
        refused: all refusals of the parent, with ``image_id``, ``version``, ``reason`` and ``since``.
        asked: the requests.
    """
    if refused.num_rows == 0 or not asked:
        return _SCHEMA.empty_table()
    encoded = pc.dictionary_encode(image_keys(refused).combine_chunks())
    code_R = encoded.indices.to_numpy()
    since_R = refused["since"].to_numpy()
    newest = np.zeros(len(encoded.dictionary), dtype=np.int64)
    np.maximum.at(newest, code_R, since_R)
    request = np.full(len(encoded.dictionary), "", dtype=object)
    for one in sorted(asked, key=lambda one: one.name):
        of_reason = np.asarray(pc.equal(refused["reason"], one.reason.value))
        meant = code_R[of_reason & (since_R == newest[code_R]) & (since_R <= one.snapshot)]
        request[np.unique(meant)] += f"{one.name} "
    table = pa.table([encoded.dictionary, pa.array(request, type=pa.string())], schema=_SCHEMA)
    return table.filter(pc.not_equal(table["request"], ""))


def without(refused: pa.Table, again: pa.Table) -> pa.Table:
    """``refused`` less the images in ``again``."""
    return refused.filter(pa.array(~contains(image_keys(refused), again["key"])))


def plan_with_requeued(
    fresh: pa.Table, again: pa.Table, max_images: int, known: Reusable
) -> list[ImageShard]:
    """Image shards for ``fresh``, with hints at what is ``known``.

    The images in ``again`` have their own: no earlier receipt proves them, and no earlier vector serves.
    """
    is_again = contains(image_keys(fresh), again["key"])
    shards = known.hint(plan_shards(fresh.filter(pa.array(~is_again)), max_images))
    rows = fresh.filter(pa.array(is_again))
    where = pc.index_in(image_keys(rows), value_set=again["key"].combine_chunks())
    names = again["request"].take(where)
    for name in sorted(set(names.to_pylist())):
        of_request = rows.filter(pc.equal(names, name))
        shards += [
            replace(shard, digest=digest([name, shard.digest]))
            for shard in plan_shards(of_request, max_images)
        ]
    return shards


def image_keys(table: pa.Table) -> pa.ChunkedArray:
    """Id and version as one string; NUL cannot occur in either."""
    return pc.binary_join_element_wise(table["image_id"], table["version"], "\0")
