"""``bitsieve verify``: the fsck. Is every byte of a snapshot what was written, and does all of it agree?"""

import os
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.evaluate.pictures import source_spec
from jobs.models import stored_model
from jobs.output import AsJson, print_result, say, visible
from jobs.place import Collection, Config, SnapshotNumber, Store, find_place
from jobs.progress import TerminalProgress
from jobs.repair import Repair, repair, repair_in_words
from jobs.run import default_cache, new_run_id, utc_now
from pipeline.errors import BitsieveError, DataCorrupt, StoreMismatch, UsageError
from pipeline.model.session import EmbeddingSession
from pipeline.progress import Progress
from pipeline.snapshot.expired import expired_sequences
from pipeline.snapshot.findings import Finding, dependents, with_dependents
from pipeline.snapshot.manifest import Manifest
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.reembed import Reembedded, reembed_sample
from pipeline.snapshot.verify import read_history, verify
from pipeline.storage.open import open_store
from pipeline.storage.store import ObjectStore

_SHOWN = 20


def command(
    store: Store,
    collection: Collection = None,
    config: Config = None,
    sequence: SnapshotNumber = None,
    every: Annotated[bool, typer.Option("--all", help="Every snapshot that is retained.")] = False,
    sample: Annotated[int, typer.Option(help="Images to embed again from the source.", min=0)] = 32,
    seed: Annotated[int | None, typer.Option(help="Of the sample; today's date if absent.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Compute every code again, not a sample.")] = False,
    mend: Annotated[
        bool, typer.Option("--repair", help="Have damaged things made again; looks at every snapshot.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """The fsck: every byte, every count, ids, norms, codes, receipts, and a sample embedded again.

    Example: bitsieve verify --store index/ --all --sample 100
    """
    every = every or mend
    if every and sequence is not None:
        raise UsageError("--snapshot goes neither with --all nor with --repair", fix="leave it away")
    place = find_place(store, collection, config)
    opened = place.open()
    history, chain = read_history(opened, place.collection)
    expired = expired_sequences(opened, place.collection)
    chosen = _chosen(opened, history, chain, sequence, expired, every=every)
    with TerminalProgress() as progress:
        found = verify(opened, chosen, default_cache(os.environ), progress, deep=deep)
        findings = [*chain, *found.findings]
        again = None
        seed = int(f"{utc_now():%Y%m%d}") if seed is None else seed
        if sample and chosen and not findings:  # else it would stumble over them
            again = _reembed(opened, chosen[-1], progress, sample, seed)
            findings += with_dependents(again.findings, dependents(chosen))
        can_mend = mend and findings and chosen and not chain
        repaired = _repair(opened, chosen, findings, progress) if can_mend else None
    result: dict[str, Any] = {
        "collection": place.collection,
        "snapshots": list(found.sequences),
        "expired": sorted(expired) if every else [],
        "files": found.n_files,
        "bytes": found.n_bytes,
        "rows": found.n_rows,
        "receipts": found.n_receipts,
        "sample": None if again is None else {**_without_findings(again), "seed": seed},
        "findings": [asdict(finding) for finding in findings],
    }
    left = findings if repaired is None else [one for one in findings if one.key in repaired["hopeless"]]
    if repaired is not None:
        result["repair"] = repaired
    if left:
        error = _error(left, chain_is_broken=bool(chain), mended=mend)
        result["error"] = {"kind": error.kind, "message": error.message, "fix": error.fix}
        say(f"bitsieve: {error.kind}: {error}")
    done = "" if repaired is None else f"\n{repair_in_words(repaired)}"
    print_result(result, in_words(result, findings) + done, as_json=as_json)
    return DataCorrupt.exit_code if left else 0


def in_words(result: dict[str, Any], findings: Sequence[Finding]) -> str:
    """What was looked at, and the findings, one to a paragraph."""
    sequences = ", ".join(str(sequence) for sequence in result["snapshots"])
    lines = [
        f"looked at snapshot {sequences} of {result['collection']}: {result['files']} files, "
        f"{result['bytes']} bytes, {result['rows']} rows, {result['receipts']} receipts"
    ]
    if result["expired"]:
        gone = ", ".join(str(sequence) for sequence in result["expired"])
        lines.append(f"not looked at: snapshot {gone}, expired: their files may be gone")
    sample = result["sample"]
    if sample is not None:
        lines.append(
            f"embedded {sample['compared']} of {sample['asked']} sampled images again "
            f"(seed {sample['seed']}; {sample['changed']} changed, {sample['gone']} gone, "
            f"{sample['unreadable']} unreadable in the source): least cosine {sample['least_cosine']}"
        )
    for finding in findings[:_SHOWN]:
        lines.append(f"{finding.flaw.value}: {visible(finding.key)}: {visible(finding.detail)}")
        if finding.needed_by:
            lines.append(f"    needed by {', '.join(finding.needed_by)}")
    if len(findings) > _SHOWN:
        lines.append(f"and {len(findings) - _SHOWN} more, see --json")
    return "\n".join([*lines, *([] if findings else ["nothing is wrong"])])


def _chosen(
    store: ObjectStore,
    history: Sequence[Manifest],
    chain: Sequence[Finding],
    sequence: int | None,
    expired: AbstractSet[int],
    *,
    every: bool,
) -> list[Manifest]:
    """The snapshots to look into; those that cannot be read are findings already."""
    if not history and not chain:
        raise StoreMismatch(f"there is no snapshot in {store.uri}", fix="publish one with `bitsieve reindex`")
    if every:
        return [manifest for manifest in history if manifest.sequence not in expired]
    if sequence in expired:
        raise StoreMismatch(
            f"snapshot {sequence} has expired", fix="see which are retained with `bitsieve snapshots list`"
        )
    wanted = sequence if sequence is not None else max((one.sequence for one in history), default=0)
    chosen = [manifest for manifest in history if manifest.sequence == wanted]
    if not chosen and not chain:
        raise StoreMismatch(
            f"there is no snapshot {wanted} in {store.uri}", fix="look with `bitsieve snapshots list`"
        )
    return chosen


def _reembed(
    store: ObjectStore, manifest: Manifest, progress: Progress, sample: int, seed: int
) -> Reembedded:
    """The sample on the CPU, whatever the vectors were computed on: they agree within the limit."""
    progress.stage("re-embed", sample, "images")
    cache = default_cache(os.environ)
    model, data = stored_model(store, manifest.content.model.id, cache)
    session = EmbeddingSession(data, cache=cache, where=model.card.name)
    spec = source_spec(manifest.source)
    snapshot = OpenSnapshot(store=store, manifest=manifest, cache=cache)
    again = reembed_sample(snapshot, session, open_store(spec.uri), spec, sample, seed)
    progress.advance(sample)
    return again


def _repair(
    store: ObjectStore,
    chosen: Sequence[Manifest],
    findings: Sequence[Finding],
    progress: Progress,
) -> dict[str, Any]:
    """Mends the newest snapshot, as far as parts and snapshots say what was there."""
    now = utc_now()
    order = Repair(
        store=store, run_id=new_run_id(now), now=now, cache=default_cache(os.environ), progress=progress
    )
    return repair(order, chosen, findings)


def _without_findings(again: Reembedded) -> dict[str, Any]:
    return {name: value for name, value in asdict(again).items() if name != "findings"}


def _error(findings: Sequence[Finding], *, chain_is_broken: bool, mended: bool) -> BitsieveError:
    first = findings[0]
    others = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
    message = f"{first.key}: {first.detail}{others}"
    if chain_is_broken:
        fix = "restore the snapshots named here from a copy of the store, which alone knows what they held, "
        fix += "then verify again" + ("; nothing was repaired" if mended else "")
    elif mended:
        fix = "restore what is named here from a copy of the store: nothing in the store says what it held"
    else:
        fix = "`bitsieve verify --repair` makes again what can be"
    return DataCorrupt(message, fix=fix)
