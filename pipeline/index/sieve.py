"""Both stages for batches of queries: encode, choose lists, scan codes, rank candidates.

Queries are cut into blocks whose candidates fit into bounded memory. With at least as many blocks as threads
each block is one thread's work from end to end; a few queries go through one after the other, and their scan
uses all threads where that pays.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from pipeline.index import kernel
from pipeline.index.arrays import ByteArray, Float32Array, IntArray
from pipeline.index.encoder import Encoder
from pipeline.index.hamming import MIN_SLICE_BYTES, DeviceScan, nearest_codes
from pipeline.index.order import Neighbours
from pipeline.index.probes import LiveRows, least_live, live_rows_of_lists, probed_lists
from pipeline.index.rank import margin_of, rank_candidates
from pipeline.index.shard import IndexShard
from pipeline.index.threads import cut, map_pieces

_BATCH_BYTES = 1 << 28
_BLOCK_QUERIES = 128


class Sieve:
    """Both stages over the index shards of one snapshot. Safe to use from many threads."""

    def __init__(
        self,
        encoder: Encoder,
        shards: Sequence[IndexShard],
        threads: int,
        n_calibrated: int,
        device: DeviceScan | None = None,
    ) -> None:
        """``n_calibrated``: live rows when the number of probes was chosen."""
        self._encoder = encoder
        self._shards = tuple(shards)
        self._threads = threads
        self._device = device
        self._n_calibrated = n_calibrated
        self._n_rows = sum(shard.n_rows for shard in shards)
        self._n_live = sum(shard.n_live for shard in shards)

    def search(
        self,
        xq_QD: Float32Array,
        k: int,
        n_candidates: int,
        n_probes: int | None,
        excluded_QE: IntArray | None,
    ) -> Neighbours:
        """The k nearest of the C candidates of each query; None probes every row."""
        n_candidates = min(n_candidates, max(self._n_live, 1))
        in_one_call = excluded_QE is None and self._in_one_call
        if in_one_call and len(xq_QD) == 1 and self._is_short(n_probes):
            return self._one_call(xq_QD, k, n_candidates, n_probes)
        per_query = 48 * (n_candidates + 1) * max(1, len(self._shards)) + 4 * (self._encoder.n_lists or 0)
        at_once = max(1, _BATCH_BYTES // self._threads // per_query)
        blocks = cut(len(xq_QD), -(-len(xq_QD) // min(_BLOCK_QUERIES, at_once)))
        if len(xq_QD) >= self._threads:
            blocks = cut(len(xq_QD), max(len(blocks), self._threads))
        alone = len(blocks) >= self._threads

        def one_block(block: tuple[int, int]) -> Neighbours:
            rows = slice(*block)
            if in_one_call and (alone or self._is_short(n_probes)):
                return self._one_call(xq_QD[rows], k, n_candidates, n_probes)
            place_QC = nearest_codes(
                self._shards,
                self._encode(xq_QD[rows]),
                n_candidates,
                probes_QP=probed_lists(self._encoder, xq_QD[rows], n_candidates, n_probes, self._live),
                excluded_QE=None if excluded_QE is None else excluded_QE[rows],
                threads=1 if alone else self._threads,
                device=self._device,
            )
            return rank_candidates(self._shards, xq_QD[rows], place_QC, k, self._device)

        found = map_pieces(one_block, blocks, self._threads if alone else 1)
        if len(found) == 1:
            return found[0]
        return Neighbours(
            place_QK=np.concatenate([np.empty((0, k), np.int64), *(b.place_QK for b in found)]),
            distance_QK=np.concatenate([np.empty((0, k), np.float32), *(b.distance_QK for b in found)]),
        )

    @cached_property
    def _in_one_call(self) -> bool:
        return self._device is None and kernel.can_sieve(self._encoder, self._shards)

    @cached_property
    def _prepared(self) -> kernel.Prepared:
        margin = margin_of(self._encoder.d)
        return kernel.prepare(self._encoder, self._shards[0], self._live.by_list_L, margin)

    def _is_short(self, n_probes: int | None) -> bool:
        """Whether the scan of a query is not worth a second thread."""
        share = 1.0 if n_probes is None else n_probes / max(1, self._encoder.n_lists or 1)
        return share * self._n_rows * self._encoder.bits / 8 < MIN_SLICE_BYTES

    def _one_call(self, xq_QD: Float32Array, k: int, n_candidates: int, n_probes: int | None) -> Neighbours:
        live, probed = self._live, (0, 0)
        if n_probes is not None and n_probes < len(live.by_list_L):
            probed = (n_probes, least_live(n_candidates, n_probes, live))
        place_QK, distance_QK = kernel.sieve(self._prepared, xq_QD, probed, n_candidates, k)
        return Neighbours(place_QK=place_QK, distance_QK=distance_QK)

    def _encode(self, xq_QD: Float32Array) -> ByteArray:
        if self._encoder.rotation_BD is not None and kernel.available():
            return kernel.encode(self._encoder, xq_QD)
        return self._encoder.encode(xq_QD)

    @cached_property
    def _live(self) -> LiveRows:
        by_list_L = live_rows_of_lists(self._shards, self._encoder.n_lists or 0)
        return LiveRows(n=self._n_live, n_calibrated=self._n_calibrated, by_list_L=by_list_L)
