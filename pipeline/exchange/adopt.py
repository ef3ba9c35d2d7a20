"""Makes embedding parts of existing embeddings: as embedding would have, but for where the vectors come from.

Rows are taken in their order, so many to a part. A vector that is zero or not finite is left out, its image
is embedded like one without a row. A vector that is not of length 1 is made so. The key of a part says what
is in it (model, images and their versions, the vectors' bytes), so an import that is started again finds the
parts it wrote before. Memory holds one part.

What cannot be known without reading the images: their width and height are 0, and where a version is not the
sha256 of the bytes (objects of a prefix), the content digest is empty.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.embed.table import VectorDtype, part_schema, write_rows
from pipeline.embed.task import PART
from pipeline.exchange.blocks import Block
from pipeline.exchange.match import NOWHERE, Matched
from pipeline.fingerprint import canonical_json, digest, sha256_hex, task_key
from pipeline.index.arrays import Float32Array, IntArray
from pipeline.model.described import Model
from pipeline.storage.receipts import Receipt, read_receipt, upload, write_receipt
from pipeline.storage.store import ObjectStore

STAGE = "import"
STAGE_VERSION = 1
_UNIT = 1e-5

Advance = Callable[[int], None]  # rows looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSettings:
    """What is known of the vectors: the model that made them, and how well that was proven.

    ``part_rows``, the rows of a part, is in no key.
    """

    model: Model
    dtype: VectorDtype
    least_cosine: float
    part_rows: int

    @property
    def config(self) -> dict[str, Any]:
        """What, beside images and vectors, decides the bytes of a part."""
        return {"model_id": self.model.model_id, "dtype": self.dtype, "least_cosine": self.least_cosine}

    @property
    def config_id(self) -> str:
        """The digest that parts are known by; that of embedded parts is always another."""
        return digest({"stage": STAGE, **self.config})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adoption:
    """The parts that were made, as receipts, and which rows of the fresh listing have a vector now.

    ``unusable`` vectors were zero or not finite; ``normalised`` ones had another length than 1.
    """

    receipts: Sequence[Receipt]
    has_vector_F: npt.NDArray[np.bool_]
    unusable: int
    normalised: int


def adopt(
    store: ObjectStore,
    blocks: Sequence[Block],
    matched: Matched,
    fresh: pa.Table,
    settings: ImportSettings,
    advance: Advance,
) -> Adoption:
    """Writes the matched rows as parts; ``fresh`` is the listing that ``matched`` points into.

    Raises:
        SourceError: a vector has another dimension, or cannot be read.
    """
    has_vector_F = np.zeros(fresh.num_rows, dtype=bool)
    counts = {"unusable": 0, "normalised": 0}
    receipts = []
    batches = _usable(blocks, matched, settings.model.card.dim, counts, advance)
    for fresh_N, x_ND in _parts(batches, settings.part_rows):
        receipts.append(_part(store, fresh.take(pa.array(fresh_N)), x_ND, settings))
        has_vector_F[fresh_N] = True
    return Adoption(receipts=receipts, has_vector_F=has_vector_F, **counts)


def _usable(
    blocks: Sequence[Block], matched: Matched, dim: int, counts: dict[str, int], advance: Advance
) -> Iterator[tuple[IntArray, Float32Array]]:
    """Batches of matched rows whose vectors are finite, at length 1; ``counts`` says of the others."""
    row = 0
    for block in blocks:
        end = row + block.n_rows
        if not (matched.fresh_M[row:end] != NOWHERE).any():
            row = end
            continue
        for batch_ND in block.vectors(dim):
            fresh_N = matched.fresh_M[row : row + len(batch_ND)]
            row += len(batch_ND)
            advance(row)
            wanted_N = fresh_N != NOWHERE
            x_ND, fresh_N = batch_ND[wanted_N], fresh_N[wanted_N]
            with np.errstate(over="ignore", invalid="ignore"):
                norm_N = np.sqrt(np.einsum("nd,nd->n", x_ND, x_ND, dtype=np.float64))
            good_N = np.isfinite(norm_N) & (norm_N > 0)
            x_ND, fresh_N, norm_N = x_ND[good_N], fresh_N[good_N], norm_N[good_N]
            counts["unusable"] += int((~good_N).sum())
            long_N = np.abs(norm_N - 1) > _UNIT
            counts["normalised"] += int(long_N.sum())
            x_ND[long_N] = x_ND[long_N] / norm_N[long_N, None]
            yield fresh_N, x_ND


def _parts(
    batches: Iterator[tuple[IntArray, Float32Array]], part_rows: int
) -> Iterator[tuple[IntArray, Float32Array]]:
    """The rows in pieces of ``part_rows``, each in plan order."""
    held: list[tuple[IntArray, Float32Array]] = []
    n_held = 0
    for fresh_N, x_ND in batches:
        held.append((fresh_N, x_ND))
        n_held += len(fresh_N)
        while n_held >= part_rows:
            part, held = _cut(held, part_rows)
            n_held -= part_rows
            yield part
    if n_held:
        yield _cut(held, part_rows)[0]


def _cut(
    held: list[tuple[IntArray, Float32Array]], part_rows: int
) -> tuple[tuple[IntArray, Float32Array], list[tuple[IntArray, Float32Array]]]:
    fresh_N = np.concatenate([rows for rows, _ in held])
    x_ND = np.concatenate([vectors for _, vectors in held])
    order_N = np.argsort(fresh_N[:part_rows])
    return (fresh_N[order_N], x_ND[order_N]), [(fresh_N[part_rows:], x_ND[part_rows:])]


def _part(store: ObjectStore, listed: pa.Table, x_ND: Float32Array, settings: ImportSettings) -> Receipt:
    """The part with these rows, from its receipt if it was written before."""
    stored_ND = np.ascontiguousarray(x_ND, dtype=settings.dtype)
    images = canonical_json([listed["image_id"].to_pylist(), listed["version"].to_pylist()])
    inputs = [sha256_hex(images), sha256_hex(stored_ND.tobytes())]
    key = task_key(STAGE, STAGE_VERSION, settings.config, inputs)
    present = read_receipt(store, STAGE, key)
    if present is not None:
        return present
    metadata = {
        "bitsieve.model_id": settings.model.model_id,
        "bitsieve.preprocess": canonical_json(asdict(settings.model.preprocess)).decode(),
        "bitsieve.source_digest": inputs[0],
        "bitsieve.stage": f"{STAGE}/{STAGE_VERSION}",
        "bitsieve.least_cosine": repr(settings.least_cosine),
    }
    schema = part_schema(x_ND.shape[1], settings.dtype).with_metadata(dict(sorted(metadata.items())))
    buffer = io.BytesIO()
    write_rows(buffer, pa.table(_columns(listed, stored_ND, schema), schema=schema))
    norm_N = np.linalg.norm(stored_ND.astype(np.float64), axis=1)
    receipt = Receipt(
        stage=STAGE,
        key=key,
        files={PART: upload(store, "embeddings", key, ".parquet", buffer.getvalue())},
        counts={"rows": len(x_ND), "rejected": 0},
        facts={"norm_min": float(norm_N.min()), "norm_max": float(norm_N.max())},
    )
    return write_receipt(store, receipt)


def _columns(listed: pa.Table, stored_ND: npt.NDArray[Any], schema: pa.Schema) -> list[pa.Array]:
    """The columns of a part, in the order of its schema."""
    in_container = pc.not_equal(listed["container"], "")
    kind = schema.field("embedding").type
    unknown = pa.array(np.zeros(listed.num_rows, dtype=np.int32))
    return [
        listed["image_id"],
        listed["version"],
        pc.if_else(in_container, listed["version"], ""),
        listed["locator"],
        unknown,
        unknown,
        pa.FixedSizeListArray.from_arrays(pa.array(stored_ND.reshape(-1), type=kind.value_type), type=kind),
    ]
