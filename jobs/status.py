"""``bitsieve status``: which runs live and how far they are, how the last one ended, the age of the snapshot.

Everything comes from the store, so it can be asked on any machine that may read it. A run that was killed
says nothing: its progress object only grows old, and is called silent after a minute.
"""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from jobs.output import AsJson, print_result, say
from jobs.place import Collection, Config, Store, find_place
from jobs.progress import pace_in_words
from pipeline.errors import DataCorrupt
from pipeline.snapshot.publish import newest, newest_sequence
from pipeline.storage import layout
from pipeline.storage.store import ObjectStat, ObjectStore

_SILENT_AFTER_S = 60.0
_LOOK_BACK_DAYS = (32, 3660)
_MOST_RUNS = 20


def command(
    store: Store,
    collection: Collection = None,
    config: Config = None,
    as_json: AsJson = False,
) -> int:
    """Live runs and the last one that ended, with progress and time left; the age of the newest snapshot.

    Example: bitsieve status --store index/ --json
    """
    place = find_place(store, collection, config)
    result = status(place.open(), place.collection, time.time())
    if "error" in result:
        say("bitsieve: {kind}: {message}\n  fix: {fix}".format(**result["error"]))
    print_result(result, _in_words(result), as_json=as_json)
    return DataCorrupt.exit_code if "error" in result else 0


def status(store: ObjectStore, collection: str, now_s: float) -> dict[str, Any]:
    """The newest snapshot and its age; live and silent runs; the last run that ended.

    Where the newest snapshot cannot be read, only its sequence is known, and ``error`` says why.
    ``now_s`` is seconds since 1970; the clock of the machine that asks and the store's should agree to a few
    seconds.
    """
    published, error = _published(store, collection, now_s)
    runs = _runs(store, collection, now_s)
    ended = [run for run in runs if run["state"] == "ended"]
    last = ended[0] if ended else None
    live = [run for run in runs if run["state"] == "live"]
    silent = [run for run in runs if run["state"] == "silent" and (last is None or run["run"] > last["run"])]
    found = {"collection": collection, "snapshot": published, "live": live, "silent": silent, "last": last}
    return found if error is None else {**found, "error": error}


def _published(
    store: ObjectStore, collection: str, now_s: float
) -> tuple[dict[str, Any] | None, dict[str, str] | None]:
    """The newest snapshot, None before the first; and what is wrong with it."""
    try:
        manifest = newest(store, collection)
    except DataCorrupt as exc:
        fix = "restore it from a copy of the store; `bitsieve verify --all` finds what else is damaged"
        error = {"kind": exc.kind, "message": exc.message, "fix": fix}
        unknown = {"created": None, "age_s": None, "images": None}
        return {"sequence": newest_sequence(store, collection), **unknown}, error
    if manifest is None:
        return None, None
    age_s = now_s - datetime.fromisoformat(manifest.created).timestamp()
    return {
        "sequence": manifest.sequence,
        "created": manifest.created,
        "age_s": round(age_s),
        "images": manifest.content.live_rows,
    }, None


def _runs(store: ObjectStore, collection: str, now_s: float) -> list[dict[str, Any]]:
    """The collection's runs of late, newest first: at most twenty of the store are read."""
    found: list[dict[str, Any]] = []
    for item in _progress_objects(store, now_s):
        document = json.loads(store.get(item.key))
        if document["collection"] == collection and document["ended"] != "planned":
            silent_s = max(0, round(now_s - item.modified_s))
            state = "live" if silent_s <= _SILENT_AFTER_S else "silent"
            found.append(
                {**document, "state": "ended" if document["ended"] else state, "updated_s_ago": silent_s}
            )
    return found


def _progress_objects(store: ObjectStore, now_s: float) -> list[ObjectStat]:
    """Of the last 32 days, else of all: names of runs sort by time, so what is older is not even listed."""
    for days in _LOOK_BACK_DAYS:
        since = datetime.fromtimestamp(now_s, UTC) - timedelta(days=days)
        begin = layout.runs_since(f"{since:%Y%m%dT%H%M%SZ}")
        listed = [
            item
            for item in store.list_objects(layout.RUNS, start_after=begin)
            if item.key.endswith(layout.PROGRESS)
        ]
        if listed:
            return sorted(listed, key=lambda item: item.key, reverse=True)[:_MOST_RUNS]
    return []


def _in_words(result: Mapping[str, Any]) -> str:
    published, last = result["snapshot"], result["last"]
    lines = [f"{result['collection']}: nothing published yet"]
    if "error" in result:
        lines = [f"{result['collection']}: snapshot {published['sequence']} CANNOT BE READ"]
    elif published is not None:
        age = timedelta(seconds=published["age_s"])
        lines = [
            f"{result['collection']}: snapshot {published['sequence']} of {published['images']} images, "
            f"published {age} ago"
        ]
    lines += [_run_in_words(run) for run in [*result["live"], *result["silent"]]]
    if last is not None:
        lines.append(
            f"last run {last['run']}: {_ending(last)}, {timedelta(seconds=last['updated_s_ago'])} ago"
        )
    return "\n".join(lines)


def _run_in_words(run: Mapping[str, Any]) -> str:
    silent = f", SILENT for {timedelta(seconds=run['updated_s_ago'])}: killed, or cut off from the store"
    told = [
        f"{run['stage']} {run['done']} of {run['total']} {run['unit']}",
        pace_in_words(run["per_s"], run["left_s"]),
        run["note"],
    ]
    where = f"run {run['run']} on {run['host']}: {', '.join(part for part in told if part)}"
    return where + (silent if run["state"] == "silent" else "")


def _ending(run: Mapping[str, Any]) -> str:
    error = run.get("error")
    if run["ended"] == "incomplete":
        return f"incomplete, {run['done']} of {run['total']} {run['unit']} done"
    return run["ended"] if error is None else f"{run['ended']} ({error['kind']}: {error['message']})"
