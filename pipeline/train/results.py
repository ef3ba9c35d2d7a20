"""What a training leaves in the store for whoever looks: progress, curves and result. No torch here."""

import json
from typing import Any

from pipeline.errors import ObjectMissing, UsageError
from pipeline.storage import layout
from pipeline.storage.store import ObjectStore


def training_result(store: ObjectStore, key: str) -> dict[str, Any] | None:
    """The result of a training that has ended; None while it has not."""
    return training_document(store, key, "result")


def training_document(store: ObjectStore, key: str, name: str) -> dict[str, Any] | None:
    """``progress``, ``curves``, ``result`` or ``diverged`` of a training; None if there is none."""
    try:
        document: dict[str, Any] = json.loads(store.get(layout.training_file(key, name)))
    except ObjectMissing:
        return None
    return document


def find_training(store: ObjectStore, begins: str) -> str:
    """The key of the one training whose key begins so.

    Raises:
        UsageError: there is none, or several.
    """
    prefix = layout.trainings(begins)
    found = sorted({stat.key.split("/")[1] for stat in store.list_objects(prefix)})
    if len(found) != 1:
        among = ", ".join(key[:16] for key in found[:5]) or "none"
        raise UsageError(
            f"{len(found)} trainings of {store.uri} begin with {begins!r}: {among}",
            fix="give the key that `bitsieve train` printed, or enough of it",
        )
    return found[0]
