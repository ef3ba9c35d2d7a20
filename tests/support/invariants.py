"""Checks the invariants I1 to I12 of a store from its bytes alone; shares no code with what it checks.

A state of a store is its objects, key to bytes. ``violations`` judges one state, ``violations_between`` two
states of one store in the order of time, ``differences`` two stores that must hold the same. Each violation
is a line that begins with the name of its invariant. What a state can show of each:

I1 every manifest is whole: sealed, with the digest of its content, its index shards the image of its parts.
I2 sequences without gaps, each on top of the one before. I3 what a retained snapshot names exists with its
sha256. I4 a run once in a history. I5 counts balance, no image twice. I6 no snapshot that was there is gone.
I7 the same content whatever happened on the way. I8 no manifest and no receipt that proved something changed.
I9 a refusal has one of the reasons that an image can be blamed for. I10 nothing reached was deleted, and what
a candidate names exists. I11 the bytes of a data file never change under a reader. I12 no task with a receipt
was done again.

``python -m tests.support.invariants FOLDER`` checks a local store.
"""

import hashlib
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

State = Mapping[str, bytes]
_TEMPORARY = ".bitsieve-tmp"
_DATA = ("embeddings/", "rejects/", "attributes/", "encoders/", "index/", "deletes/", "listings/", "models/")
_REASONS = frozenset(
    {
        "empty",
        "too_large",
        "unidentified",
        "format_not_allowed",
        "decode_timeout",
        "decode_memory",
        "decoder_crash",
        "truncated",
        "corrupt",
        "too_many_pixels",
        "bad_dimensions",
        "mode_unsupported",
        "nonfinite_embedding",
        "duplicate_id",
        "ambiguous_sample",
        "not_regular",
        "bad_id",
        "source_not_allowed",
        "source_missing",
        "source_changed",
    }
)


