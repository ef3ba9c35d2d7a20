"""A file that has its name only when it is whole."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UsageError


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; it becomes ``path`` at the end, or is deleted if writing fails.

    Raises:
        UsageError: the folder cannot be written to, or its disk is full.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        os.replace(aside, path)
    except OSError as exc:
        said = exc.strerror or str(exc)
        raise UsageError(f"{path} cannot be written: {said}", fix="check -o and the room there") from exc
    finally:
        aside.unlink(missing_ok=True)
