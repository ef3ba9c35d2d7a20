"""Both stages in one call, for a snapshot of one index shard: a single query pays for one call, not for five.

The kernels of the stages are called as they are, so the answer is that of `sieve` stage by stage. What they
read is handed over as a list of addresses and sizes: checking the types of twenty arrays takes longer than
encoding a query. Numba's cache does not see that they changed (`kernel_jit`): who edits one touches this.
"""

from typing import Any, NamedTuple

import numpy as np

from pipeline.index.arrays import BoolArray, Float32Array, FloatArray, IntArray
from pipeline.index.kernel_encode import GROUP, Bits, Lists, choose, encode
from pipeline.index.kernel_jit import carray, intrinsic, jit, to_fixed_tuple, types
from pipeline.index.kernel_rank import Ranks, Vectors, rank
from pipeline.index.kernel_scan import Codes, first_rows, first_rows_of_lists


class Wholes(NamedTuple):
    """Addresses and sizes, in the order in which `search` takes them out of an int64 array."""

    d: int
    n_words: int
    mean: int
    rotation: int
    thresholds: int
    n_lists: int
    packed: int
    squares: int
    live_of_lists: int
    offsets: int
    codes: int
    n_rows: int
    order: int
    live: int
    vectors: int
    row_bits: int


class Reals(NamedTuple):
    """The grids of `Bits` and `Lists`, and the margin of `rank`."""

    vector_grid: float
    list_grid: float
    margin: float


_N_WHOLES, _N_REALS = len(Wholes._fields), len(Reals._fields)


@jit
def search(
    whole_P: IntArray,
    real_P: FloatArray,
    kind: Any,
    xq_QD: Float32Array,
    n_probes: int,
    min_live: int,
    n: int,
    place_QK: IntArray,
    distance_QK: Float32Array,
) -> None:
    """Fills places and distances as `kernel_rank.rank`; ``n_probes`` 0 scans all rows.

    Args:
        whole_P: `Wholes`; what stands at the addresses outlives the call.
        real_P: `Reals`.
        kind: as in `kernel_rank.Vectors`.
        xq_QD: unit queries.
        n_probes: lists to look into.
        min_live: live rows that these lists must hold at least.
        n: candidates of the first stage.
        place_QK: the answer.
        distance_QK: the answer.
    """
    given = Wholes(*to_fixed_tuple(whole_P, _N_WHOLES))
    vector_grid, list_grid, margin = to_fixed_tuple(real_P, _N_REALS)
    d, n_words, n_lists, n_queries = given.d, given.n_words, given.n_lists, len(xq_QD)
    bits = Bits(
        carray(_pointer(given.mean), d, np.float64),
        carray(_pointer(given.rotation), (n_words * 64, d), np.float32),
        carray(_pointer(given.thresholds), n_words * 64, np.float64),
        vector_grid,
    )
    codes = Codes(given.codes, n_words, given.n_rows, given.order, given.live)
    codes_QW = np.empty((n_queries, n_words * 8), dtype=np.uint8)
    encode(bits, xq_QD, codes_QW)
    limit_Q = np.full(n_queries, n_words * 64)
    if n_probes > 0:
        n_groups, n_pairs = -(-n_lists // GROUP), -(-d // 2)
        lists = Lists(
            carray(_pointer(given.packed), (n_groups, n_pairs, GROUP, 2), np.int16),
            carray(_pointer(given.squares), n_groups * GROUP, np.int32),
            carray(_pointer(given.live_of_lists), n_lists, np.int64),
            list_grid,
        )
        probes_QL = np.empty((n_queries, n_lists), dtype=np.int32)
        widest = choose(lists, xq_QD, n_probes, min_live, probes_QL)
        offsets_L = carray(_pointer(given.offsets), n_lists + 1, np.int64)
        found = first_rows_of_lists(codes, codes_QW, n, offsets_L, probes_QL[:, :widest], limit_Q, 0)
    else:
        found = first_rows(codes, codes_QW, n, 0, codes.n_rows, limit_Q, 0)
    vectors = Vectors(np.full(1, given.vectors), kind, d)
    ranks = Ranks(np.full(1, given.order), given.row_bits)
    tied_Q: BoolArray = np.empty(n_queries, dtype=np.bool_)  # never: one shard ranks all its ids
    rank(vectors, ranks, xq_QD, found[1], np.float32(margin), place_QK, distance_QK, tied_Q)


@intrinsic
def _pointer(typing: Any, address: Any) -> Any:
    """A pointer to the address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate
