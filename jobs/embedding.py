"""The embed stage of a run: hands out the image shards that have no receipt, and keeps the books on them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import pyarrow.compute as pc

from jobs.few import carried_out
from jobs.limits import limited_by, shares
from jobs.output import say
from jobs.prediction import compare, work_id
from jobs.run import Run, worker_memory_bytes
from jobs.sitting import Sitting, SittingOver
from pipeline.allocator import give_back_freed_memory
from pipeline.catalog.plan import ImageShard
from pipeline.cluster.metrics import BYTES, IMAGES, IMAGES_LEFT, LIMITING, STAGE_SECONDS, WORKERS
from pipeline.cluster.pool import Done
from pipeline.embed.task import PART, REJECTS, REUSED, STAGE, EmbedSettings, embed_key, make_worker
from pipeline.fingerprint import digest
from pipeline.model.described import Model
from pipeline.snapshot.evolve import Parent
from pipeline.snapshot.manifest import PartRef
from pipeline.storage import traffic
from pipeline.storage.receipts import Receipt, read_receipt
from pipeline.values import COSTLY_REASONS, SOURCE_REASONS, DecodeLimits

_REJECTED = "rejected."
_WORKER_MODULE = "pipeline.embed.worker"  # what make_worker imports where it is called


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """What the embed stage left: a part for each shard in plan order, and the images of shards set aside.

    ``reused`` counts the rows of ``parts`` whose vectors were copied from earlier ones.
    """

    parts: Sequence[PartRef]
    reused: int
    set_aside: int
    norm_error: float


def embed_stage(
    run: Run, shards: Sequence[ImageShard], model: Model, parent: Parent, sitting: Sitting | None = None
) -> Embedded:
    """Embeds the shards on the pool, largest first; those with a receipt are only counted.

    A receipt that refused images for a reason that may pass is not final: its shard is done again.

    Raises:
        SittingOver: ``sitting`` is, and shards are left.
    """
    sitting = sitting or Sitting()
    settings = embed_settings(run, model)
    work = work_id(shards, settings)
    shards, receipts = _with_receipts(run, shards, settings)
    todo = sorted(
        (number for number in range(len(shards)) if number not in receipts),
        key=lambda number: -_n_bytes(shards[number]),  # so that no large one is left to one worker at the end
    )
    done = sum(shards[number].n_images for number in receipts)
    total = sum(shard.n_images for shard in shards)
    run.events.record(
        "embed_planned",
        shards=len(shards),
        with_receipt=len(receipts),
        images=done,
        memory_budget_bytes=settings.memory_budget_bytes,
    )
    run.progress.stage("embed", total, "images")
    run.progress.advance(done)
    set_aside = 0
    todo = sitting.taken_on(todo, lambda number: shards[number].n_images)
    tasks = [shards[number] for number in todo]
    if tasks:
        give_back_freed_memory()  # what the listing took, while others work for hours
        say(budget_in_words(settings.memory_budget_bytes))
    worker = partial(make_worker, settings)
    are_few = sum(task.n_images for task in tasks) <= run.config.embed.few_images
    for outcome in carried_out(run.pool, worker, tasks, are_few=are_few, deadline_s=sitting.deadline_s):
        shard = shards[todo[outcome.index]]
        done += shard.n_images
        run.embed_workers = run.pool.n_workers
        if isinstance(outcome, Done):
            receipts[todo[outcome.index]] = outcome.result
            run.record_done(outcome)
            _count(run, shard, outcome.result)
        else:
            set_aside += shard.n_images
            run.record_set_aside(STAGE, shard.n_images, outcome.reason)
        run.measure(IMAGES_LEFT, total - done)
        run.progress.advance(done, limited_by(run.embed_seconds))
    if done < total:
        raise SittingOver(done, total - done)
    run.compared = compare(run, work, total) if todo else None
    if run.compared is not None:
        run.events.record("compared", **asdict(run.compared))
    config_id = embed_config_id(run, model)
    ordered = [receipts[number] for number in sorted(receipts)]
    return Embedded(
        parts=[_part(receipt, config_id, parent.sequence + 1) for receipt in ordered],
        reused=sum(receipt.counts.get(REUSED, 0) for receipt in ordered),
        set_aside=set_aside,
        norm_error=max((_norm_error(receipt) for receipt in ordered), default=0.0),
    )


def expect_work(run: Run, is_first: bool) -> None:
    """Starts what will embed while the rest is listed: on a first night all of it, else for few images."""
    if is_first:
        run.pool.prepare()
    elif run.config.embed.few_images:
        run.pool.prepare_few(_WORKER_MODULE)


def budget_in_words(memory_budget_bytes: int) -> str:
    """What a worker may hold, for the start of the stage.

    >>> budget_in_words(128 << 20)
    'embed: each worker may hold 128 MiB beside its model (embed.memory_budget)'
    """
    mebibytes = memory_budget_bytes / (1 << 20)
    return f"embed: each worker may hold {mebibytes:.4g} MiB beside its model (embed.memory_budget)"


def embed_config_id(run: Run, model: Model) -> str:
    """The digest of what tonight's vectors and rejects are known by, but for the images."""
    return digest(embed_settings(run, model).config)


