"""Writes a model file whole or not at all."""

import os
from pathlib import Path

from pipeline.errors import UsageError


def write_model(path: Path, data: bytes) -> None:
    """Writes a model file whole or not at all.

    Raises:
        UsageError: it cannot be written there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as exc:
        partial.unlink(missing_ok=True)
        reason = exc.strerror or type(exc).__name__
        raise UsageError(f"cannot write {path}: {reason}", "choose another -o") from exc
