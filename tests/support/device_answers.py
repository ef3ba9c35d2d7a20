"""What the first stage answers where it scans; run as a process of its own, for Triton is interpreted or not.

``python -m tests.support.device_answers FOLDER DEVICE`` leaves the answers of a device in a file of the
folder. ``cpu`` needs TRITON_INTERPRET=1 from the beginning: Triton reads it when it is imported.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.index.arrays import Int32Array, IntArray
from pipeline.index.encoder import Encoder, fit_encoder
from pipeline.index.hamming import DeviceScan, codes_of, nearest_codes
from pipeline.index.lists import fit_centroids
from pipeline.index.search import Searcher
from pipeline.index.shard import IndexShard
from tests.support.index_shards import spread, unit_rows

D, N, L, K = 20, 1_300, 8, 10
_X_ND = unit_rows(N, D, seed=1, n_clusters=60)
_X_ND[400:500] = _X_ND[5]  # one picture on a hundred products
_XQ_QD = np.concatenate([_X_ND[4:6], unit_rows(2, D, seed=2, n_clusters=60)])
_IDS = [f"img{i:05d}" for i in np.random.default_rng(0).permutation(N)]
_PROBES_QP: Int32Array = np.array([[0, 3, -1], [1, 4, 7], [2, 5, -1], [-1, 6, 3]], dtype=np.int32)

CASES = {
    "flat": (64, None, 1.0, 40),
    "flat, filtered": (64, None, 0.3, 40),
    "flat, nearly nothing left": (64, None, 0.01, 40),
    "flat, 8 bits, where most rows tie": (8, None, 1.0, 40),
    "flat, 200 bits, no whole words": (200, None, 1.0, 40),
    "lists, all rows": (64, "all", 1.0, 40),
    "lists, probed and filtered": (64, "probed", 0.3, 40),
}
"""Bits, lists, share of rows that live, and C."""
WHOLE = {"both stages": "lists, probed and filtered", "exact": "flat, filtered"}
"""Whole searches, over the index shards of these cases."""
OpenScan = Callable[[list[IndexShard]], DeviceScan]


def ask(folder: Path, open_scan: OpenScan | None) -> dict[str, Any]:
    """The candidates of every case, int64 [Q, C], and the results of a whole search, int64 [Q, K]."""
    shards: dict[tuple[int, bool], list[IndexShard]] = {}
    scans: dict[tuple[int, bool], DeviceScan | None] = {}
    answers: dict[str, Any] = {}
    for name, (bits, lists, share, n) in CASES.items():
        form = bits, lists is not None
        encoder = _encoder(*form)
        if form not in shards:
            numbers = (np.arange(N) % 2).tolist()
            shards[form] = spread(
                folder / f"{bits}-{lists is None}", _IDS, _X_ND, encoder, numbers, dead=_IDS[5:400:7]
            )
            scans[form] = None if open_scan is None else open_scan(shards[form])
        rng = np.random.default_rng(3)
        narrowed = [replace(shard, alive_N=rng.random(shard.n_rows) < share) for shard in shards[form]]
        asked = shards[form] if share == 1.0 else narrowed
        answers[name] = nearest_codes(
            asked,
            encoder.encode(_XQ_QD),
            n,
            probes_QP=_PROBES_QP if lists == "probed" else None,
            device=scans[form],
        )
        for search in (search for search, of in WHOLE.items() if of == name):
            options = {"exact": True} if search == "exact" else {"candidates": 40, "probes": 2}
            found = Searcher(encoder, asked, None, device=scans[form]).search_places(
                _XQ_QD, K, exclude_ids=[_IDS[4], None, None, None], **options
            )
            answers[search] = found.neighbours.place_QK
            answers[f"{search}, distances"] = found.neighbours.distance_QK
    return answers


def answers_of(folder: Path, device: str) -> Mapping[str, IntArray]:
    """What a process says that scans on ``device``."""
    folder.mkdir()
    interpreted = {"TRITON_INTERPRET": "1"} if device == "cpu" else {}
    command = [sys.executable, "-m", "tests.support.device_answers", str(folder), device]
    done = subprocess.run(
        command, env={**os.environ, **interpreted}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "answers.npz") as found:
        return dict(found)


def _encoder(bits: int, in_lists: bool) -> Encoder:
    encoder = fit_encoder(_X_ND, bits=bits)
    return replace(encoder, centroids_LD=fit_centroids(_X_ND, L)) if in_lists else encoder


def _scan(shards: list[IndexShard], device: str) -> DeviceScan:
    """Compares vectors in several steps, and long codes in several pieces of several blocks."""
    from pipeline.index.cuda import CudaScan, Tiles

    long = codes_of(shards[0]).shape[1] > 8
    tiles = Tiles(numbers=2_000, block=256, n_blocks=2) if long else Tiles(numbers=2_000)
    return CudaScan(shards, device, tiles)


if __name__ == "__main__":
    answers = ask(Path(sys.argv[1]), lambda shards: _scan(shards, sys.argv[2]))
    np.savez(Path(sys.argv[1]) / "answers.npz", **answers)
