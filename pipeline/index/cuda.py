"""A search's scans on a CUDA device, and the one door to torch here: it owns the memory that kernels read.

Codes are copied to the device once, word-major. A block of queries passes over them twice (`kernel_cuda`):

1. Count how many live rows are at each distance. That gives the distance of each query's n-th row, and how
   many rows lie within it.
2. Keep those rows, as numbers that order by (distance, rank of the id), and take the n smallest.

So the answer is that of `plain` and `kernel` to the last tie, in whatever order programs run. Ties cost
memory only: where all rows tie, a query keeps 8 bytes for each of them.

Where vectors fit beside the codes, their float32 distances are computed here too, those of candidates and
those of all rows for an exact search. They are within `exact.float32_margin` of the true ones, so they only
say for which rows the exact distance, which decides, is worth computing on the processor.
"""

import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
import torch

from pipeline.errors import WorkerError
from pipeline.index import kernel_cuda
from pipeline.index.arrays import ByteArray, Float32Array, Int32Array, IntArray, VectorArray
from pipeline.index.hamming import codes_of
from pipeline.index.order import FAR, NOWHERE, row_of, shard_of, to_place
from pipeline.index.shard import IndexShard
from pipeline.index.threads import cut

_WORD = 4
_COPIED_ROWS = 1 << 20  # at a time
_KEPT_BYTES = 1 << 28  # rows kept for the queries of one pass
_SPARE_BYTES = 3 << 30  # what a search takes beside codes and vectors
_ELSEWHERE = "search with index.device = cpu"
_NOTHING = (1 << 63) - 1
_DEVICE_ERRORS = (
    RuntimeError,  # the base of torch's errors, torch.OutOfMemoryError among them
    kernel_cuda.TritonError,
    OSError,  # no C compiler, no folder for what was compiled
    subprocess.SubprocessError,  # a C compiler that fails, as without Python's headers
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """How much is done at a time; changes no result."""

    block: int = 1_024
    """Rows that a program compares at a time, a power of two."""
    n_blocks: int = 16
    """How many times it does."""
    numbers: int = 1 << 27
    """Float32 numbers that one step of a comparison of vectors holds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Scan:
    """What both passes read, on the device: the arguments of `kernel_cuda`."""

    codes: torch.Tensor
    queries: torch.Tensor
    live: torch.Tensor | None
    order: torch.Tensor | None
    spans: torch.Tensor
    longest: int
    """Rows of the longest span."""
    tiles: Tiles

    def of(self, a: int, b: int) -> "_Scan":
        """The same for some of the queries."""
        spans = self.spans if len(self.spans) == 1 else self.spans[a:b]
        return replace(self, queries=self.queries[a:b], spans=spans)

    def count(self) -> torch.Tensor:
        """How many live rows are at each distance from each query, int32 [Q, B + 1]."""
        bits = 8 * _WORD * len(self.codes)
        n_bins = 1 << (bits + 1).bit_length()
        counts_QH = self.codes.new_zeros((len(self.queries), n_bins))
        kernel_cuda.count[self._programs](
            *self._read,
            counts_QH,
            *self._shape,
            len(self.codes),
            n_bins,
            self.live is not None,
            self.tiles.block,
            self.tiles.n_blocks,
        )
        return counts_QH[:, : bits + 1]

    def keep(self, limits_Q: torch.Tensor, room: int) -> torch.Tensor:
        """The live rows within each limit, as numbers that order like rows: int64 [Q, room], in no order."""
        kept_QX = torch.full((len(self.queries), room), _NOTHING, dtype=torch.int64, device=self.codes.device)
        kernel_cuda.keep[self._programs](
            *self._read,
            self.codes if self.order is None else self.order,
            limits_Q,
            self.codes.new_zeros(len(self.queries)),
            kept_QX,
            *self._shape,
            room,
            len(self.codes),
            self.live is not None,
            self.order is not None,
            self.tiles.block,
            self.tiles.n_blocks,
        )
        return kept_QX

    @property
    def _read(self) -> tuple[torch.Tensor, ...]:
        return self.codes, self.queries, self.codes if self.live is None else self.live, self.spans

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        """Queries, rows, pieces of a span, and how far apart the spans of two queries lie."""
        stride = 0 if len(self.spans) == 1 else self.spans.stride(0)
        return len(self.queries), self.codes.shape[1], self._n_pieces, stride

    @property
    def _n_pieces(self) -> int:
        return max(1, -(-self.longest // (self.tiles.block * self.tiles.n_blocks)))

    @property
    def _programs(self) -> tuple[int]:
        return (len(self.queries) * self.spans.shape[1] * self._n_pieces,)


class CudaScan:
    """The codes of some index shards in the memory of a device. Safe to use from many threads."""

    def __init__(self, shards: Sequence[IndexShard], device: str = "cuda", tiles: Tiles = Tiles()) -> None:
        """Copies the codes, and the vectors where they fit.

        ``device`` is torch's name; on ``cpu`` Triton's interpreter has to be on.

        Raises:
            WorkerError: the device fails, or has no memory for the codes.
        """
        self._device = torch.device(device)
        torch.set_float32_matmul_precision("highest")  # the margin is one of float32 products
        if self._device.type == "cuda":
            check_cuda()
            with _device_errors():
                _check_room(shards)
        self._shards = {_address(shard): shard for shard in shards}  # while they live, so do the addresses
        self._tiles = tiles
        self._lock = threading.Lock()  # Triton promises nothing about threads, and a device does one thing
        self._live: WeakKeyDictionary[IndexShard, torch.Tensor] = WeakKeyDictionary()
        with _device_errors():
            self._codes = {_address(shard): self._word_major(codes_of(shard)) for shard in shards}
            self._order = {
                _address(shard): self._copy(shard.order_N) for shard in shards if shard.order_N is not None
            }
            self._vectors: dict[int, torch.Tensor] = {}
            if self._device.type != "cuda" or _vectors_fit(shards):
                self._vectors = {_address(shard): self._rows(shard.vectors_ND) for shard in shards}

    @property
    def has_vectors(self) -> bool:
        """Whether the vectors fitted too."""
        return bool(self._vectors)

    def first_rows(
        self,
        number: int,
        shard: IndexShard,
        codes_QW: ByteArray,
        n: int,
        within: tuple[int, int] | Int32Array,
    ) -> tuple[Int32Array, IntArray]:
        """As `plain.first_rows`; ``shard`` may have fewer live rows than the one whose codes were copied."""
        address = _address(shard)
        hamming_QC = np.full((len(codes_QW), n), FAR, dtype=np.int32)
        place_QC = np.full((len(codes_QW), n), NOWHERE, dtype=np.int64)
        spans_QS2 = _spans(shard, within)
        with self._on_device():
            scan = _Scan(
                codes=self._codes[address],
                queries=self._copy(_words(codes_QW)),
                live=self._live_rows(shard),
                order=self._order.get(address),
                spans=self._copy(spans_QS2),
                tiles=self._tiles,
                longest=int((spans_QS2[..., 1] - spans_QS2[..., 0]).max(initial=0)),
            )
            for (a, b), keys_QX in _nearest(scan, n):
                query_M, column_M = np.nonzero(keys_QX != _NOTHING)
                key_M = keys_QX[query_M, column_M]
                row_M, by_id_N = key_M & 0xFFFFFFFF, self._shards[address].by_id
                row_M = row_M if by_id_N is None else by_id_N[row_M].astype(np.int64)
                hamming_QC[a:b][query_M, column_M] = key_M >> 32
                place_QC[a:b][query_M, column_M] = to_place(number, row_M)
        return hamming_QC, place_QC

    def rough_distances(
        self, shards: Sequence[IndexShard], xq_QD: Float32Array, place_QC: IntArray
    ) -> Float32Array:
        """Float32 distances of candidates, infinite where there is none."""
        rough_QC = np.full(place_QC.shape, np.inf, dtype=np.float32)
        step = max(1, self._tiles.numbers // xq_QD.shape[1])
        with self._on_device():
            queries = self._copy(xq_QD)
            for number, shard in enumerate(shards):
                query_M, column_M = np.nonzero((place_QC != NOWHERE) & (shard_of(place_QC) == number))
                row_M = row_of(place_QC[query_M, column_M])
                for some in (slice(a, a + step) for a in range(0, len(row_M), step)):
                    x_MD = self._vectors[_address(shard)][self._copy(row_M[some])].float()
                    x_MD -= queries[self._copy(query_M[some])]
                    rough_QC[query_M[some], column_M[some]] = x_MD.square_().sum(dim=1).cpu().numpy()
        return rough_QC

    def near_rows(
        self, shard: IndexShard, xq_QD: Float32Array, n: int, bound_Q: Float32Array, slack: np.float32
    ) -> Iterator[tuple[IntArray, IntArray, Float32Array]]:
        """As `hamming.DeviceScan` says."""
        step = max(1, self._tiles.numbers // max(len(xq_QD), xq_QD.shape[1]))
        for a in range(0, shard.n_rows, step):
            with self._on_device():
                x_ND = self._vectors[_address(shard)][a : a + step].float()
                rough_QN = torch.addmm(x_ND.square().sum(dim=1), self._copy(xq_QD), x_ND.T, alpha=-2)
                live = self._live_rows(shard)
                if live is not None:
                    row_N = torch.arange(a, a + len(x_ND), device=self._device)
                    rough_QN[:, (live[row_N >> 3] >> (row_N & 7).to(torch.uint8)) & 1 == 0] = torch.inf
                bound_Q1 = self._copy(bound_Q)[:, None]
                if len(x_ND) > n:
                    bound_Q1 = bound_Q1.minimum(
                        rough_QN.kthvalue(n, dim=1, keepdim=True).values + float(slack)
                    )
                query_M, column_M = ((rough_QN <= bound_Q1) & rough_QN.isfinite()).nonzero(as_tuple=True)
                found = (query_M, column_M + a, rough_QN[query_M, column_M])
                query_M, row_M, rough_M = (array.cpu().numpy() for array in found)
            yield query_M, row_M, rough_M

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        with self._lock, _device_errors():
            yield

    def _word_major(self, codes_NW: ByteArray) -> torch.Tensor:
        n, width = codes_NW.shape
        codes = torch.empty((-(-width // _WORD), n), dtype=torch.int32, device=self._device)
        for a in range(0, n, _COPIED_ROWS):
            words_NW = _words(codes_NW[a : a + _COPIED_ROWS])
            codes[:, a : a + len(words_NW)] = self._copy(np.ascontiguousarray(words_NW.T))
        return codes

    def _rows(self, vectors_ND: VectorArray) -> torch.Tensor:
        """The vectors as stored, in the device's memory."""
        kind = torch.float16 if vectors_ND.dtype == np.float16 else torch.float32
        copied = torch.empty(vectors_ND.shape, dtype=kind, device=self._device)
        for a in range(0, len(vectors_ND), _COPIED_ROWS):
            copied[a : a + _COPIED_ROWS] = self._copy(vectors_ND[a : a + _COPIED_ROWS])
        return copied

    def _live_rows(self, shard: IndexShard) -> torch.Tensor | None:
        if shard.live_bitmap is None:
            return None
        found = self._live.get(shard)
        if found is None:
            found = self._live[shard] = self._copy(shard.live_bitmap)
        return found

    def _copy(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array if array.flags.writeable else array.copy()).to(self._device)


def _nearest(scan: _Scan, n: int) -> Iterator[tuple[tuple[int, int], IntArray]]:
    """The ``n`` smallest numbers of the rows of some queries at a time, and which queries."""
    counts_QH = scan.count().cumsum(dim=1)
    limits_Q = (counts_QH < n).sum(dim=1).clamp(max=counts_QH.shape[1] - 1)
    n_within_Q = counts_QH.gather(1, limits_Q[:, None])[:, 0].cpu().numpy()
    at_once = max(1, _KEPT_BYTES // (8 * max(1, int(n_within_Q.max(initial=0)))))
    for a, b in cut(len(n_within_Q), -(-len(n_within_Q) // at_once)):
        room = max(1, int(n_within_Q[a:b].max()))
        kept_QX = scan.of(a, b).keep(limits_Q[a:b].to(torch.int32), room)
        yield (a, b), kept_QX.topk(min(n, room), dim=1, largest=False, sorted=False).values.cpu().numpy()


def check_cuda() -> None:
    """Refuses a machine without a CUDA device."""
    if not torch.cuda.is_available():
        raise WorkerError(
            f"index.device = cuda was asked for, but torch {torch.__version__} finds no CUDA device",
            _ELSEWHERE,
        )


def _check_room(shards: Sequence[IndexShard]) -> None:
    """Refuses a device without memory for the codes and a search."""
    needed = sum(shard.n_rows * (-(-codes_of(shard).shape[1] // _WORD) * _WORD + 4) for shard in shards)
    free, _ = torch.cuda.mem_get_info()
    if needed + _SPARE_BYTES > free:
        raise WorkerError(
            f"the codes take {needed} bytes and a search {_SPARE_BYTES}, the CUDA device has {free} left",
            _ELSEWHERE,
        )


def _vectors_fit(shards: Sequence[IndexShard]) -> bool:
    """Whether there is memory for them beside codes that are there already."""
    free, _ = torch.cuda.mem_get_info()
    return bool(sum(shard.vectors_ND.nbytes for shard in shards) + _SPARE_BYTES <= free)


def _spans(shard: IndexShard, within: tuple[int, int] | Int32Array) -> IntArray:
    """Rows from and to that each query compares, int64 [Q, S, 2]; [1, 1, 2] where all compare the same."""
    if isinstance(within, tuple):
        return np.array([[within]], dtype=np.int64)
    assert shard.offsets_L is not None  # noqa: S101 (for the type checker)
    first_QP, last_QP = (np.where(within < 0, 0, shard.offsets_L[within + place]) for place in (0, 1))
    return np.stack([first_QP, last_QP], axis=2)


def _words(codes_NW: ByteArray) -> Int32Array:
    """Codes as 32-bit words, zeros behind the last byte."""
    words: Int32Array = np.pad(codes_NW, ((0, 0), (0, -codes_NW.shape[1] % _WORD))).view(np.int32)
    return words


def _address(shard: IndexShard) -> int:
    """What index shards share that differ only in which rows are live."""
    return int(codes_of(shard).__array_interface__["data"][0])


@contextmanager
def _device_errors() -> Iterator[None]:
    try:
        yield
    except _DEVICE_ERRORS as exc:
        first_line = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        raise WorkerError(f"the CUDA device failed: {first_line[:300]}", _ELSEWHERE) from exc
