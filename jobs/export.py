"""``bitsieve export``: live rows, changes since a snapshot, or a plain Faiss index, for other engines."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.output import AsJson, print_result
from jobs.place import Collection, Config, Place, SnapshotNumber, Store, find_place
from pipeline.errors import UsageError
from pipeline.exchange.changes import changes_since
from pipeline.exchange.faiss_index import IDS_SUFFIX, write_faiss
from pipeline.exchange.rows_file import write_changes, write_rows
from pipeline.snapshot.open import OpenSnapshot


class ExportFormat(StrEnum):
    """What is written."""

    PARQUET = "parquet"
    CHANGES = "changes"
    FAISS = "faiss"


def command(
    store: Store,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    format_: Annotated[
        ExportFormat, typer.Option("--format", help="parquet, changes or faiss.")
    ] = ExportFormat.PARQUET,
    since: Annotated[
        int | None, typer.Option(min=0, help="changes: the snapshot the other engine has; 0 for none.")
    ] = None,
    attributes: Annotated[bool, typer.Option("--attributes", help="Attributes go along.")] = False,
    collection: Collection = None,
    config: Config = None,
    sequence: SnapshotNumber = None,
    as_json: AsJson = False,
) -> None:
    """Hands live rows, changes since a snapshot, or a plain float Faiss index to other engines.

    Example: bitsieve export --store index/ -o rows.parquet --attributes
    """
    if (since is not None) != (format_ is ExportFormat.CHANGES):
        raise UsageError(
            "--since says from which snapshot on changes are exported",
            fix="pass both: --format changes --since SEQUENCE",
        )
    place = find_place(store, collection, config)
    snapshot = place.snapshot(sequence)
    result: dict[str, Any] = {
        "collection": place.collection,
        "snapshot": snapshot.manifest.sequence,
        "format": format_.value,
        "output": str(output),
    }
    if since is not None:
        earlier = _earlier(place, snapshot, since)
        changes = changes_since(earlier, snapshot, with_attributes=attributes)
        write_changes(snapshot, changes, since, output, with_attributes=attributes)
        result |= {"since": since, "upserts": changes.n_upserts, "deletes": len(changes.deletes)}
        what = f"{changes.n_upserts} upserts and {len(changes.deletes)} deletes since snapshot {since}"
    elif format_ is ExportFormat.FAISS:
        n_rows = write_faiss(snapshot, output, with_attributes=attributes)
        result |= {"rows": n_rows, "ids": str(output) + IDS_SUFFIX}
        what = f"a Faiss index of {n_rows} rows, its ids in {output}{IDS_SUFFIX}"
    else:
        n_rows = write_rows(snapshot, output, with_attributes=attributes)
        result |= {"rows": n_rows}
        what = f"{n_rows} rows"
    result["bytes"] = output.stat().st_size
    where = f"snapshot {snapshot.manifest.sequence} of {place.collection}"
    print_result(result, f"{output}: {what} ({where})", as_json=as_json)


def _earlier(place: Place, snapshot: OpenSnapshot, since: int) -> OpenSnapshot | None:
    """The snapshot the other engine has."""
    if since > snapshot.manifest.sequence:
        raise UsageError(
            f"--since {since} is later than snapshot {snapshot.manifest.sequence}, which is exported",
            fix="see `bitsieve snapshots list`",
        )
    return place.snapshot(since) if since else None
