"""Turns float vectors into bits whose Hamming distance follows the distance of the vectors.

Two recipes:

- ``sign``: bit = 1 where the component is above zero, one bit per dimension. The textbook recipe.
- ``centred-rotated`` (default): subtract the mean of the fit sample, rotate to any number of bits, then
  bit = 1 where the value is above its threshold. More bits than dimensions come from a stack of independent
  random rotations (a tight frame); fewer come from the first rows of one.

A bit never depends on block shape, BLAS, threads or machine: rotation and centred vector are multiples of
2**-24 and 2**-26, so every product and partial sum of the float64 matrix product is exact, in any order.
"""

import dataclasses
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from pipeline.errors import DataCorrupt, UsageError
from pipeline.fingerprint import digest, sha256_hex
from pipeline.index.arrays import ByteArray, Float32Array, FloatArray, VectorArray

Recipe: TypeAlias = Literal["sign", "centred-rotated"]
FORMAT = 2
_BLOCK_ELEMENTS = 1 << 22  # float64 values of one block of rotated rows: 32 MiB
_VECTOR_GRID = 2.0**26
_ROTATION_GRID = 2.0**24


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoder:
    """Everything that decides the bits of a vector. Arrays are read-only; equal digests give equal codes."""

    d: int
    bits: int
    recipe: Recipe
    mean_D: FloatArray
    rotation_BD: Float32Array | None
    """Float32 multiples of 2**-24, exact; None for the sign recipe."""
    thresholds_B: FloatArray
    seed: int
    fit_threshold: str
    """Largest sample key (16 hex digits) of the rows fitted on; empty if there was none."""
    centroids_LD: Float32Array | None = None
    """Coarse quantiser of the lists form, float32 multiples of 2**-24; None in flat form."""

    def __post_init__(self) -> None:
        _check(self)
        for array in (self.mean_D, self.rotation_BD, self.thresholds_B, self.centroids_LD):
            if array is not None:
                array.flags.writeable = False

    @property
    def n_lists(self) -> int | None:
        """How many lists the rows of a shard are cut into; None in flat form."""
        return None if self.centroids_LD is None else len(self.centroids_LD)

    @property
    def digest(self) -> str:
        """Digest of what the encoder is, whatever file it came from."""
        facts = {field.name: _fact(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return digest({"encoder": FORMAT} | facts)

    def encode(self, x_ND: VectorArray) -> ByteArray:
        """Codes of the rows of ``x_ND``: uint8 [N, bits / 8], bit j in byte j // 8 at place j % 8.

        Rows are taken in bounded blocks. The exactness promised above holds for vectors of length up to 3;
        stored vectors and queries have length 1.

        Raises:
            UsageError: the rows have another number of dimensions than the encoder.
        """
        if x_ND.ndim != 2 or x_ND.shape[1] != self.d:
            raise UsageError(
                f"the encoder takes vectors of {self.d} dimensions, got an array of shape {x_ND.shape}",
                "use the model that the index was built with",
            )
        codes_NW = np.empty((len(x_ND), self.bits // 8), dtype=np.uint8)
        for block in _blocks(len(x_ND), self.bits):
            bits_NB = self._values(x_ND[block]) > self.thresholds_B
            codes_NW[block] = np.packbits(bits_NB, axis=1, bitorder="little")
        return codes_NW

    def to_bytes(self) -> bytes:
        """The encoder as an .npz that plain numpy opens; the same encoder gives the same bytes."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        }
        np.savez(buffer, allow_pickle=False, format=FORMAT, digest=self.digest, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Encoder":
        """The encoder that ``to_bytes`` wrote.

        Raises:
            DataCorrupt: not such an .npz, or its contents do not have the digest they carry.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                encoder, claimed = _read(archive), str(archive["digest"])
        except (ValueError, KeyError, OSError, EOFError, TypeError, UsageError, zipfile.BadZipFile) as exc:
            raise DataCorrupt(f"not an encoder of format {FORMAT}: {exc}") from exc
        if encoder.digest != claimed:
            raise DataCorrupt(f"the encoder says its digest is {claimed}, its contents give {encoder.digest}")
        return encoder

    def _values(self, x_ND: VectorArray) -> FloatArray:
        """What is compared with the thresholds, float64 [N, B]."""
        if self.rotation_BD is None:
            return x_ND.astype(np.float64)
        centred_ND = _on_grid(x_ND.astype(np.float64), _VECTOR_GRID) - self.mean_D
        values_NB: FloatArray = centred_ND @ self.rotation_BD.T.astype(np.float64)
        return values_NB


def default_bits(d: int) -> int:
    """The bits to fit where nobody asked for a number: 512, or d rounded up to 64 where that is more.

    At d = 128, 512 bits reach with 200 candidates the recall that 128 bits miss with 1,000 (measured on
    faces, DESIGN.md section 6). From d = 512 on, one bit per dimension is enough, and 64 keeps popcounts
    whole.
    """
    return max(512, -(-d // 64) * 64)


def fit_encoder(
    x_ND: VectorArray,
    *,
    bits: int | None = None,
    seed: int = 0,
    recipe: Recipe = "centred-rotated",
    fit_threshold: str = "",
) -> Encoder:
    """Fits an encoder on the sample ``x_ND`` (unit rows; order does not matter beyond float64 rounding).

    An empty sample of shape (0, d) is allowed: nothing is subtracted then.

    Raises:
        UsageError: ``bits`` is not a positive multiple of 8, or differs from d for the sign recipe.
    """
    d = x_ND.shape[1]
    if recipe == "sign":
        bits = d if bits is None else bits
        mean_D, rotation_BD = np.zeros(d), None
    else:
        bits = default_bits(d) if bits is None else bits
        mean_D = _on_grid(x_ND.mean(axis=0, dtype=np.float64), _VECTOR_GRID) if len(x_ND) else np.zeros(d)
        rotation_BD = random_rotation(bits, d, seed)
    return Encoder(
        d=d,
        bits=bits,
        recipe=recipe,
        mean_D=mean_D,
        rotation_BD=rotation_BD,
        thresholds_B=np.zeros(max(bits, 0)),
        seed=seed,
        fit_threshold=fit_threshold,
    )


def random_rotation(bits: int, d: int, seed: int) -> Float32Array:
    """``bits`` unit rows of d dimensions in random orthonormal blocks of d rows; float32 [bits, d].

    Each block is the Q of a seeded Gaussian matrix, its signs fixed so that it is uniform over rotations.
    """
    generator = np.random.default_rng(seed)
    blocks = []
    for _ in range(max(1, -(-bits // d))):
        q_DD, r_DD = np.linalg.qr(generator.standard_normal((d, d)))
        blocks.append(q_DD * np.where(np.diag(r_DD) < 0, -1.0, 1.0))
    return _on_grid(np.concatenate(blocks)[: max(bits, 0)], _ROTATION_GRID).astype(np.float32)


def effective_dimension(x_ND: VectorArray) -> float:
    """Participation ratio of the covariance spectrum: how many dimensions the rows really fill, 1 to d.

    (sum of eigenvalues)**2 / sum of their squares, without an eigenvalue; 0 where all rows are equal.
    """
    if len(x_ND) == 0:
        return 0.0
    centred_ND = x_ND.astype(np.float64) - x_ND.mean(axis=0, dtype=np.float64)
    covariance_DD = centred_ND.T @ centred_ND / len(x_ND)
    total, squares = float(np.trace(covariance_DD)), float(np.sum(covariance_DD**2))
    return total**2 / squares if total > 1e-12 else 0.0


def count_ones(codes_NW: ByteArray) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """How many codes have each bit set, int64 [B]; adds over blocks and index shards."""
    ones_B = np.zeros(codes_NW.shape[1] * 8, dtype=np.int64)
    for block in _blocks(len(codes_NW), codes_NW.shape[1] * 8):
        ones_B += np.unpackbits(codes_NW[block], axis=1, bitorder="little").sum(axis=0, dtype=np.int64)
    return ones_B


def bit_balance(ones_B: "np.ndarray[tuple[int], np.dtype[np.int64]]", n: int) -> float:
    """Mean over bits of |share of ones - 1/2|: 0 is perfect, .5 means that no bit says anything."""
    return float(np.mean(np.abs(ones_B / n - 0.5))) if n else 0.0


def _on_grid(values: FloatArray, grid: float) -> FloatArray:
    return np.rint(values * grid) / grid


def _blocks(n: int, width: int) -> Iterator[slice]:
    rows = max(1, _BLOCK_ELEMENTS // max(width, 1))
    for start in range(0, n, rows):
        yield slice(start, min(start + rows, n))


def _fact(value: object) -> object:
    if isinstance(value, np.ndarray):
        return [value.dtype.str, list(value.shape), sha256_hex(value.tobytes())]
    return value


def _read(archive: Any) -> Encoder:
    if int(archive["format"]) != FORMAT:
        raise ValueError(f"its format is {int(archive['format'])}")
    return Encoder(
        d=int(archive["d"]),
        bits=int(archive["bits"]),
        recipe="sign" if str(archive["recipe"]) == "sign" else "centred-rotated",
        mean_D=archive["mean_D"],
        rotation_BD=archive.get("rotation_BD"),
        thresholds_B=archive["thresholds_B"],
        seed=int(archive["seed"]),
        fit_threshold=str(archive["fit_threshold"]),
        centroids_LD=archive.get("centroids_LD"),
    )


def _check(encoder: Encoder) -> None:
    if encoder.bits < 8 or encoder.bits % 8:
        raise UsageError(f"bits must be a positive multiple of 8, got {encoder.bits}")
    if (encoder.rotation_BD is None) != (encoder.recipe == "sign"):
        raise UsageError(f"the recipe {encoder.recipe} and the presence of a rotation do not agree")
    if encoder.rotation_BD is None and encoder.bits != encoder.d:
        raise UsageError(
            f"the sign recipe has one bit per dimension: expected {encoder.d} bits, got {encoder.bits}"
        )
    expected = {
        "mean_D": (encoder.d,),
        "thresholds_B": (encoder.bits,),
        "rotation_BD": (encoder.bits, encoder.d),
        "centroids_LD": (encoder.n_lists, encoder.d),
    }
    for name, shape in expected.items():
        array = getattr(encoder, name)
        if array is not None and (array.shape != shape or not np.isfinite(array).all()):
            raise UsageError(f"{name} must be finite and of shape {shape}, got shape {array.shape}")
