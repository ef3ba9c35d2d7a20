"""Our index behind the interface of the peers: the code of a nightly run, from embedding parts to a search.

``build_s`` is fitting the encoder (reading and hashing the ids, reading the sample) and building the index
shards' files from Parquet. Calibrating, which no peer does for its user, is ``calibrate_s``; where it asks
for more bits, fit and build are done again and counted again, as in a night.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.bench.peers.index import measure
from jobs.bench.peers.index.library import Array, Settings
from jobs.calibration import calibration_settings
from jobs.stages import can_have, fit_settings
from pipeline.config import IndexConfig
from pipeline.embed.table import read_vectors
from pipeline.index import kernel
from pipeline.index.build import build_index_shard
from pipeline.index.calibrate import MAX_REFITS, calibrate
from pipeline.index.calibration import Calibration
from pipeline.index.device import check_cuda, on_device
from pipeline.index.encoder import Encoder, fit_encoder
from pipeline.index.sample import fit_sample, seeded_order
from pipeline.index.search import Searcher
from pipeline.index.shard import IndexShard, ShardFile
from pipeline.index.threads import default_threads

_ENCODER, _CALIBRATION = "encoder.npz", "calibration.json"
_SHARDS = "shards.json"


class Index:
    """Build: any of the section index of bitsieve.toml. Search: ``candidates`` and ``probes``, if any."""

    def __init__(self, data: Path, folder: Path, threads: int) -> None:
        self._parts = sorted((data / "parts").iterdir())
        self._folder = folder
        self._threads = threads
        self._candidates: int | None = None
        self._probes: int | None = None
        self._searcher: Searcher | None = None
        kernel.available()  # loads numba, and the next line Faiss: code is no index, and a peer's library
        default_threads()  # is loaded by now too

    def prepare(self) -> None:
        """Nothing: the parts are where a night finds them."""

    def build(self, settings: Settings) -> Settings:
        """Fit, build, calibrate; again with more bits where the calibration asks for them."""
        config = IndexConfig.model_validate(settings)
        if config.device == "cuda":
            check_cuda()  # before, not after, an index is built that cannot be searched there
        build_s = calibrate_s = 0.0
        bits = config.bits
        refits = 0
        while True:
            started = time.perf_counter()
            encoder = self._fit(config, bits)
            fitted = time.perf_counter()
            self._reduce(encoder, config)
            built = time.perf_counter()
            calibration = calibrate(
                encoder, self._open(encoder), calibration_settings(config), threads=self._threads
            )
            build_s += built - started
            calibrate_s += time.perf_counter() - built
            bits = calibration.next_bits
            if calibration.met or bits is None or refits == MAX_REFITS:
                break
            if "bits" in settings or not can_have(config, encoder.d, bits):
                break
            refits += 1
        (self._folder / _ENCODER).write_bytes(encoder.to_bytes())
        (self._folder / _CALIBRATION).write_text(json.dumps(calibration.to_json()))
        return {
            "build_s": build_s,
            "fit_s": fitted - started,
            "calibrate_s": calibrate_s,
            "build_and_calibrate_s": build_s + calibrate_s,
            "refits": refits,
            "calibration": calibration.to_json(),
        }

    def save(self) -> None:
        """The files are there already: writing them is part of the build."""

    def open(self, settings: Settings) -> None:
        """Maps the index shards, or copies their codes to a device."""
        encoder = Encoder.from_bytes((self._folder / _ENCODER).read_bytes())
        calibration = Calibration.from_json(json.loads((self._folder / _CALIBRATION).read_text()))
        searcher = Searcher(encoder, self._open(encoder), calibration, threads=self._threads)
        self._searcher = on_device(searcher, IndexConfig.model_validate(settings).device)

    def choose(self, settings: Settings) -> None:
        """``candidates`` and ``probes``: others than the calibrated ones, for the curve."""
        self._candidates, self._probes = settings.get("candidates"), settings.get("probes")

    def search(self, xq_QD: Array, k: int) -> Any:
        """Places and distances in arrays."""
        return self._opened().search_places(xq_QD, k, candidates=self._candidates, probes=self._probes)

    def rows(self, answer: Any, _k: int) -> Array:
        """The ids of the places are row numbers."""
        place_QK = answer.neighbours.place_QK
        row_QK = np.full(place_QK.shape, -1, dtype=np.int64)
        found_QK = place_QK >= 0
        row_QK[found_QK] = [int(image_id) for image_id in self._opened().ids(place_QK[found_QK]).to_pylist()]
        return row_QK

    def second_stage(self) -> list[Path]:
        """The vectors of every index shard."""
        return sorted(self._folder.glob("shard-*/vectors.npy"))

    def _opened(self) -> Searcher:
        assert self._searcher is not None  # noqa: S101 - measure opens before it searches
        return self._searcher

    def _fit(self, config: IndexConfig, bits: int | None) -> Encoder:
        ids = pa.concat_arrays(
            [pq.read_table(part, columns=["image_id"])["image_id"].combine_chunks() for part in self._parts]
        )
        sample = fit_sample(seeded_order(ids, config.seed))
        x_ND = self._rows(sample.rows_N)
        settings = fit_settings(config, bits, x_ND, len(ids), sample.fit_threshold)
        return fit_encoder(x_ND, **asdict(settings))

    def _rows(self, rows_N: Array) -> Array:
        """The vectors of these rows of all parts, in this order."""
        places = np.argsort(rows_N, kind="stable")
        ordered, first = rows_N[places], 0
        found_ND = np.empty((0, 0), dtype=np.float32)
        for part in self._parts:
            x_ND = read_vectors(part)
            if first == 0:
                found_ND = np.empty((len(rows_N), x_ND.shape[1]), dtype=np.float32)
            here = slice(*np.searchsorted(ordered, (first, first + len(x_ND))))
            found_ND[places[here]] = x_ND[ordered[here] - first]
            first += len(x_ND)
        return found_ND

    def _reduce(self, encoder: Encoder, config: IndexConfig) -> None:
        shards = []
        for number, parts in enumerate(_groups(self._parts, config.shard_rows)):
            folder = self._folder / f"shard-{number:03d}"
            folder.mkdir(exist_ok=True)
            built = build_index_shard(parts, encoder, folder, vector_dtype=config.vector_dtype)
            shards.append({name: str(path) for name, path in built.files.items()})
        (self._folder / _SHARDS).write_text(json.dumps(shards))

    def _open(self, encoder: Encoder) -> list[IndexShard]:
        shards = json.loads((self._folder / _SHARDS).read_text())
        return [_open_shard({name: Path(path) for name, path in one.items()}, encoder) for one in shards]


def _open_shard(files: dict[ShardFile, Path], encoder: Encoder) -> IndexShard:
    extra = {name: path for name, path in files.items() if name not in ("codes", "vectors", "row_ids")}
    return IndexShard.open(files["codes"], files["vectors"], files["row_ids"], encoder, extra=extra)


def _groups(parts: list[Path], shard_rows: int) -> list[list[Path]]:
    """Consecutive parts for each index shard, as the reduce stage groups them."""
    groups: list[list[Path]] = []
    rows = 0
    for part in parts:
        n = pq.read_metadata(part).num_rows
        if not groups or rows + n > shard_rows:
            groups.append([])
            rows = 0
        groups[-1].append(part)
        rows += n
    return groups


if __name__ == "__main__":
    measure.main()
