"""A Parquet file of answers, written as they come; it has its name only when it is whole."""

import os
import uuid
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.search_answers import Answer, as_table
from pipeline.errors import UsageError


class AnswerFile:
    """Writes each answer as a row group; without a path nothing is written. A failure leaves no file."""

    def __init__(self, path: Path | None, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._writer: pq.ParquetWriter | None = None
        self._aside = Path() if path is None else path.with_name(f".{path.name}.{uuid.uuid4().hex}")

    def __enter__(self) -> "AnswerFile":
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._writer = pq.ParquetWriter(self._aside, self._schema, compression="zstd")
            except OSError as exc:
                raise UsageError(f"{self._path} cannot be written: {exc.strerror}", fix="check -o") from exc
        return self

    def write(self, answer: Answer) -> None:
        """Adds the answers to a batch of queries."""
        if self._writer is not None:
            self._writer.write_table(as_table(answer, self._schema))

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is None or self._path is None:
            return
        self._writer.close()
        if kind is None:
            os.replace(self._aside, self._path)
        else:
            self._aside.unlink(missing_ok=True)