def folder_state(folder: Path) -> dict[str, bytes]:
    """The state of a local store now."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] != _TEMPORARY
    }


def violations(state: State) -> list[str]:
    """What one state shows to be broken."""
    return list(_violations(state))


def violations_between(before: State, after: State) -> list[str]:
    """What happened between two states of a store that must not happen."""
    return list(_violations_between(before, after))


def differences(one: State, other: State) -> list[str]:
    """I7: where the newest snapshots of two stores do not hold the same."""
    found = []
    newest = [
        {name: json.loads(state[keys[-1]]) for name, keys in _histories(state).items()}
        for state in (one, other)
    ]
    for name in sorted(newest[0].keys() | newest[1].keys()):
        digests = [manifests.get(name, {}).get("digest") for manifests in newest]
        if digests[0] != digests[1]:
            found.append(f"I7 the newest snapshots of {name} have digests {digests[0]} and {digests[1]}")
    return found


def live_ids(state: State, collection: str = "main") -> list[str]:
    """The images of the newest snapshot, each as often as it is alive; none before the first."""
    keys = _histories(state).get(collection, [])
    if not keys:
        return []
    content = _read(state, keys[-1])["content"]
    bitmaps = {ref["part"]: ref for ref in content["dead_rows"]}
    parts = [_part(state, ref, bitmaps.get(ref["key"]), content["model"]["dim"]) for ref in content["parts"]]
    return [id_ for part in parts for id_, alive in zip(part.ids, part.alive_N, strict=True) if alive]


def _violations(state: State) -> Iterator[str]:
    for name, keys in _histories(state).items():
        runs: Counter[str] = Counter()
        for number, key in enumerate(keys, start=1):
            try:
                manifest = _read(state, key)
            except (ValueError, KeyError, TypeError) as exc:
                yield f"I1 {key} cannot be read: {exc!r}"
                continue
            runs[manifest["run_id"]] += 1
            if key != _snapshot(name, number) or (manifest["collection"], manifest["sequence"]) != (
                name,
                number,
            ):
                yield f"I2 {key} stands where snapshot {number} of {name} should"
            if manifest["parent"] != (number - 1 or None):
                yield f"I2 {key} has parent {manifest['parent']}"
            yield from _of_manifest(state, key, manifest, retained=key not in _expired(state))
        yield from (f"I4 run {run_id} occurs {n} times in {name}" for run_id, n in runs.items() if n > 1)
    for key in state:
        if "/candidates/" in key:
            missing = [
                file["key"] for file in _files(_read(state, key)["content"]) if file["key"] not in state
            ]
            yield from (f"I10 {file}, which {key} names, is gone" for file in missing)
        if key.startswith("rejects/"):
            reasons = set(pq.read_table(io.BytesIO(state[key]))["reason"].to_pylist())
            yield from (f"I9 {key} blames an image for {reason!r}" for reason in sorted(reasons - _REASONS))


def _of_manifest(state: State, key: str, manifest: dict[str, Any], *, retained: bool) -> Iterator[str]:
    content, coverage = manifest["content"], manifest["coverage"]
    if _sha256(_canonical(_digested(content))) != manifest["digest"]:
        yield f"I1 {key}: the digest is not that of its content"
    accounted = sum(coverage[name] for name in ("embedded", "reused", "stale", "rejected", "set_aside"))
    if accounted != coverage["listed"]:
        yield f"I5 {key}: {coverage['listed']} images were listed, {accounted} are accounted for"
    if sum(content["rejected"].values()) != coverage["rejected"] + coverage["stale"]:
        yield f"I5 {key}: refusals by reason do not add up to {coverage['rejected']} and stale ones"
    if not retained:
        return
    whole = True
    for file in _files(content):
        data = state.get(file["key"])
        if data is None or (len(data), _sha256(data)) != (file["size_bytes"], file["sha256"]):
            whole = False
            yield f"I3 {file['key']}, which {key} names, is {'gone' if data is None else 'another'}"
    if f"models/{content['model']['id']}.onnx" not in state:
        yield f"I3 the model of {key} is gone"
    if whole:
        yield from (f"{found} in {key}" for found in _of_rows(state, content, coverage))


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The rows of a part: ids, versions, vectors as stored [N, D], and which are alive."""

    ids: list[str]
    versions: list[str]
    x_ND: npt.NDArray[Any]
    alive_N: npt.NDArray[np.bool_]


def _of_rows(state: State, content: dict[str, Any], coverage: dict[str, int]) -> Iterator[str]:
    """Violations of parts, bitmaps and index shards, all of whose files are there."""
    bitmaps = {ref["part"]: ref for ref in content["dead_rows"]}
    parts: dict[str, _Part] = {}
    for ref in content["parts"]:
        part = parts[ref["key"]] = _part(state, ref, bitmaps.get(ref["key"]), content["model"]["dim"])
        if len(part.ids) != ref["rows"]:
            yield f"I5 part {ref['key']} has {len(part.ids)} rows, not {ref['rows']},"
        if ref["key"] in bitmaps and bitmaps[ref["key"]]["dead"] != int((~part.alive_N).sum()):
            yield f"I5 the bitmap of part {ref['key']} has another count of dead rows"
        refused = _column(state, ref["rejects"], "reason")
        if dict(Counter(refused)) != ref["rejected"]:
            yield f"I5 part {ref['key']} has other refusals than are counted"
    live = [
        (id_, version)
        for part in parts.values()
        for id_, version, alive in zip(part.ids, part.versions, part.alive_N, strict=True)
        if alive
    ]
    yield from (f"I5 {id_!r} is alive {n} times" for id_, n in Counter(i for i, _ in live).items() if n > 1)
    settled = coverage["embedded"] + coverage["reused"] + coverage["stale"]
    if len(live) != content["live_rows"] or (not coverage["set_aside"] and len(live) != settled):
        yield f"I5 {len(live)} images live, not {content['live_rows']} as counted, {settled} as settled,"
    if _rows_digest(live) != content["rows_digest"]:
        yield "I1 the digest of the live rows is another"
    indexed = Counter(key for shard in content["index_shards"] for key in shard["parts"])
    if indexed != Counter(ref["key"] for ref in content["parts"] if ref["rows"] and parts[ref["key"]].ids):
        yield "I1 index shards and parts are not the same"
    for shard in content["index_shards"]:
        yield from _of_index_shard(state, content, shard, parts)


