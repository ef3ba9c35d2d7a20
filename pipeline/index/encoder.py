"""Turns float vectors into bits whose Hamming distance follows the distance of the vectors.

Three recipes:

- ``sign``: bit = 1 where the component is above zero, one bit per dimension. The textbook recipe.
- ``centred-rotated`` (default): subtract the mean of the fit sample, rotate to any number of bits, then
  bit = 1 where the value is above its threshold. More bits than dimensions come from a stack of independent
  random rotations (a tight frame); fewer come from the first rows of one.
- ``itq``: the same with a learnt rotation (`itq`), of at most one bit per dimension.

A threshold is zero, or the median of the fit sample. In lists form an encoder also holds the centroids that
say which list a row belongs to (`lists`).

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
from pipeline.index.columns import COMPILED_FROM, signs
from pipeline.index.compiled import available
from pipeline.index.itq import fit_itq
from pipeline.index.lists import fit_centroids
from pipeline.index.rotation import VECTOR_GRID, on_grid, random_rotation

Recipe: TypeAlias = Literal["sign", "centred-rotated", "itq"]
Thresholds: TypeAlias = Literal["zero", "median"]
_RECIPES: dict[str, Recipe] = {"sign": "sign", "centred-rotated": "centred-rotated", "itq": "itq"}
FORMAT = 2
_BLOCK_ELEMENTS = 1 << 22  # float64 values of one block of rotated rows: 32 MiB

_ALL = slice(None)


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
    """Coarse quantiser of the lists form, float32 multiples of 2**-11; None in flat form."""

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
        if self.rotation_BD is not None and len(x_ND) >= COMPILED_FROM and available():
            return signs(x_ND, self.mean_D, self.rotation_BD, self.thresholds_B)
        codes_NW = np.empty((len(x_ND), self.bits // 8), dtype=np.uint8)
        for block in _blocks(len(x_ND), self.bits):
            bits_NB = self.values(x_ND[block]) > self.thresholds_B
            codes_NW[block] = np.packbits(bits_NB, axis=1, bitorder="little")
        return codes_NW

    def values(self, x_ND: VectorArray, bits: slice = _ALL) -> FloatArray:
        """What is compared with the thresholds, float64 [N, B]."""
        if self.rotation_BD is None:
            return x_ND[:, bits].astype(np.float64)
        centred_ND = on_grid(x_ND.astype(np.float64), VECTOR_GRID) - self.mean_D
        values_NB: FloatArray = centred_ND @ self.rotation_BD[bits].T.astype(np.float64)
        return values_NB

    def medians(self, x_ND: VectorArray) -> FloatArray:
        """The median over ``x_ND`` of what is compared with each threshold, float64 [B]."""
        medians_B = np.empty(self.bits)
        step = max(8, _BLOCK_ELEMENTS // max(1, len(x_ND)) // 8 * 8)
        for start in range(0, self.bits, step):
            medians_B[start : start + step] = np.median(self.values(x_ND, slice(start, start + step)), axis=0)
        return medians_B

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


def choose_bits(d: int, recipe: Recipe) -> int:
    """The most bits that are fitted unasked: those of `default_bits`, or d where the recipe ends there."""
    return {"sign": d, "itq": d // 8 * 8, "centred-rotated": default_bits(d)}[recipe]


def default_bits(d: int) -> int:
    """The most bits that are fitted unasked: 512, or d rounded up to 64 where that is more (see `bits`).

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
    thresholds: Thresholds = "zero",
    n_lists: int | None = None,
    fit_threshold: str = "",
) -> Encoder:
    """Fits an encoder on the sample ``x_ND`` (unit rows in seeded order).

    An empty sample of shape (0, d) is allowed: nothing is subtracted then, thresholds are zero, and there is
    one list.

    Args:
        x_ND: the sample.
        bits: of a code; None for what the dimension asks for.
        seed: of the rotation.
        recipe: how bits are made.
        thresholds: zero, or the median over the sample.
        n_lists: of the lists form, fewer where the sample has fewer distinct rows; None for the flat form.
        fit_threshold: largest sample key of the rows of ``x_ND``.

    Raises:
        UsageError: ``bits`` is not a positive multiple of 8, differs from d for the sign recipe, or exceeds d
            for itq.
    """
    d = x_ND.shape[1]
    bits = choose_bits(d, recipe) if bits is None else bits
    mean_D, rotation_BD = np.zeros(d), None
    if recipe != "sign" and len(x_ND):
        mean_D = on_grid(x_ND.mean(axis=0, dtype=np.float64), VECTOR_GRID)
    if recipe == "centred-rotated":
        rotation_BD = random_rotation(bits, d, seed)
    elif recipe == "itq":
        rotation_BD = fit_itq(x_ND - mean_D, bits, seed)
    encoder = Encoder(
        d=d,
        bits=bits,
        recipe=recipe,
        mean_D=mean_D,
        rotation_BD=rotation_BD,
        thresholds_B=np.zeros(max(bits, 0)),
        seed=seed,
        fit_threshold=fit_threshold,
        centroids_LD=None if n_lists is None else _centroids(x_ND, n_lists),
    )
    if thresholds == "median" and len(x_ND):
        encoder = dataclasses.replace(encoder, thresholds_B=encoder.medians(x_ND))
    return encoder


def _centroids(x_ND: VectorArray, n_lists: int) -> Float32Array:
    if n_lists < 1:
        raise UsageError(f"the lists form needs at least 1 list, got {n_lists}")
    if len(x_ND) == 0:
        return np.zeros((1, x_ND.shape[1]), dtype=np.float32)
    return fit_centroids(x_ND, n_lists)


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
        recipe=_RECIPES[str(archive["recipe"])],
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
