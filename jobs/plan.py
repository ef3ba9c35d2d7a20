"""``bitsieve plan``: what a run would do, how long it takes and what it costs, before it is paid for.

The source is listed and compared with the newest snapshot exactly as ``reindex`` does (walked tars stay
listed, the run finds them so), then a few hundred of the images to embed are timed on this machine. Requests
are counted as the readers make them. Money is only named where the configuration gives prices, hidden parts
included.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer

from jobs.embedding import embed_settings
from jobs.look import Listed, image_shards, look
from jobs.models import collection_model, stored_model
from jobs.output import AsJson, hours_in_words, print_result
from jobs.place import Source
from jobs.prediction import predict, work_id
from jobs.reembed import embedded_again
from jobs.run import Run
from jobs.session import open_run
from pipeline.catalog.plan import ImageShard
from pipeline.catalog.read import RANGE_BYTES
from pipeline.config import PricesConfig, load_catalog
from pipeline.embed.probe import EmbedCost, measure
from pipeline.index.sample import seeded_order
from pipeline.model.session import EmbeddingSession
from pipeline.storage.probe import prepare_store
from pipeline.storage.traffic import BYTES

_KEYS_A_LISTING = 1000
_WRITES_A_SHARD = 3  # part, rejects, receipt


def command(
    source: Source = None,
    store: Annotated[str | None, typer.Option(help="Where the index lives: folder or s3:// prefix.")] = None,
    model: Annotated[str | None, typer.Option(help="ONNX file with a card, or `builtin`.")] = None,
    collection: Annotated[str | None, typer.Option(help="Collection in the store, `main` if absent.")] = None,
    root: Annotated[str | None, typer.Option(help="Where the images of a listing file are.")] = None,
    probe: Annotated[int, typer.Option(min=1, help="How many images to time.")] = 200,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers to plan for; this machine's cores.")
    ] = None,
    deadline_h: Annotated[
        float | None, typer.Option(min=0.01, help="Hours it may take; says the workers.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="TOML file with named catalogs.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="section.key=value.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a run would do, how long it would take and what it would cost.

    Example: bitsieve plan photos/ --store index/ --model faces.onnx --deadline-h 2
    """
    flags = {
        "source": None if config else source,
        "store": store,
        "model": model,
        "collection": collection,
        "read.root": root,
    }
    resolved = load_catalog(config, source, environ=os.environ, settings=settings or [], flags=flags)
    with open_run(resolved) as run:
        result = plan(run, probe=probe, workers=workers or os.cpu_count() or 1, deadline_h=deadline_h)
    print_result(result, _in_words(result), as_json=as_json)


def plan(run: Run, *, probe: int, workers: int, deadline_h: float | None) -> dict[str, Any]:
    """The plan of the run that ``run`` is configured for; embeds ``probe`` images, keeps nothing of them."""
    prepare_store(run.store, single_writer=run.config.single_writer)
    model = collection_model(run)
    listed = look(run, model)
    fresh = listed.change.fresh
    n_bytes = pc.sum(fresh["size_bytes"]).as_py() or 0
    cost = _probe(run, fresh, model.model_id, probe)
    rate = cost.images_per_s
    seconds = fresh.num_rows / rate / workers if rate else 0.0
    shards = image_shards(run, listed)
    again = embedded_again(listed, model)
    requests = _requests(listed, n_bytes, shards)
    result: dict[str, Any] = {
        "images": {
            "listed": listed.catalog.n_listed,
            "to_embed": fresh.num_rows,
            "reused": int(listed.change.kept.sum()),
            "may_be_reused": int((listed.known.surely(fresh) | listed.known.maybe(fresh)).sum()),
            "known_to_embed_again": again.count,
            "why_again": again.why,
            "deleted": int(listed.change.gone.sum()),
        },
        "image_shards": len(shards),
        "bytes_to_read": n_bytes,
        "requests": requests,
        "probe": {
            "images": cost.n_images,
            "rejected": cost.n_rejected,
            "fetch_ms": round(cost.fetch_ms, 3),
            "decode_ms": round(cost.decode_ms, 3),
            "infer_ms": round(cost.infer_ms, 3),
            "images_per_s_per_worker": round(rate, 1),
        },
        "workers": workers,
        "hours": round(seconds / 3600, 6),
        "cost": money(run.config.prices, requests, n_bytes, seconds * workers / 3600),
        "deadline": _deadline(fresh.num_rows, cost, deadline_h),
    }
    predict(run.store, work_id(shards, embed_settings(run, model)), rate, {**requests, BYTES: n_bytes})
    run.events.record("planned", **result)
    run.ended = "planned"
    return result


