"""Writes a labelling sheet: a page with pictures and a table to fill in, and the key beside them."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from jobs.evaluate.pictures import query_thumbnails, thumbnails
from pipeline.errors import UsageError
from pipeline.evaluate.evaluation import Mode
from pipeline.evaluate.labelling_sheet import SHOWN, KeyRow, SheetRow
from pipeline.evaluate.report import render_html
from pipeline.evaluate.report.sheet_page import sheet_document
from pipeline.snapshot.open import OpenSnapshot


def write_sheet(
    folder: Path,
    sheet: Sequence[SheetRow],
    key: Sequence[KeyRow],
    snapshot: OpenSnapshot,
    asking: OpenSnapshot | None = None,
) -> None:
    """Writes ``sheet.html`` and ``sheet.csv`` for whoever judges; the key lies beside the folder.

    ``asking`` has the pictures of the queries where they are not images of ``snapshot``.

    Raises:
        UsageError: the folder cannot be written.
    """
    document = sheet_document(sheet, Mode.LEAVE_ONE_OUT if asking is None else Mode.QUERY_SET)
    asked = {} if asking is None else query_thumbnails(asking, [row.query for row in sheet])
    sides = [f"{side}_{rank}" for side in ("left", "right") for rank in range(1, SHOWN + 1)]
    shown = thumbnails(snapshot, sorted(document.image_ids() - asked.keys()))
    page = render_html(document, shown | asked)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sheet.html").write_text(page, encoding="utf-8")
        _write(
            folder / "sheet.csv",
            ["number", "better", "query", *sides],
            ([row.number, "", row.query, *_padded(row.left), *_padded(row.right)] for row in sheet),
        )
        _write(
            key_of(folder),
            ["number", "new_side", "old_value", "new_value"],
            ([row.number, row.new_side, f"{row.old_value:.6f}", f"{row.new_value:.6f}"] for row in key),
        )
    except OSError as exc:
        raise UsageError(f"cannot write the labelling sheet to {folder}: {exc}") from exc


def key_of(folder: Path) -> Path:
    """Where the key of a sheet is: beside the folder, which can be handed on as it is."""
    return folder.with_name(f"{folder.name}-key.csv")


def _padded(ids: Sequence[str]) -> list[str]:
    return [*ids, *[""] * (SHOWN - len(ids))]


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([_plain(cell) for cell in row] for row in rows)


def _plain(cell: object) -> object:
    """A spreadsheet takes a text that begins so for a formula; an apostrophe keeps it a text."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r" and cell else cell