def _of_index_shard(
    state: State, content: dict[str, Any], shard: dict[str, Any], parts: Mapping[str, _Part]
) -> Iterator[str]:
    rows = pa.ipc.open_file(io.BytesIO(state[shard["row_ids"]["key"]])).read_all()
    places = list(zip(rows["part"].to_pylist(), rows["row"].to_pylist(), strict=True))
    wanted = [(p, row) for p, key in enumerate(shard["parts"]) for row in range(len(parts[key].ids))]
    if sorted(places) != wanted or len(wanted) != shard["rows"]:
        yield f"I1 index shard {shard['key']} has not each row of its parts once"
        return
    ids = [parts[shard["parts"][p]].ids[row] for p, row in places]
    x_ND = np.array([parts[shard["parts"][p]].x_ND[row] for p, row in places])
    vectors_ND = np.load(io.BytesIO(state[shard["vectors"]["key"]]))
    codes_NB = _codes(state, content, x_ND)
    if rows["image_id"].to_pylist() != ids:
        yield f"I1 index shard {shard['key']} has other ids than its parts"
    if not np.array_equal(vectors_ND, x_ND.astype(vectors_ND.dtype)):
        yield f"I1 index shard {shard['key']} has other vectors than its parts"
    if not state[shard["codes"]["key"]].endswith(codes_NB.tobytes()):
        yield f"I1 index shard {shard['key']} has other codes than its vectors give"


