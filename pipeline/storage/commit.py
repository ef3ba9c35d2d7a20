"""Makes one small object the outcome of a race, and learns for certain who won it.

The reply to a create can get lost after it took effect; an SDK then repeats the request and is told that the
key is taken, by its own success. So an answer other than "created" is never believed. Steps:

1. Create the object. Created: won.
2. Anything else: read the object back. Our bytes: won. Other bytes: lost.
3. Absent: send the *same* create again, for the first may still land; never move on past an absent key.
4. Not readable, or still absent after every try: the outcome is unknown, and nothing is deleted.
"""

import time
from collections.abc import Callable

from pipeline.errors import ObjectMissing, OutcomeUnknown, StorageBusy, StorageError
from pipeline.storage.store import ObjectStore

_TRIES = 6
_FIRST_PAUSE_S = 0.1


def commit(store: ObjectStore, key: str, data: bytes, *, pause: Callable[[float], None] = time.sleep) -> bool:
    """Creates ``key`` if it is free; True if and only if the object under it now holds exactly ``data``.

    ``data`` contains an id that nobody else writes: then True means that this caller won. Writers whose
    bytes are equal all win. May be called again with the same bytes, after a crash too. ``pause`` waits that
    many seconds.

    Raises:
        OutcomeUnknown: the object could not be created and not be read back.
        StorageError: the store refused the create, and it is certain that nothing was written.
    """
    reason: Exception | None = None
    for attempt in range(_TRIES):
        if attempt:
            pause(_FIRST_PAUSE_S * 2**attempt)
        try:
            if store.create(key, data):
                return True
        except StorageBusy as exc:
            reason = exc
        except StorageError as exc:
            if reason is None:
                raise
            raise _unknown(store, key, exc) from exc
        present = _read_back(store, key)
        if present is not None:
            return present == data
    raise _unknown(store, key, reason) from reason


def _read_back(store: ObjectStore, key: str) -> bytes | None:
    """The object's bytes, None if it is absent."""
    try:
        return store.get(key)
    except ObjectMissing:
        return None
    except StorageError as exc:
        raise _unknown(store, key, exc) from exc


def _unknown(store: ObjectStore, key: str, reason: Exception | None) -> OutcomeUnknown:
    because = reason.message if isinstance(reason, StorageError) else "the object stays absent"
    return OutcomeUnknown(
        f"whether {key!r} was written to {store.uri} is unknown: {because}",
        "look at the object, then run again: the next run looks first; nothing was deleted",
    )
