"""A file of the source on this machine: itself in a local source, else a download, deleted after use."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.storage.store import ObjectStore


@contextmanager
def container_file(source: ObjectStore, key: str, cache: Path) -> Iterator[Path]:
    """The object as a local file, downloaded once and in bounded memory where the source is not a folder.

    Raises:
        ObjectMissing: it is gone.
    """
    local = source.local_path(key)
    if local is not None:
        source.get_range(key, 0, 0)  # its absence is the store's to tell
        yield local
        return
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        path = Path(folder) / "container"
        source.get_file(key, path)
        yield path