def _codes(state: State, content: dict[str, Any], x_ND: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    with np.load(io.BytesIO(state[content["encoder"]["file"]["key"]])) as encoder:
        values_NB = np.rint(x_ND.astype(np.float64) * 2.0**26) / 2.0**26 - encoder["mean_D"]
        if "rotation_BD" in encoder:
            values_NB = values_NB @ encoder["rotation_BD"].astype(np.float64).T
        return np.packbits(values_NB > encoder["thresholds_B"], axis=1, bitorder="little")


def _violations_between(before: State, after: State) -> Iterator[str]:
    reached = {
        file["key"]: key
        for key in (*_manifests(before), *_manifests(after))
        if key in after and key not in _expired(after)
        for file in _files(_read(after, key)["content"])
    }
    for key, data in before.items():
        if key not in after:
            if "/snapshots/" in key:
                yield f"I6 {key} is gone"
            if key in reached:
                yield f"I10 {key} was deleted, {reached[key]} names it"
        elif after[key] != data:
            if "/snapshots/" in key:
                yield f"I8 {key} has changed"
            if key.startswith("receipts/") and _proves(before, key):
                yield f"I8 {key} proved something and has changed"
            if key.startswith(_DATA):
                yield f"I11 {key} has changed under its readers"
    receipts = {
        key.rpartition("/")[2].removesuffix(".json"): key for key in before if key.startswith("receipts/")
    }
    for key in sorted(after.keys() - before.keys()):
        receipt = receipts.get(key.rpartition("/")[2].partition("-")[0])
        if key.startswith(_DATA) and receipt is not None and _proves(before, receipt):
            yield f"I12 {key} was made although {receipt} was there"


def _proves(state: State, receipt: str) -> bool:
    files = json.loads(state[receipt])["files"].values()
    return all(len(state.get(file["key"], b"")) == file["size_bytes"] for file in files)


def _histories(state: State) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key in sorted(state):
        if key.startswith("collections/") and "/snapshots/" in key:
            found.setdefault(key.split("/")[1], []).append(key)
    return found


def _manifests(state: State) -> list[str]:
    return [key for key in state if "/snapshots/" in key or "/candidates/" in key]


def _expired(state: State) -> set[str]:
    """The manifests that are no longer retained."""
    return {key.replace("/expired/", "/snapshots/") for key in state if "/expired/" in key}


def _snapshot(collection: str, sequence: int) -> str:
    return f"collections/{collection}/snapshots/{sequence:020d}.json"


def _read(state: State, key: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(state[key])
    seal = document.pop("seal", None)
    if seal != _sha256(_canonical(document)):
        raise ValueError("its seal is broken")
    for name in ("parts", "index_shards"):
        if isinstance(document["content"][name], dict):
            data = state[document["content"][name]["list"]]
            if f"lists/{_sha256(data)}.json" != document["content"][name]["list"]:
                raise ValueError(f"its list of {name} is another")
            document["content"][name] = json.loads(data)
    return document


def _files(value: Any) -> Iterator[dict[str, Any]]:
    """Every file that is named somewhere inside."""
    if isinstance(value, dict):
        if value.keys() == {"key", "sha256", "size_bytes"}:
            yield value
        for item in value.values():
            yield from _files(item)
    elif isinstance(value, list):
        for item in value:
            yield from _files(item)


def _digested(content: dict[str, Any]) -> dict[str, Any]:
    """What the digest of a snapshot is taken of."""

    def sha(file: dict[str, Any] | None) -> str | None:
        return None if file is None else file["sha256"]

    extra = ("offsets", "order", "int8", "scales")
    return {
        "model": content["model"]["id"],
        "encoder": content["encoder"]["digest"],
        "parts": [[p["key"], p["rows"], sha(p["embeddings"]), sha(p["rejects"])] for p in content["parts"]],
        "index_shards": [
            [s["key"], sha(s["codes"]), sha(s["vectors"]), sha(s["row_ids"])]
            + [[name, sha(s[name])] for name in extra if s.get(name)]
            for s in content["index_shards"]
        ],
        "dead_rows": [[ref["part"], sha(ref["file"])] for ref in content["dead_rows"]],
        "attributes": [sha(layer["file"]) for layer in content["attributes"]],
        "counts": {"live": content["live_rows"], "rejected": content["rejected"]},
        "settings": content["settings"],
        "calibration": content["calibration"],
    }


def _part(state: State, ref: dict[str, Any], bitmap: dict[str, Any] | None, dim: int) -> _Part:
    if ref["embeddings"] is None:
        return _Part(ids=[], versions=[], x_ND=np.empty((0, dim)), alive_N=np.ones(0, dtype=bool))
    table = pq.read_table(io.BytesIO(state[ref["embeddings"]["key"]]))
    alive_N = np.ones(table.num_rows, dtype=bool)
    if bitmap is not None:
        packed = np.frombuffer(state[bitmap["file"]["key"]], dtype=np.uint8)
        alive_N = ~np.unpackbits(packed, count=table.num_rows, bitorder="little").astype(bool)
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return _Part(
        ids=table["image_id"].to_pylist(),
        versions=table["version"].to_pylist(),
        x_ND=flat.reshape(-1, dim),
        alive_N=alive_N,
    )


def _column(state: State, file: dict[str, Any] | None, name: str) -> list[Any]:
    return [] if file is None else pq.read_table(io.BytesIO(state[file["key"]]))[name].to_pylist()


def _rows_digest(live: list[tuple[str, str]]) -> str:
    rows = sorted(f"{id_}\0{version}".encode() for id_, version in live)
    ends = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
    return _sha256(str(len(rows)).encode() + ends.tobytes() + b"".join(rows))


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    broken = violations(folder_state(Path(sys.argv[1])))
    sys.exit("\n".join(broken) or 0)