def embed_settings(run: Run, model: Model) -> EmbedSettings:
    """What the workers of this run are told."""
    config = run.config.embed
    return EmbedSettings(
        store_uri=run.config.store,
        source=run.source_spec,
        model_id=model.model_id,
        cache=run.cache,
        provider=config.provider,
        precision=config.precision,
        dtype=config.dtype,
        limits=DecodeLimits(**run.config.decode.model_dump()),
        threads=config.threads or 1,
        batch_size=config.batch_size,
        memory_budget_bytes=worker_memory_bytes(config.memory_budget),
    )


def _with_receipts(
    run: Run, shards: Sequence[ImageShard], settings: EmbedSettings
) -> tuple[list[ImageShard], dict[int, Receipt]]:
    """The shards as they are to be done, and by their number the receipts of those that are done."""
    asked, receipts = list(shards), {}
    for number in range(len(asked)):
        while (found := read_receipt(run.store, STAGE, embed_key(asked[number], settings))) is not None:
            if not _may_pass(found):
                receipts[number] = found
                break
            asked[number] = replace(asked[number], redo=asked[number].redo + 1)
    return asked, receipts


def _count(run: Run, shard: ImageShard, receipt: Receipt) -> None:
    """Adds a task's images, bytes and seconds to the run's and to the cluster's metrics."""
    n_bytes, seconds = _n_bytes(shard), receipt.facts.get("seconds", {})
    run.traffic.update(receipt.facts.get("requests", {}))
    run.traffic[traffic.BYTES] += receipt.facts.get("bytes_read", 0)
    run.bytes_read += n_bytes
    run.measure(BYTES, n_bytes, direction="read")
    run.measure(WORKERS, run.embed_workers)
    reused = receipt.counts.get(REUSED, 0)
    made = {"embedded": receipt.counts["rows"] - reused, "reused": reused}
    for outcome, count in (made | _rejected(receipt)).items():
        if count:
            run.add_images(outcome, count)
            run.measure(IMAGES, count, outcome=outcome)
    for stage, spent in seconds.items():
        run.add_embed_seconds(stage, spent)
        run.measure(STAGE_SECONDS, spent, stage=stage)
    for place, stage in enumerate(shares(run.embed_seconds)):
        run.measure(LIMITING, float(place == 0), stage=stage)


def _may_pass(receipt: Receipt) -> bool:
    return any(f"{_REJECTED}{reason}" in receipt.counts for reason in SOURCE_REASONS | COSTLY_REASONS)


def _part(receipt: Receipt, config_id: str, since: int) -> PartRef:
    return PartRef(
        key=receipt.key,
        config=config_id,
        rows=receipt.counts["rows"],
        rejected=_rejected(receipt),
        embeddings=receipt.files.get(PART),
        rejects=receipt.files.get(REJECTS),
        since=since,
    )


def _rejected(receipt: Receipt) -> dict[str, int]:
    """Rejects by reason, from the counts of a receipt."""
    return {
        name.removeprefix(_REJECTED): count
        for name, count in sorted(receipt.counts.items())
        if name.startswith(_REJECTED)
    }


def _n_bytes(shard: ImageShard) -> int:
    return pc.sum(shard.table["size_bytes"]).as_py() or 0


def _norm_error(receipt: Receipt) -> float:
    facts = receipt.facts
    return max(abs(facts["norm_min"] - 1), abs(facts["norm_max"] - 1)) if "norm_min" in facts else 0.0
