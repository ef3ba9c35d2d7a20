"""What an index is made of: how its bits and lists are used, and the bytes of a vector."""

from dataclasses import dataclass

import numpy as np

from pipeline.index.arrays import ByteArray
from pipeline.index.search import Searcher
from pipeline.index.shard import IndexShard

_SAMPLE_ROWS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BitFacts:
    """Over a sample of live codes. Balance is |share of ones - 1/2| of a bit: 0 is best, 1/2 a dead bit.

    Correlation is the absolute Pearson correlation of two bits; a dead bit has none. Two bits that always
    agree (1.0) are one bit.
    """

    bits: int
    n_sample: int
    balance_mean: float
    balance_max: float
    correlation_mean: float
    correlation_max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFacts:
    """Sizes of the lists over all index shards. ``imbalance`` is Faiss's factor: 1 when all are equal."""

    n_lists: int
    imbalance: float
    smallest: int
    largest: int
    empty: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFacts:
    """Bytes for each live vector: ``hot`` is read by every search, ``cold`` only for the candidates."""

    hot_bytes_per_vector: float
    cold_bytes_per_vector: float
    float32_bytes_per_vector: int


def bit_facts(searcher: Searcher) -> BitFacts | None:
    """None where there are no codes."""
    codes_NW = _sampled_codes(searcher)
    if searcher.encoder is None or len(codes_NW) < 2:
        return None
    bits_NB = np.unpackbits(codes_NW, axis=1, bitorder="little").astype(np.float32)
    share_B = bits_NB.mean(axis=0)
    balance_B = np.abs(share_B - 0.5)
    spread_B = np.sqrt(share_B * (1 - share_B))
    used = spread_B > 0
    scaled_NB = (bits_NB[:, used] - share_B[used]) / spread_B[used]
    correlation_BB = np.abs(scaled_NB.T @ scaled_NB) / len(scaled_NB)
    off = correlation_BB[~np.eye(len(correlation_BB), dtype=np.bool_)]
    return BitFacts(
        bits=searcher.encoder.bits,
        n_sample=len(codes_NW),
        balance_mean=round(float(balance_B.mean()), 4),
        balance_max=round(float(balance_B.max()), 4),
        correlation_mean=round(float(off.mean()), 4) if len(off) else 0.0,
        correlation_max=round(min(1.0, float(off.max())), 4) if len(off) else 0.0,
    )


def list_facts(searcher: Searcher) -> ListFacts | None:
    """None in flat form."""
    sizes = [np.diff(shard.offsets_L) for shard in searcher.shards if shard.offsets_L is not None]
    if not sizes:
        return None
    size_L = np.sum(sizes, axis=0).astype(np.float64)
    return ListFacts(
        n_lists=len(size_L),
        imbalance=round(float(len(size_L) * (size_L**2).sum() / max(size_L.sum(), 1) ** 2), 3),
        smallest=int(size_L.min()),
        largest=int(size_L.max()),
        empty=int((size_L == 0).sum()),
    )


def memory_facts(searcher: Searcher) -> MemoryFacts:
    """Of the arrays as they are mapped; dead rows cost too, so they are shared out among the live ones."""
    n_live = max(searcher.n_live, 1)
    hot = sum(_hot_bytes(shard) for shard in searcher.shards)
    cold = sum(_cold_bytes(shard) for shard in searcher.shards)
    return MemoryFacts(
        hot_bytes_per_vector=round(hot / n_live, 2),
        cold_bytes_per_vector=round(cold / n_live, 2),
        float32_bytes_per_vector=4 * (searcher.d or 0),
    )


def _hot_bytes(shard: IndexShard) -> int:
    arrays = (shard.codes_NW, shard.offsets_L, shard.order_N, shard.int8_ND, shard.int8_scale_N)
    bitmap = 0 if shard.alive_N is None else -(-shard.n_rows // 8)
    return bitmap + sum(array.nbytes for array in arrays if array is not None)


def _cold_bytes(shard: IndexShard) -> int:
    ids: int = shard.ids.nbytes
    return shard.vectors_ND.nbytes + ids + shard.part_N.nbytes + shard.row_N.nbytes


def _sampled_codes(searcher: Searcher) -> ByteArray:
    """Codes of live rows, evenly spread over all index shards."""
    found = [np.empty((0, 0 if searcher.encoder is None else searcher.encoder.bits // 8), dtype=np.uint8)]
    step = max(1, -(-searcher.n_live // _SAMPLE_ROWS))
    for shard in searcher.shards:
        if shard.codes_NW is not None:
            rows = np.arange(shard.n_rows) if shard.alive_N is None else np.flatnonzero(shard.alive_N)
            found.append(shard.codes_NW[rows[::step]])
    return np.concatenate(found)
