"""``bitsieve bench``: the command line of the benchmarks."""

import json
import os
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.bench import exact as exact_bench
from jobs.bench import measures as measures_bench
from jobs.bench import plan as plan_bench
from jobs.bench import reindex as reindex_bench
from jobs.bench import train as train_bench
from jobs.bench.contest import Contest, run_contest
from jobs.bench.crash import crash
from jobs.bench.goals import judged
from jobs.bench.growth import measure_growth
from jobs.bench.image_sets import ImageSet, demo_set, prepare_model, source_set
from jobs.bench.index import command as index_command
from jobs.bench.machine import load, machine_facts, usable_cores
from jobs.bench.overlap import OverlapPlan, decode_bound, latency
from jobs.bench.peers_environment import PeersEnvironment, find_or_make
from jobs.bench.small_objects import small_objects
from jobs.bench.words import embed_text
from jobs.models import FILTERS
from jobs.output import AsJson, JsonFile, print_result, say
from jobs.run import default_cache
from pipeline.errors import UsageError

app = typer.Typer(help="Benchmarks: side by side on this machine, as ratios.", no_args_is_help=True)
app.command("index", epilog=index_command.EXAMPLE)(index_command.index)
app.command("reindex", epilog=reindex_bench.EXAMPLE)(reindex_bench.command)
app.command("train", epilog=train_bench.EXAMPLE)(train_bench.command)
app.command("plan", epilog=plan_bench.EXAMPLE)(plan_bench.command)
app.command("metrics", epilog=measures_bench.EXAMPLE)(measures_bench.command)
app.command("exact", epilog=exact_bench.EXAMPLE)(exact_bench.command)

_QUICK_PRODUCTS, _PRODUCTS = 40, 300
_QUICK_PHOTOS, _PHOTOS = 24, 3_000
_LATENCY_IMAGES = 12_000
_QUICK_OBJECTS, _OBJECTS = 200, 10_000


class Set(StrEnum):
    """Which images are raced on."""

    SOURCE = "source"
    DECODE_BOUND = "decode-bound"
    LATENCY = "latency"
    SMALL_OBJECTS = "small-objects"
    CRASH = "crash"


@app.command(
    "embed",
    epilog="Example: bitsieve bench embed --images lfw-aligned112 --model mobilefacenet128_l2.onnx --json",
)
def embed(
    images: Annotated[
        str | None, typer.Option(help="Folder or s3:// prefix of tars; a generated shop if absent.")
    ] = None,
    model: Annotated[str, typer.Option(help="ONNX file, with or without a card, or `builtin`.")] = FILTERS,
    sets: Annotated[
        list[Set] | None, typer.Option("--set", help="What to race on; may be repeated; `source` if absent.")
    ] = None,
    tars: Annotated[int | None, typer.Option(min=1, help="Use the first so many tars only.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are reported.")] = 3,
    tuning_tars: Annotated[int, typer.Option(min=1, help="Tars to try the peers' settings on.")] = 2,
    growth: Annotated[
        str | None, typer.Option(help="Also repeat the tars so many times, as in 1,4,10.")
    ] = None,
    s3: Annotated[
        str | None,
        typer.Option("--s3", help="s3:// prefix to write to, for `--set latency` and `small-objects`."),
    ] = None,
    objects: Annotated[
        int | None, typer.Option(min=1, help="Objects of `--set small-objects`; 10,000 if absent.")
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also run ours with its workers under cProfile.")
    ] = False,
    peers: Annotated[
        bool, typer.Option("--peers/--no-peers", help="Install and race Ray Data and a DataLoader loop.")
    ] = True,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few hundred images, one round, nothing is installed.")
    ] = False,
    output: JsonFile = None,
    as_json: AsJson = False,
) -> None:
    """Embedding against bare loops, Ray Data and a PyTorch DataLoader, on the same images and model."""
    times = _times(growth)
    chosen = sets or [Set.SOURCE]
    started = time.perf_counter()
    cache = default_cache(os.environ)
    cache.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "ratio_to_ceiling": None,
        "ratio_to_ray_data": None,
        "ratio_to_dataloader": None,
        "machine": machine_facts(),
        "load_at_start": load(),
        "quick": quick,
    }
    with tempfile.TemporaryDirectory(prefix="bench-", dir=cache) as folder:
        work = Path(folder)
        bench_model = prepare_model(model, work)
        result["model"] = {"name": bench_model.model.card.name, "id": bench_model.model.model_id}
        plan = OverlapPlan(model=bench_model, cores=usable_cores(), rounds=1 if quick else rounds, work=work)
        image_set = _images(images, tars, work, quick=quick)
        result["images"] = {
            "name": image_set.name,
            "count": image_set.n_images,
            "tars": len(image_set.tars),
            "bytes": image_set.size_bytes,
            "on_s3": image_set.source.startswith("s3://"),
        }
        if Set.SOURCE in chosen:
            found = _peers(cache, wanted=peers, make=not quick)
            result["peers"] = {"versions": found.versions, "made_s": found.made_s, "failure": found.failure}
            contest = Contest(
                images=image_set,
                model=bench_model,
                cores=plan.cores,
                rounds=plan.rounds,
                tuning_tars=tuning_tars,
                tune=not quick,
                profile=profile,
                peers=found,
                work=work,
            )
            result.update(run_contest(contest))
        if Set.DECODE_BOUND in chosen:
            result["decode_bound"] = decode_bound(plan, _QUICK_PHOTOS if quick else _PHOTOS)
        if Set.LATENCY in chosen:
            result["latency"] = latency(plan, image_set, s3, 1 if quick else _LATENCY_IMAGES)
        if Set.SMALL_OBJECTS in chosen:
            n_objects = objects or (_QUICK_OBJECTS if quick else _OBJECTS)
            result["small_objects"] = small_objects(plan, image_set, s3, n_objects, tune=not quick)
        if Set.CRASH in chosen:
            result["crash"] = crash(plan, image_set)
        if times:
            result["growth"] = measure_growth(image_set, bench_model, times, plan.rounds, work)
    result["seconds"] = round(time.perf_counter() - started, 1)
    result["goals"] = judged(result)
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")
    print_result(result, embed_text(result), as_json=as_json)


def _images(uri: str | None, tars: int | None, work: Path, *, quick: bool) -> ImageSet:
    if uri is None:
        n_products = _QUICK_PRODUCTS if quick else _PRODUCTS
        say(f"bench: generating a shop of {n_products} products")
        found = demo_set(work / "shop", n_products=n_products)
    else:
        found = source_set(uri, work / "copies")
    return found if tars is None else found.first(tars)


def _peers(cache: Path, *, wanted: bool, make: bool) -> PeersEnvironment:
    if not wanted:
        return PeersEnvironment(python=None, made_s=0.0, versions={}, failure="left out with --no-peers")
    return find_or_make(cache, make=make)


def _times(growth: str | None) -> list[int]:
    if growth is None:
        return []
    try:
        times = [int(part) for part in growth.split(",")]
    except ValueError:
        times = [0]
    if min(times) < 1:
        raise UsageError(f"--growth {growth!r} is not a list of counts", fix="for example --growth 1,4,10")
    return times
