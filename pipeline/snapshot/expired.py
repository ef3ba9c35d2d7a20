"""Which snapshots are no longer retained. Their manifests stay for ever, their files may be gone."""

import json

from pipeline.errors import DataCorrupt, ObjectMissing
from pipeline.fingerprint import sealed, unsealed
from pipeline.storage import layout
from pipeline.storage.store import ObjectStore


def record_expired(store: ObjectStore, collection: str, sequence: int, *, when: str, reason: str) -> bool:
    """Declares that a snapshot is not retained from now on; False if it was not before either."""
    body = {"collection": collection, "sequence": sequence, "expired": when, "reason": reason}
    return store.create(layout.expiration(collection, sequence), sealed(body))


def expired_sequences(store: ObjectStore, collection: str) -> set[int]:
    """The sequences of the snapshots that are not retained."""
    prefix = layout.expirations(collection)
    names = (stat.key.removeprefix(prefix).removesuffix(".json") for stat in store.list_objects(prefix))
    return {int(name) for name in names if name.isdecimal()}


def expiry(store: ObjectStore, collection: str, sequence: int) -> str | None:
    """When and why a snapshot expired, in words; None if it is retained.

    Raises:
        DataCorrupt: the record is garbled.
    """
    key = layout.expiration(collection, sequence)
    try:
        record = unsealed(json.loads(store.get(key)))
        return f"expired on {record['expired']}: {record['reason']}"
    except ObjectMissing:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise DataCorrupt(
            f"{key} in {store.uri} is not the record of an expired snapshot: {exc}",
            fix="restore it from a copy of the store",
        ) from exc
