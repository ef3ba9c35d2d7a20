"""One planning in a process of its own: lists a file, compares it with a snapshot's rows, cuts what is new.

It is what a night does before it hands out its first task, by the same functions: the listing file is read
and put in order, the rows of the parts are read, both are compared, and the images to embed are cut into
image shards. Nothing of S3 is asked: the listing says every version.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline.allocator import use_system_allocator
from pipeline.catalog.change import diff
from pipeline.catalog.from_file import list_from_file
from pipeline.catalog.plan import plan_shards
from pipeline.catalog.settle import settle_source
from pipeline.catalog.source import SourceSpec
from pipeline.snapshot.attributes import attributes_table
from pipeline.snapshot.manifest import PartRef
from pipeline.snapshot.reuse import reusable
from pipeline.snapshot.rows import live_rows, refused_rows
from pipeline.storage.local import LocalStore
from pipeline.storage.open import open_store
from pipeline.storage.receipts import DataFile

_CONFIG = "bench"


def plan_once(listing: str, root: str, parts: Path) -> dict[str, object]:
    """Plans a night over what ``jobs.bench.plan`` wrote; what each stage took, and what was found."""
    stages: dict[str, dict[str, float]] = {}
    with _timed(stages, "list"):
        spec = settle_source(listing, root, SourceSpec(uri=root))
        catalog = list_from_file(open_store(root), spec, parts / "cache")
        attributes_table(catalog.images())
    with _timed(stages, "parent"):
        store = LocalStore(parts)
        refs = [_part(path) for path in sorted(parts.glob("*.parquet"))]
        live = live_rows(store, refs, {ref.key: np.zeros(ref.rows, dtype=bool) for ref in refs}, parts)
    with _timed(stages, "diff"):
        change = diff(catalog, live, refused_rows(store, [], parts))
    with _timed(stages, "cut"):
        shards = reusable(live, refs, _CONFIG).hint(plan_shards(change.fresh))
    return {
        "listed": catalog.n_listed,
        "to_embed": change.fresh.num_rows,
        "image_shards": len(shards),
        "stages": stages,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _part(path: Path) -> PartRef:
    file = DataFile(key=path.name, sha256="", size_bytes=path.stat().st_size)
    return PartRef(
        key=path.name,
        config=_CONFIG,
        rows=pq.read_metadata(path).num_rows,
        rejected={},
        embeddings=file,
        rejects=None,
        since=1,
    )


@contextmanager
def _timed(stages: dict[str, dict[str, float]], name: str) -> Iterator[None]:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    yield
    stages[name] = {
        "seconds": round(time.perf_counter() - wall_s, 3),
        "cpu_seconds": round(time.process_time() - cpu_s, 3),
    }


if __name__ == "__main__":
    use_system_allocator()
    sys.stdout.write(json.dumps(plan_once(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
