"""``bitsieve bench index``: its command line."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.bench.index.contest import Contest, run_contest
from jobs.bench.index.data_set import DataSet, identity_set, read_vectors, vectors_set
from jobs.bench.index.embedded import NAMED, embedded_vectors
from jobs.bench.index.growth import measure_growth
from jobs.bench.index.middle import measure_middle
from jobs.bench.index.picture import draw_curves
from jobs.bench.index.race import Race
from jobs.bench.index.seeds import measure_seeds
from jobs.bench.index.words import index_text
from jobs.bench.machine import load, machine_facts, usable_cores
from jobs.output import AsJson, JsonFile, print_result, say
from jobs.run import default_cache
from pipeline.errors import UsageError

IDENTITY = "identity"
EXAMPLE = "Example: bitsieve bench index --rows 1000000 -o index.json --svg index.svg"
_ROWS, _QUICK_ROWS = 1_000_000, 10_000
_K = 10


def index(
    rows: Annotated[
        int | None, typer.Option(min=1_000, help="How many vectors; 1,000,000 if absent.")
    ] = None,
    data: Annotated[
        str, typer.Option(help="`identity` (generated), `lfw`, `grocery`, or a .npy or Parquet file.")
    ] = IDENTITY,
    target: Annotated[float, typer.Option(min=0.5, max=0.9999, help="The recall that is asked for.")] = 0.99,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are reported.")] = 3,
    peers: Annotated[
        str | None, typer.Option("--peers", help="Only these, as in hnsw32,ivf_pq; all if absent.")
    ] = None,
    no_peers: Annotated[bool, typer.Option("--no-peers", help="Ours alone.")] = False,
    variants: Annotated[
        bool, typer.Option("--variants/--no-variants", help="Also ours with other codes and vectors.")
    ] = True,
    peer_seconds: Annotated[
        float, typer.Option(min=1, help="The most for a peer's build, and for trying its searches.")
    ] = 900,
    growth: Annotated[
        str | None, typer.Option(help="Also ours at so many rows, as in 1000000,10000000.")
    ] = None,
    recall_seeds: Annotated[
        int, typer.Option(min=0, help="Also: is the recall asked for met, over so many seeds?")
    ] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="10,000 vectors, one round, little tuning, nothing is installed.")
    ] = False,
    output: JsonFile = None,
    svg: Annotated[Path | None, typer.Option(help="Draw queries/s against recall here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Search against the libraries that users would pick instead, at the same recall, on the same vectors."""
    sizes = _sizes(growth)
    started = time.perf_counter()
    cache = default_cache(os.environ)
    cache.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "ours": None,
        "best_peer": None,
        "peers": {},
        "machine": machine_facts(),
        "load_at_start": load(),
        "command": sys.argv[1:],
        "quick": quick,
    }
    with tempfile.TemporaryDirectory(prefix="bench-index-", dir=cache) as folder:
        work = Path(folder)
        found = _data(data, rows or (_QUICK_ROWS if quick else _ROWS), work / "data", cache)
        result["data"] = {
            "name": found.name,
            "rows": found.rows,
            "d": found.d,
            "queries": found.n_queries,
            "float32_bytes": found.float32_bytes,
        }
        race = Race(
            data=found,
            cores=usable_cores(),
            rounds=1 if quick else rounds,
            k=_K,
            target=target,
            tuning_s=0.05 if quick else 0.3,
            racing_s=0.1 if quick else 1.0,
            limit_s=peer_seconds,
            work=work,
        )
        names = [] if no_peers else None if peers is None else peers.split(",")
        contest = Contest(race=race, cache=cache, names=names, variants=variants and not quick, quick=quick)
        result.update(run_contest(contest))
        if contest.variants:
            result["middle_stage"] = measure_middle(found, _K)
        if sizes:
            result["growth"] = measure_growth(race, sizes)
        if recall_seeds:
            result["seeds"] = measure_seeds(race, recall_seeds)
    result["load_at_end"] = load()
    result["seconds"] = round(time.perf_counter() - started, 1)
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")
    if svg is not None:
        draw_curves(result, svg)
    print_result(result, index_text(result), as_json=as_json)


def _data(name: str, rows: int, folder: Path, cache: Path) -> DataSet:
    if name == IDENTITY:
        say(f"bench: drawing {rows} vectors of the identity model")
        return identity_set(folder, rows, k=_K)
    vectors_ND = embedded_vectors(name, cache) if name in NAMED else read_vectors(Path(name))
    return vectors_set(name, folder, vectors_ND, rows, k=_K)


def _sizes(growth: str | None) -> list[int]:
    if growth is None:
        return []
    try:
        sizes = [int(part) for part in growth.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1_000:
        raise UsageError(
            f"--growth {growth!r} is not a list of row counts", fix="for example --growth 1000000,10000000"
        )
    return sizes
