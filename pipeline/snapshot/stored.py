"""Are the stored bytes those that were written? Every file is read from the store and hashed."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from pipeline.errors import DataCorrupt, ObjectMissing
from pipeline.snapshot.findings import Finding, Flaw
from pipeline.storage.receipts import DataFile
from pipeline.storage.store import ObjectStore

_BLOCK_BYTES = 8 << 20
_THREADS = 8


def check_files(
    store: ObjectStore, files: Iterable[DataFile], advance: Callable[[int], None]
) -> Iterator[Finding]:
    """What is wrong with the bytes of ``files``; ``advance`` is called with the bytes that were read.

    Nothing is taken from the cache of this machine. Holds 8 MiB for each of eight threads.
    """
    with ThreadPoolExecutor(_THREADS, "verify") as threads:
        for file, finding in threads.map(lambda file: (file, _check(store, file)), files):
            advance(file.size_bytes)
            if finding is not None:
                yield finding


def _check(store: ObjectStore, file: DataFile) -> Finding | None:
    stat = store.stat(file.key)
    if stat is None:
        return Finding(flaw=Flaw.MISSING, key=file.key, detail="there is no such object")
    if stat.size_bytes != file.size_bytes:
        detail = f"it has {stat.size_bytes} bytes, {file.size_bytes} were written"
        return Finding(flaw=Flaw.SIZE, key=file.key, detail=detail)
    state = hashlib.sha256()
    try:
        for start in range(0, file.size_bytes, _BLOCK_BYTES):
            state.update(store.get_range(file.key, start, min(_BLOCK_BYTES, file.size_bytes - start)))
    except (ObjectMissing, DataCorrupt) as exc:  # it went or shrank meanwhile
        return Finding(flaw=Flaw.MISSING, key=file.key, detail=exc.message)
    if state.hexdigest() != file.sha256:
        detail = f"its sha256 is {state.hexdigest()}, {file.sha256} was written"
        return Finding(flaw=Flaw.CHECKSUM, key=file.key, detail=detail)
    return None
