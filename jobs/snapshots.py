"""``bitsieve snapshots``: what was published, what is in it, what differs, and taking it back."""

import os
from typing import Annotated, Any

import typer

from jobs.hooks import PUBLISHED, announce
from jobs.output import print_result, visible
from jobs.place import Collection, Config, Store, find_place
from jobs.run import default_cache, new_run_id, utc_now
from pipeline.errors import UsageError
from pipeline.snapshot.contents import diff, snapshot_files
from pipeline.snapshot.expired import expired_sequences
from pipeline.snapshot.manifest import Manifest
from pipeline.snapshot.publish import manifest_of, newest_sequence, rollback, snapshot

app = typer.Typer(help="List, show and roll back snapshots.", no_args_is_help=True)

_SHOWN = 20
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


@app.command("list")
def list_command(
    store: Store, collection: Collection = None, config: Config = None, as_json: Json = False
) -> None:
    """All snapshots of a collection, newest first.

    Example: bitsieve snapshots list --store index/
    """
    place = find_place(store, collection, config)
    opened, collection = place.open(), place.collection
    last = newest_sequence(opened, collection)
    manifests = [manifest_of(opened, collection, sequence) for sequence in range(last, 0, -1)]
    expired = expired_sequences(opened, collection)
    rows = [{**_row(manifest), "expired": manifest.sequence in expired} for manifest in manifests]
    lines = [
        f"{row['snapshot']:>4}  {row['created']}  {row['vectors']:>10} vectors  "
        f"{row['digest'][:16]}  {'expired ' if row['expired'] else ''}{row['note']}"
        for row in rows
    ]
    print_result(
        {"collection": collection, "snapshots": rows},
        "\n".join(lines) or f"collection {collection!r} has no snapshot yet",
        as_json=as_json,
    )


@app.command("show")
def show_command(
    store: Store,
    sequence: Annotated[int | None, typer.Argument(help="Which snapshot; the newest if absent.")] = None,
    collection: Collection = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """One snapshot's manifest.

    Example: bitsieve snapshots show 3 --store index/
    """
    place = find_place(store, collection, config)
    manifest = manifest_of(place.open(), place.collection, sequence)
    content, coverage = manifest.content, manifest.coverage
    lines = [
        f"snapshot {manifest.sequence} of {manifest.collection}, {manifest.created}, run {manifest.run_id}",
        f"digest    {manifest.digest}",
        f"source    {manifest.source.uri} ({manifest.source.format or 'format told from the objects'})",
        f"model     {content.model.name} {content.model.id[:16]}, {content.model.dim} dimensions",
        f"rows      {content.live_rows} live in {len(content.parts)} parts and "
        f"{len(content.index_shards)} index shards; {sum(ref.dead for ref in content.dead_rows)} dead",
        f"images    {coverage.listed} listed = {coverage.embedded} embedded + {coverage.reused} reused + "
        f"{coverage.stale} stale + {coverage.rejected} rejected + {coverage.set_aside} set aside",
        *(
            f"gate      {'pass' if gate.passed else 'FAIL'}  {gate.name}: {gate.message}"
            for gate in manifest.gates
        ),
    ]
    print_result(manifest.model_dump(mode="json"), "\n".join(lines), as_json=as_json)


@app.command("diff")
def diff_command(
    before: Annotated[int, typer.Argument(help="The earlier snapshot.")],
    after: Annotated[int, typer.Argument(help="The later snapshot.")],
    store: Store,
    collection: Collection = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Images added, changed and deleted from one snapshot to another.

    Example: bitsieve snapshots diff 3 4 --store index/ --json
    """
    place = find_place(store, collection, config)
    opened, collection = place.open(), place.collection
    ends = [snapshot(opened, collection, sequence) for sequence in (before, after)]
    found = diff(opened, ends[0].content, ends[1].content, default_cache(os.environ))
    same_model = ends[0].content.model.id == ends[1].content.model.id
    ids = {name: getattr(found, name).to_pylist() for name in ("added", "changed", "deleted")}
    counts = {name: len(names) for name, names in ids.items()} | {"unchanged": found.n_unchanged}
    lines = [
        f"snapshot {before} to {after} of {collection}: "
        + ", ".join(f"{count} {name}" for name, count in counts.items()),
        *([] if same_model else ["the two snapshots have different models: every vector differs"]),
        *(f"  {name:<8}{visible(one)}" for name, names in ids.items() for one in names[:_SHOWN]),
    ]
    result = {"collection": collection, "before": before, "after": after, "counts": counts}
    print_result({**result, "same_model": same_model, **ids}, "\n".join(lines), as_json=as_json)


@app.command("files")
def files_command(
    store: Store,
    sequence: Annotated[int | None, typer.Argument(help="Which snapshot; the newest if absent.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only files of this kind, such as embeddings.")] = None,
    collection: Collection = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """The live files of a snapshot, one URI a line, for DuckDB, Spark or a copy.

    Example: bitsieve snapshots files --store index/ --kind embeddings
    """
    place = find_place(store, collection, config)
    opened, collection = place.open(), place.collection
    manifest = snapshot(opened, collection, sequence)
    every = list(snapshot_files(manifest.content))
    kinds = sorted({one.kind for one in every})
    if kind is not None and kind not in kinds:
        raise UsageError(f"the snapshot has no files of kind {kind!r}", fix=f"kinds are {', '.join(kinds)}")
    files = [
        {
            "kind": one.kind,
            "uri": f"{opened.uri}/{one.file.key}",
            "rows": one.rows,
            "dead_rows": one.dead,
            "bytes": one.file.size_bytes,
            "sha256": one.file.sha256,
        }
        for one in every
        if kind in (None, one.kind)
    ]
    result = {"collection": collection, "snapshot": manifest.sequence, "files": files}
    print_result(result, "\n".join(str(file["uri"]) for file in files), as_json=as_json)


@app.command("rollback")
def rollback_command(
    store: Store,
    to: Annotated[int, typer.Option(help="The snapshot whose content is to be published again.")],
    reason: Annotated[str, typer.Option(help="Why; recorded.")],
    collection: Collection = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Publishes the content of an earlier snapshot again; what came after it is refused from now on.

    Example: bitsieve snapshots rollback --to 2 --reason "wrong model" --store index/
    """
    if not reason.strip():
        raise UsageError("a rollback needs a reason", fix="pass --reason")
    place = find_place(store, collection, config)
    now = utc_now()
    published = rollback(
        place.open(),
        place.collection,
        to,
        reason=reason,
        run_id=new_run_id(now),
        created=now.isoformat(),
    )
    manifest = published.manifest
    result = {
        "collection": place.collection,
        "snapshot": manifest.sequence,
        "content_of": to,
        "digest": manifest.digest,
    }
    said = f"published snapshot {manifest.sequence} with the content of {to}"
    print_result(result, said, as_json=as_json)
    announce(place.hooks, PUBLISHED, result)


def _row(manifest: Manifest) -> dict[str, Any]:
    back = manifest.rollback
    note = "" if back is None else f"rollback to {back.content_of}: {back.reason}"
    if manifest.adopted is not None:
        note = note or f"snapshot {manifest.adopted.sequence} of {manifest.adopted.collection}"
    return {
        "snapshot": manifest.sequence,
        "created": manifest.created,
        "vectors": manifest.content.live_rows,
        "digest": manifest.digest,
        "model": manifest.content.model.name,
        "run": manifest.run_id,
        "note": note,
    }
