"""``bitsieve publish``: a candidate, or a snapshot of another collection, becomes the next snapshot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.hooks import PUBLISHED, REFUSED, announce
from jobs.output import AsJson, print_result
from jobs.place import find_place
from jobs.reindex_command import overrides
from jobs.run import new_run_id, utc_now
from jobs.session import checked_collection
from pipeline.errors import GateRefused, UsageError
from pipeline.snapshot.candidates import adopt, promote
from pipeline.snapshot.gates import check_overrides
from pipeline.snapshot.publish import Published


def command(
    run: Annotated[str | None, typer.Argument(help="The run that left the candidate.")] = None,
    store: Annotated[str | None, typer.Option(help="The store; with -c the name of a catalog.")] = None,
    collection: Annotated[str | None, typer.Option(help="Collection of the candidate.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="Publish the content of this collection instead.")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="In this collection; `main` if absent.")] = None,
    sequence: Annotated[
        int | None, typer.Option("--snapshot", help="With --from: which snapshot; the newest if absent.")
    ] = None,
    override: Annotated[list[str] | None, typer.Option(help="GATE=REASON, recorded.")] = None,
    replace_source: Annotated[
        bool, typer.Option("--replace-source", help="With --from: of another source; the catalog has moved.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="TOML file with named catalogs.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="section.key=value.")] = None,
    as_json: AsJson = False,
) -> None:
    """Publishes a candidate after the gates, or what another collection has.

    Example: bitsieve publish 20261122T030000Z-1a2b3c4d --store index/ --collection canary
    """
    _check(run, from_, collection=collection, to=to, sequence=sequence, replace_source=replace_source)
    place = find_place(store, collection if from_ is None else to, config, settings)
    if from_ == place.collection:
        raise UsageError(
            f"{from_!r} cannot be published in itself", fix="name another --to, or see `snapshots rollback`"
        )
    opened = place.open()
    given = overrides(override or [])
    check_overrides(given)
    now = utc_now()
    new_id = new_run_id(now)
    try:
        if from_ is not None:
            done = adopt(
                opened,
                checked_collection(from_),
                sequence,
                place.collection,
                overrides=given,
                run_id=new_id,
                created=now.isoformat(),
                replace_source=replace_source,
            )
        else:
            done = promote(
                opened,
                place.collection,
                run or "",
                overrides=given,
                commit_id=new_id,
                created=now.isoformat(),
            )
    except GateRefused as exc:
        error = {"kind": exc.kind, "message": exc.message, "fix": exc.fix}
        announce(place.hooks, REFUSED, {"collection": place.collection, "candidate": run, "error": error})
        raise
    result = _result(done)
    print_result(result, _in_words(done), as_json=as_json)
    if done.published:
        announce(place.hooks, PUBLISHED, result)


def _check(
    run: str | None,
    from_: str | None,
    *,
    collection: str | None,
    to: str | None,
    sequence: int | None,
    replace_source: bool,
) -> None:
    """A run, or a collection to take from; not both, and no flags of the other way."""
    if (run is None) == (from_ is None):
        raise UsageError(
            "publish takes the run of a candidate, or --from a collection",
            fix="for example `bitsieve publish RUN --store S` or `bitsieve publish --from canary --to main`",
        )
    if from_ is None and (to is not None or sequence is not None):
        raise UsageError("--to and --snapshot go with --from", fix="name the collection with --collection")
    if from_ is None and replace_source:
        raise UsageError("--replace-source goes with --from", fix="a candidate has the source of its run")
    if from_ is not None and collection is not None:
        raise UsageError("--collection goes with a run", fix="pass --to with --from")


def _result(done: Published) -> Mapping[str, Any]:
    manifest = done.manifest
    return {
        "collection": manifest.collection,
        "snapshot": manifest.sequence,
        "digest": manifest.digest,
        "published": done.published,
        "run": manifest.run_id,
        "model": manifest.content.model.model_dump(),
        "vectors": manifest.content.live_rows,
        "adopted": None if manifest.adopted is None else manifest.adopted.model_dump(),
        "gates": [gate.model_dump() for gate in manifest.gates],
    }


def _in_words(done: Published) -> str:
    manifest = done.manifest
    what = f"snapshot {manifest.sequence} of {manifest.collection}: {manifest.digest[:16]}"
    return f"published {what}" if done.published else f"published already as {what}"