def _probe(run: Run, fresh: pa.Table, model_id: str, probe: int) -> EmbedCost:
    chosen = np.sort(np.argsort(seeded_order(fresh["image_id"], 0), kind="stable")[:probe])
    _, data = stored_model(run.store, model_id, run.cache)
    with EmbeddingSession(data, cache=run.cache) as session:
        return measure(run.source, run.source_spec, fresh.take(pa.array(chosen)), session)


def _requests(listed: Listed, n_bytes: int, shards: Sequence[ImageShard]) -> dict[str, int]:
    fresh, everything = listed.change.fresh, listed.catalog.table
    return count_requests(
        n_keys=_n_single(everything) + _n_containers(everything),
        n_single=_n_single(fresh),
        n_containers=sum(_n_containers(shard.table) for shard in shards),
        n_bytes=n_bytes,
        n_shards=len(shards),
    )


def _n_single(rows: pa.Table) -> int:
    return int(pc.sum(pc.equal(rows["container"], "")).as_py() or 0)


def _n_containers(rows: pa.Table) -> int:
    return int(pc.count_distinct(rows.filter(pc.not_equal(rows["container"], ""))["container"]).as_py())


def count_requests(
    *, n_keys: int, n_single: int, n_containers: int, n_bytes: int, n_shards: int
) -> dict[str, int]:
    """Requests as the readers and writers make them; on a local store they cost nothing but tell the work.

    ``n_keys`` are listed; of the images to embed ``n_single`` are objects of their own, and the others lie in
    ``n_containers``, one in two shards counted twice. ``n_bytes`` are those of all images to embed.
    """
    ranges = max(n_containers, math.ceil(n_bytes / RANGE_BYTES)) if n_containers else 0
    return {
        "list": math.ceil(n_keys / _KEYS_A_LISTING),
        "get": n_single + ranges,
        "put": _WRITES_A_SHARD * n_shards,
    }


def money(
    prices: PricesConfig, requests: Mapping[str, int], n_bytes: int, worker_hours: float
) -> dict[str, float] | None:
    """Cost by part, in the currency of the prices; None where no price is given."""
    if not prices.model_fields_set:
        return None
    gigabytes = n_bytes / 1e9
    calls = requests["get"] + requests["put"]
    parts = {
        "workers": worker_hours * prices.worker_hour,
        "requests": (
            requests["get"] * prices.get_1000 + (requests["put"] + requests["list"]) * prices.put_1000
        )
        / 1000,
        "transfer": gigabytes * prices.transfer_gb,
        "retrieval": gigabytes * prices.retrieval_gb,
        "kms": calls * prices.kms_1000 / 1000,
    }
    return {
        **{name: round(value, 4) for name, value in parts.items()},
        "total": round(sum(parts.values()), 4),
    }


def _deadline(n_images: int, cost: EmbedCost, deadline_h: float | None) -> dict[str, Any] | None:
    """How many one-thread workers meet the deadline, and how many of them decode for each that infers."""
    if deadline_h is None or not cost.images_per_s:
        return None
    needed = n_images / (deadline_h * 3600)
    ratio = cost.decode_ms / cost.infer_ms if cost.infer_ms else 0.0
    return {
        "hours": deadline_h,
        "images_per_s": round(needed, 1),
        "workers": math.ceil(needed / cost.images_per_s),
        "decode_seconds_per_infer_second": round(ratio, 3),
    }


def _in_words(result: Mapping[str, Any]) -> str:
    images, probe, requests = result["images"], result["probe"], result["requests"]
    lines = [
        f"{images['listed']} listed: {images['to_embed']} to embed, {images['reused']} reused, "
        f"{images['deleted']} deleted",
        f"{result['image_shards']} image shards, {result['bytes_to_read'] / 1e9:.2f} GB to read; requests: "
        f"{requests['list']} list, {requests['get']} get, {requests['put']} put",
        f"probe of {probe['images']} images: fetch {probe['fetch_ms']:.2f} ms, "
        f"decode {probe['decode_ms']:.2f} ms, infer {probe['infer_ms']:.2f} ms; "
        f"{probe['images_per_s_per_worker']:.0f} images/s per worker",
        f"{result['workers']} workers: {hours_in_words(result['hours'])}",
    ]
    if images["why_again"]:
        lines.append(f"{images['known_to_embed_again']} known images again: {images['why_again']}")
    if result["cost"] is not None:
        lines.append("cost: " + ", ".join(f"{name} {value:.2f}" for name, value in result["cost"].items()))
    if result["deadline"] is not None:
        wanted = result["deadline"]
        lines.append(
            f"in {hours_in_words(wanted['hours'])}: {wanted['workers']} workers, "
            f"{wanted['images_per_s']:.0f}/s"
        )
    return "\n".join(lines)
