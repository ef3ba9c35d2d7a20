"""Builds an index or searches it, and measures: one process, one library, one JSON line.

- ``build``: the clock, the most memory, the bytes on disk.
- ``search``: opens the index and tries each of the search settings in turn; recall by distance, and the rates
  of whole batches and of single queries. The sweep ends when nothing better can come, or time is up.
- ``race``: the same for one setting from a cold start, with the memory that the index then holds, and once
  more with the second stage dropped from memory before every batch and before the single queries.
"""

import importlib
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jobs.bench.peers.index.library import Array, Library
from jobs.bench.peers.index.residency import drop, files_under, heap_bytes, resident_bytes

ENOUGH_RECALL = 0.9995
ENOUGH_POINTS = 6  # that reach the target: from there on a sweep only becomes slower
_BLOCK = 50  # single queries between two looks at the clock
_EPSILON = 1e-7  # of float32 distances; a tie is no miss

Asked = dict[str, Any]


def main() -> None:
    """Does what the JSON in the only argument asks and prints the one JSON line."""
    asked: Asked = json.loads(sys.argv[1])
    module = importlib.import_module(asked["library"])
    folder = Path(asked["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    library: Library = module.Index(Path(asked["data"]), folder, asked["threads"])
    result = {"build": _build, "search": _sweep, "race": _race}[asked["task"]](library, asked)
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def recall(base_ND: Array, xq_QD: Array, rows_QK: Array, bound_Q: Array, k: int) -> float:
    """Mean share of ``k`` results that are no farther than the exact k-th neighbour; a row counts once."""
    n = len(base_ND)
    found = 0
    for query, rows, bound in zip(xq_QD, rows_QK, bound_Q, strict=True):
        once = np.unique(rows[:k])
        once = once[(once >= 0) & (once < n)]
        away = base_ND[once].astype(np.float64) - query.astype(np.float64)
        found += int(np.count_nonzero(np.einsum("nd,nd->n", away, away) <= bound + _EPSILON))
    return found / (k * len(xq_QD))


def _build(library: Library, asked: Asked) -> Asked:
    library.prepare()
    started, cpu_started = time.perf_counter(), time.process_time()
    facts = dict(library.build(asked["build"]))
    build_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    library.save()
    return {
        "build_s": build_s,
        "build_cpu_s": cpu_s,
        "save_s": time.perf_counter() - started - build_s,
        "build_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "disk_bytes": sum(path.stat().st_size for path in files_under(Path(asked["folder"]))),
        **facts,
    }


def _sweep(library: Library, asked: Asked) -> Asked:
    data = Path(asked["data"])
    base_ND, xq_QD = np.load(data / "base.npy", mmap_mode="r"), np.load(data / "queries.npy")
    bound_Q = np.load(data / "bounds.npy")
    started = time.perf_counter()
    library.open(asked["build"])
    points = []
    for settings in asked["search"]:
        library.choose(settings)
        point = {"settings": settings, **_rates(library, xq_QD, asked)}
        rows_QK = library.rows(point.pop("answer"), asked["k"])
        point["recall"] = recall(base_ND, xq_QD, rows_QK, bound_Q, asked["k"])
        points.append(point)
        n_reached = sum(point["recall"] >= asked["target"] for point in points)
        in_time = time.perf_counter() - started <= asked["limit_s"]
        if (
            point["recall"] >= max(ENOUGH_RECALL, asked["target"])
            or n_reached >= ENOUGH_POINTS
            or not in_time
        ):
            break
    return {"points": points, "in_time": in_time}


def _race(library: Library, asked: Asked) -> Asked:
    data, folder = Path(asked["data"]), Path(asked["folder"])
    base_ND, xq_QD = np.load(data / "base.npy", mmap_mode="r"), np.load(data / "queries.npy")
    files = files_under(folder)
    drop(files)
    heap_before = heap_bytes()
    started = time.perf_counter()
    library.open(asked["build"])
    open_s = time.perf_counter() - started
    library.choose(asked["search"])
    drop(
        files
    )  # what was read into the heap need not stay in the page cache too; mapped pages are read again
    result = _rates(library, xq_QD, asked)
    memory = {"heap_bytes": heap_bytes() - heap_before, "file_bytes": resident_bytes(files)}
    rows_QK = library.rows(result.pop("answer"), asked["k"])
    result |= {"open_s": open_s, "hot_bytes": sum(memory.values()), **memory}
    result["dropped"] = _dropped(library, xq_QD, asked, files, heap_before)
    result["recall"] = recall(base_ND, xq_QD, rows_QK, np.load(data / "bounds.npy"), asked["k"])
    return result


def _dropped(
    library: Library, xq_QD: Array, asked: Asked, files: list[Path], heap_before: int
) -> Asked | None:
    """The rates with the second stage read from the file system anew; None where there are not two stages."""
    second = list(library.second_stage())
    if not second:
        return None
    k = asked["k"]
    drop(second)
    rates = {
        "batch": _rate(lambda: library.search(xq_QD, k), len(xq_QD), asked, between=lambda: drop(second))
    }
    drop(second)
    rates["single"] = _rate(_singles(library, xq_QD, k), _BLOCK, asked, between=lambda: drop(second))
    drop(second)
    return {
        **{f"qps_{name}": rate["qps"] for name, rate in rates.items()},
        "hot_bytes": heap_bytes() - heap_before + resident_bytes(files),
    }


def _rates(library: Library, xq_QD: Array, asked: Asked) -> Asked:
    """Rates of the whole batch and of single queries; ``answer`` is that of the batch."""
    k = asked["k"]
    answer = library.search(xq_QD, k)  # warm
    batch = _rate(lambda: library.search(xq_QD, k), len(xq_QD), asked)
    single = _singles(library, xq_QD, k)
    single()  # warm
    one = _rate(single, _BLOCK, asked)
    return {
        "answer": answer,
        "qps_batch": batch["qps"],
        "qps_single": one["qps"],
        "cpu_ms_batch": batch["cpu_ms"],
        "cpu_ms_single": one["cpu_ms"],
    }


def _singles(library: Library, xq_QD: Array, k: int) -> Callable[[], None]:
    """A function that searches the next ``_BLOCK`` queries one by one."""
    at = 0

    def work() -> None:
        nonlocal at
        for _ in range(_BLOCK):
            library.search(xq_QD[at : at + 1], k)
            at = (at + 1) % len(xq_QD)

    return work


def _rate(
    work: Callable[[], object], n: int, asked: Asked, *, between: Callable[[], None] | None = None
) -> dict[str, float]:
    """Queries per second, and CPU milliseconds a query, of ``work`` repeated for at least ``seconds``."""
    spent, cpu, times = 0.0, 0.0, 0
    while times == 0 or spent < asked["seconds"]:
        if between is not None and times:
            between()
        started, cpu_started = time.perf_counter(), time.process_time()
        work()
        spent += time.perf_counter() - started
        cpu += time.process_time() - cpu_started
        times += 1
    return {"qps": times * n / spent, "cpu_ms": 1000 * cpu / (times * n)}


if __name__ == "__main__":
    main()
