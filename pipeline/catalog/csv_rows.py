"""Reads CSV as a stream of rows with their line numbers, so that every complaint names a line.

Nothing here trusts the file: a line, and a field over several lines, have a longest length, and the text has
to be UTF-8, with or without a byte order mark. A file that breaks these rules is refused as a whole: guessing
what a damaged listing meant would lose images without a word.
"""

import codecs
import csv
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.errors import SourceError

MAX_LINE_BYTES = 64 << 10
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

CsvRow = tuple[int, list[str]]
"""The line a row ends on, counted from 1, and its fields."""


def csv_rows(file: BinaryIO, name: str) -> Iterator[CsvRow]:
    """The rows of a comma-separated file, empty lines left out; quoted fields may hold line ends.

    Args:
        file: the bytes, read once from where they stand.
        name: what to call the file in messages.

    Raises:
        SourceError: not UTF-8, a line that is too long, or quotes that do not match; names the line.
    """
    reader = csv.reader(_lines(file, name), strict=True)
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as exc:
            raise _refused(name, reader.line_num, f"is not CSV: {exc}") from exc
        if fields is None:
            return
        if fields:
            yield reader.line_num, fields


def _lines(file: BinaryIO, name: str) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            line = _without_mark(line, name)
        if len(line) > MAX_LINE_BYTES:
            raise _refused(name, number, f"has more than {MAX_LINE_BYTES} bytes")
        try:
            text = line.decode()
        except UnicodeDecodeError as exc:
            raise _refused(name, number, f"is not UTF-8 (byte {exc.start + 1} of it)") from exc
        if "\0" in text:
            raise _refused(name, number, "holds a NUL")
        yield text


def _without_mark(line: bytes, name: str) -> bytes:
    if line.startswith(_UTF16):
        raise _refused(name, 1, "begins with the byte order mark of UTF-16")
    return line.removeprefix(codecs.BOM_UTF8)


def _refused(name: str, line: int, what: str) -> SourceError:
    return SourceError(f"{name}: line {line} {what}", fix="write the file again as CSV in UTF-8")
