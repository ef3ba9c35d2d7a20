"""The peers of ``bench index``: what each needs installed, and the settings that are tried for it.

Builds are listed from cheap to dear. For each, the searches go from hasty to thorough; `measure` says where
a sweep stops. ``first_that_reaches`` ends with the first build whose searches reach the target: "the
cheapest build". Elsewhere all builds are tried, and the fastest point that reaches the target races.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UsageError

Settings = Mapping[str, Any]

HNSW32 = "hnsw32"
IVF_PQ = "ivf_pq"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A library with its grid. ``requirements`` empty: it runs with the Faiss that is installed here."""

    name: str
    title: str
    library: str
    builds: Sequence[Settings]
    searches: Sequence[Settings]
    requirements: tuple[str, ...] = ()
    first_that_reaches: bool = False


def peers(rows: int, d: int) -> dict[str, Peer]:
    """Every peer by name, with the grid for ``rows`` vectors of ``d`` dimensions."""
    every = [
        *_faiss(rows, d),
        Peer(
            name="usearch",
            title="usearch, HNSW",
            library="usearch_hnsw",
            builds=[
                {"dtype": dtype, "connectivity": connectivity, "expansion_add": expansion}
                for dtype in ("f16", "f32")
                for connectivity, expansion in ((16, 64), (32, 128))
            ],
            searches=[{"expansion_search": n} for n in (16, 24, 32, 48, 64, 96, 128, 192, 256, 512)],
            requirements=("usearch==2.26.6", "numpy==2.4.6"),
        ),
        Peer(
            name="hnswlib",
            title="hnswlib",
            library="hnswlib_hnsw",
            builds=[
                {"M": 16, "ef_construction": 40},
                {"M": 16, "ef_construction": 100},
                {"M": 32, "ef_construction": 100},
            ],
            searches=[{"ef": n} for n in (16, 24, 32, 48, 64, 96, 128, 192, 256, 512)],
            requirements=("hnswlib==0.8.0", "numpy==2.4.6"),
        ),
        Peer(
            name="annoy",
            title="Annoy",
            library="annoy_trees",
            builds=[{"trees": 20}, {"trees": 50}, {"trees": 100}],
            searches=[{"search_k": n} for n in (2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000)],
            requirements=("annoy==1.17.3", "numpy==2.4.6"),
        ),
        _scann(rows, d),
        _lancedb(rows),
        Peer(
            name="autofaiss",
            title="autofaiss, its own choice",
            library="autofaiss_choice",
            builds=[{"max_index_memory_usage": "8G", "current_memory_available": "16G"}],
            searches=[{}],
            # pip takes the newest pyarrow for it, which does not load with the numpy 1 that it wants
            requirements=("autofaiss==2.18.0", "pyarrow==20.0.0"),
        ),
    ]
    return {peer.name: peer for peer in every}


def chosen_peers(every: Mapping[str, Peer], names: Sequence[str] | None) -> list[Peer]:
    """Those named, or all.

    Raises:
        UsageError: there is no such peer.
    """
    unknown = sorted(set(names or ()) - set(every))
    if unknown:
        raise UsageError(f"no peer is called {', '.join(unknown)}", fix=f"choose among {', '.join(every)}")
    return [peer for name, peer in every.items() if names is None or name in names]


def _faiss(rows: int, d: int) -> list[Peer]:
    lists = [_power_of_two(factor * math.sqrt(rows)) for factor in (1, 2, 4)]
    probes = [n for n in (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256) if n <= lists[-1]]
    refined = [f"nprobe={n},k_factor_rf={factor}" for n in probes[1:] for factor in (4, 10)]
    quarter, half = d // 4, d // 2
    return [
        Peer(
            name="flat",
            title="Faiss Flat, exact",
            library="faiss_factory",
            builds=[{"factory": "Flat"}],
            searches=[{}],
        ),
        Peer(
            name="hamming_flat",
            title="Faiss flat Hamming + re-rank",
            library="faiss_hamming",
            builds=[{"bits": _power_of_two(2 * d)}, {"bits": _power_of_two(4 * d)}],
            searches=[{"candidates": n} for n in (50, 100, 200, 500, 1_000, 2_000)],
        ),
        Peer(
            name="ivf_flat",
            title="Faiss IVFFlat",
            library="faiss_factory",
            builds=[{"factory": f"IVF{n},Flat", "train_rows": 64 * n} for n in lists],
            searches=[{"parameters": f"nprobe={n}"} for n in probes],
        ),
        Peer(
            name=IVF_PQ,
            title="Faiss IVFPQ fast-scan + refine",
            library="faiss_factory",
            builds=[
                {"factory": f"IVF{n},PQ{m}x4fsr", "train_rows": 64 * n, "refine": refine}
                for n in lists[1:]
                for m, refine in ((quarter, "flat"), (half, "flat"), (half, "fp16"))
            ],
            searches=[{"parameters": parameters} for parameters in refined],
        ),
        Peer(
            name=HNSW32,
            title="Faiss HNSW32",
            library="faiss_factory",
            builds=[{"factory": "HNSW32,Flat", "efConstruction": n} for n in (40, 80, 160, 320)],
            searches=[
                {"parameters": f"efSearch={n}"} for n in (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
            ],
            first_that_reaches=True,
        ),
        Peer(
            name="ivf_rabitq",
            title="Faiss IVF RaBitQ fast-scan + refine",
            library="faiss_factory",
            builds=[
                {"factory": f"RR,IVF{n},RaBitQfs{code}", "train_rows": 64 * n, "refine": "flat"}
                for n in lists[1:]
                for code in ("", "2", "4")
            ],
            searches=[{"parameters": parameters} for parameters in refined],
        ),
    ]


def _scann(rows: int, d: int) -> Peer:
    leaves = [max(1, round(factor * math.sqrt(rows))) for factor in (1, 2)]
    probes = [n for n in (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256) if n <= leaves[-1]]
    return Peer(
        name="scann",
        title="ScaNN",
        library="scann_tree",
        builds=[
            {"leaves": n, "dimensions_per_block": block, "threshold": 0.2, "train_rows": min(rows, 64 * n)}
            for n in leaves
            for block in (2, 4)
            if d % block == 0
        ],
        searches=[{"leaves_to_search": n, "reorder": reorder} for n in probes for reorder in (50, 100, 200)],
        requirements=("scann==1.4.2", "numpy==2.4.6"),
    )


def _lancedb(rows: int) -> Peer:
    partitions = [max(1, round(factor * math.sqrt(rows))) for factor in (0.5, 1)]
    return Peer(
        name="lancedb",
        title="LanceDB IVF_RQ + refine",
        library="lancedb_rq",
        builds=[{"partitions": n, "num_bits": 1} for n in partitions],
        searches=[
            {"nprobes": probes, "refine_factor": factor}
            for probes in (4, 8, 16, 32, 64, 128)
            for factor in (5, 20)
        ],
        requirements=("lancedb==0.40.0", "numpy==2.4.6", "pyarrow==26.0.1"),
    )


def _power_of_two(value: float) -> int:
    return int(2 ** round(math.log2(max(1.0, value))))
