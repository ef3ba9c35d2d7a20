"""``bitsieve bench exact``: exact ranks over a base that stays in a file; processor time and memory.

1. Vectors like those of faces are drawn by a seed (``index.identity``) into a mapped file, in order of ids.
2. Seeded queries are ranked leave-one-out over all of them, block by block, as ``evaluate retrieval`` does.
3. A thread samples what the process holds: its anonymous memory, which nobody can take back, and the resident
   pages of the file, which the system drops when the room is needed.
"""

import json
import os
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Annotated

import numpy as np
import typer

from jobs.bench.index.identity import IMAGES_OF_ONE, D, identity_model
from jobs.bench.machine import load, machine_facts
from jobs.output import AsJson, JsonFile, print_result, say
from jobs.run import default_cache
from pipeline.evaluate.metrics import success_at
from pipeline.evaluate.ranking import LabelledVectors
from pipeline.evaluate.retrieval import Asked, Options, contest_of, rank_here
from pipeline.index.mapped import create_array

EXAMPLE = "Example: bitsieve bench exact --rows 1000000 --queries 64 --json"
_PERIOD_S = 0.01
_MIB = 2**20


def command(
    rows: Annotated[int, typer.Option(min=100, help="Vectors of 128 dimensions.")] = 1_000_000,
    queries: Annotated[int, typer.Option(min=1, help="How many of them ask.")] = 64,
    seed: Annotated[int, typer.Option(help="Draws other vectors and other queries.")] = 0,
    output: JsonFile = None,
    as_json: AsJson = False,
) -> None:
    """Exact leave-one-out search over vectors in a mapped file: processor time of a query, peak memory."""
    busy, cache = load(), default_cache(os.environ)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=cache) as folder:
        base = _made_base(Path(folder) / "vectors", rows, seed)
        with _Peak() as whole:
            contest = contest_of(base, "identity", Asked(sample=queries), Options(seed=seed))
            held = whole.anonymous_bytes()
            began = time.process_time()
            contest.rank(range(1))  # finds repeated rows, once
            prepared_s = time.process_time() - began
            began = time.process_time()
            ranking = rank_here(contest)
            spent_s = time.process_time() - began
    n_queries = ranking.found.n_queries
    result = {
        "rows": rows,
        "dim": D,
        "queries": n_queries,
        "success@1": float(success_at(ranking.found, 1).mean()),
        "prepare_cpu_s": round(prepared_s, 3),
        "cpu_ms_per_query": round(1_000 * spent_s / n_queries, 2),
        "vectors_bytes": base.x_ND.nbytes,
        "ids_and_labels_bytes": held,
        "anonymous_peak_bytes": whole.most_anonymous_bytes,
        "resident_peak_bytes": whole.most_resident_bytes,
        "machine": machine_facts(),
        "load_at_start": busy,
    }
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")
    words = (
        f"{n_queries} queries over {rows:,} vectors of {D} dimensions, {base.x_ND.nbytes / _MIB:,.0f} MiB in "
        f"a file\n  {result['cpu_ms_per_query']} CPU ms a query, after {prepared_s:.1f} CPU s once\n  "
        f"anonymous memory {held / _MIB:,.0f} MiB with ids and labels, "
        f"{whole.most_anonymous_bytes / _MIB:,.0f} MiB at its peak; resident with pages of the file "
        f"{whole.most_resident_bytes / _MIB:,.0f} MiB"
    )
    print_result(result, words, as_json=as_json)


def _made_base(path: Path, rows: int, seed: int) -> LabelledVectors:
    model = identity_model(rows, seed)
    say(f"bench: drawing {rows:,} vectors")
    with create_array(path, b"", (rows, D), np.float32) as mapped:
        start = 0
        for x_PD in model.blocks():
            mapped.array[start : start + len(x_PD)] = x_PD
            start += len(x_PD)
        mapped.release()
        x_ND = mapped.array
    labels = [f"identity {number}" for number in (model.order_N // IMAGES_OF_ONE).tolist()]
    return LabelledVectors(x_ND=x_ND, ids=[f"{row:09d}" for row in range(rows)], labels=labels)


class _Peak:
    """Samples this process's memory from a thread until it is left; a context manager."""

    def __init__(self) -> None:
        self.most_anonymous_bytes = 0
        self.most_resident_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Peak":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def anonymous_bytes(self) -> int:
        """Now."""
        return _status()["RssAnon"]

    def _watch(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            now = _status()
            self.most_anonymous_bytes = max(self.most_anonymous_bytes, now["RssAnon"])
            self.most_resident_bytes = max(self.most_resident_bytes, now["VmRSS"])


def _status() -> dict[str, int]:
    """Resident bytes of this process by kind."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    wanted = {"VmRSS:", "RssAnon:"}
    return {
        fields[0].removesuffix(":"): int(fields[1]) * 1024
        for fields in lines
        if fields and fields[0] in wanted
    }
