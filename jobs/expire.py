"""``bitsieve expire``: deletes what no retained snapshot, candidate or live run reaches."""

import time
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from jobs.output import AsJson, print_result, say, visible
from jobs.place import Collection, Config, Store, find_place
from jobs.run import new_run_id, utc_now
from pipeline.snapshot.expire import DAY_S, Expiry, Retention, carry_out, plan_expiry, server_now_s
from pipeline.storage.store import ObjectStat

_SHOWN = 20


def command(
    store: Store,
    collection: Collection = None,
    config: Config = None,
    keep_last: Annotated[int, typer.Option(min=1, help="So many of the newest snapshots stay.")] = 7,
    older_than: Annotated[float, typer.Option(min=0, help="Days; what is younger stays.")] = 30.0,
    min_age: Annotated[float, typer.Option(min=0, help="Days; no file younger is condemned.")] = 7.0,
    delete: Annotated[bool, typer.Option("--delete", help="Do it; without, only say what would be.")] = False,
    as_json: AsJson = False,
) -> None:
    """Deletes what no retained snapshot, candidate or live run reaches, a day after its receipt.

    Example: bitsieve expire --store index/ --keep-last 14 --older-than 30 --delete
    """
    place = find_place(store, collection, config)
    opened = place.open()
    now = utc_now()
    run_id = new_run_id(now)
    retention = Retention(keep_last=keep_last, older_than_s=older_than * DAY_S, min_age_s=min_age * DAY_S)
    now_s = server_now_s(opened, run_id) if delete else time.time()
    expiry = plan_expiry(opened, place.collection, retention, now_s)
    result = {"collection": place.collection, "deleted": delete, **_as_json(expiry)}
    if delete:
        say(in_words(expiry, done=False))  # before anything is gone
        reason = f"older than {older_than:g} days and not among the newest {keep_last}"
        carry_out(opened, expiry, run_id, when=now.isoformat(), reason=reason)
    hint = "" if delete else "\nnothing was deleted yet; --delete does it"
    print_result(result, in_words(expiry, done=delete) + hint, as_json=as_json)


def in_words(expiry: Expiry, *, done: bool) -> str:
    """The plan, or what was done, for people."""
    would = "" if done else "would be "
    sequences = ", ".join(f"{sequence} of {collection}" for collection, sequence in expiry.snapshots)
    lines = [
        f"snapshots {would}recorded as expired: {sequences or 'none'}",
        f"{len(expiry.candidates)} candidates that their collection has left behind {would}deleted",
        f"{len(expiry.condemned)} files, {_n_bytes(expiry.condemned)} bytes, {would}condemned: they go a day "
        f"later, at the earliest; {len(expiry.receipts)} receipts {would}deleted",
        *_lines(expiry.condemned),
        f"{len(expiry.due)} files condemned earlier, {_n_bytes(expiry.due)} bytes, {would}deleted",
        *_lines(expiry.due),
        f"{len(expiry.leftovers)} leftovers of runs and probes, {_n_bytes(expiry.leftovers)} bytes, "
        f"and {len(expiry.unfinished)} unfinished writes {would}deleted",
    ]
    if expiry.busy:
        names = ", ".join(run.run_id for run in expiry.busy)
        lines.append(f"nothing is condemned while a run is at work, or was less than a day ago: {names}")
    return "\n".join(lines)


def _lines(stats: tuple[ObjectStat, ...]) -> list[str]:
    shown = [f"    {visible(stat.key)}" for stat in stats[:_SHOWN]]
    return [*shown, f"    and {len(stats) - _SHOWN} more, see --json"] if len(stats) > _SHOWN else shown


def _as_json(expiry: Expiry) -> dict[str, Any]:
    return {
        "snapshots": [list(name) for name in expiry.snapshots],
        "candidates": _keys(expiry.candidates),
        "condemned": _keys(expiry.condemned),
        "receipts": _keys(expiry.receipts),
        "due": _keys(expiry.due),
        "leftovers": _keys(expiry.leftovers),
        "unfinished": _keys(expiry.unfinished),
        "busy": [run.run_id for run in expiry.busy],
        "bytes": {"condemned": _n_bytes(expiry.condemned), "deleted": expiry.deleted_bytes},
    }


def _keys(stats: Iterable[ObjectStat]) -> list[str]:
    return [stat.key for stat in stats]


def _n_bytes(stats: Iterable[ObjectStat]) -> int:
    return sum(stat.size_bytes for stat in stats)
