"""Keeps the books of one image shard: every image that goes in comes out as a row or as a reject.

Rows and rejects are written in plan order as soon as they are settled, to files without a name, so that
memory holds what is under way and not the shard, and a killed worker leaves nothing behind. The same bytes
under two ids are two rows, embedded once: of what is settled, a digest and a row number stay in memory, and
the vector of an earlier image is read back from disk. Vectors of earlier parts are laid there too, and are
then repeats like any other.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pipeline.catalog.read import FetchedImage
from pipeline.embed.reuse import EarlierVectors
from pipeline.embed.table import EmbeddedImage, PartWriter, RejectsWriter, VectorDtype
from pipeline.values import Reject, RejectReason

_NO_VECTOR = "the model answered NaN, infinity or a zero vector"


@dataclass(slots=True)
class Outcome:
    """What became of one image: in the end a vector, a reject, or ``is_repeat``: the same as its like."""

    image_id: str
    version: str
    locator: str
    content_digest: str
    size_bytes: int
    width_px: int = 0
    height_px: int = 0
    vector_D: npt.NDArray[np.float32] | None = None
    reject: RejectReason | None = None
    detail: str = ""
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class _Row:
    """Where a vector lies in the file of vectors, and its image's sides; whether it is an earlier part's."""

    offset: int
    width_px: int
    height_px: int
    is_earlier: bool


@dataclass(frozen=True, slots=True)
class _Refused:
    reason: RejectReason
    detail: str


class ShardBooks:
    """The rows and rejects of one shard. A context manager: its files are gone when it ends.

    ``n_rows``, ``n_reused`` (rows with vectors of earlier parts) and ``reject_counts`` count what is settled;
    ``norm_min`` and ``norm_max`` are lengths of vectors as they are stored.
    """

    def __init__(
        self,
        folder: Path,
        dim: int,
        metadata: dict[str, str],
        dtype: VectorDtype,
        earlier: EarlierVectors | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._earlier = earlier
        self.n_rows = self.n_reused = 0
        self.reject_counts: dict[RejectReason, int] = {}
        self.norm_min, self.norm_max = np.inf, 0.0
        self._dtype = np.dtype(dtype)
        self._vector_bytes = dim * self._dtype.itemsize
        self._known: dict[bytes, _Row | _Refused | None] = {}
        self._vectors, self._part, self._rejects = (_nameless(folder) for _ in range(3))
        self._part_writer = PartWriter(self._part, dim, metadata, dtype)
        self._rejects_writer = RejectsWriter(self._rejects)

    def __enter__(self) -> "ShardBooks":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._part_writer.close()
        self._rejects_writer.close()
        for file in (self._vectors, self._part, self._rejects):
            file.close()

    def open(self, image: FetchedImage) -> Outcome:
        """Opens the books on an image; it needs no model if it was not readable or its bytes are known."""
        outcome = Outcome(
            image_id=image.image_id,
            version=image.version,
            locator=image.locator,
            content_digest=image.content_digest,
            size_bytes=len(image.data),
            reject=image.reject,
            detail=image.detail,
        )
        if image.reject is None:
            digest = bytes.fromhex(image.content_digest)
            self._recall(digest)
            outcome.is_repeat = digest in self._known
            self._known.setdefault(digest, None)
        return outcome

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Writes these, in the order in which they were opened."""
        for outcome in outcomes:
            if outcome.is_repeat:
                self._repeated(outcome)
            elif outcome.vector_D is not None:
                self._embedded(outcome, outcome.vector_D.astype(self._dtype, copy=False))
            else:
                self._refused(outcome)

    def close(self) -> tuple[Path | None, Path | None]:
        """Ends both tables; the part's and the rejects' file, None for one without rows."""
        self._part_writer.close()
        self._rejects_writer.close()
        self._part.flush()
        self._rejects.flush()
        part, rejects = (Path(f"/proc/self/fd/{file.fileno()}") for file in (self._part, self._rejects))
        return part if self.n_rows else None, rejects if self.reject_counts else None

    def _embedded(self, outcome: Outcome, vector_D: npt.NDArray[Any]) -> None:
        digest = bytes.fromhex(outcome.content_digest)
        self._known[digest] = self._kept(vector_D, outcome.width_px, outcome.height_px, is_earlier=False)
        self._write_row(outcome, vector_D)

    def _repeated(self, outcome: Outcome) -> None:
        known = self._known[bytes.fromhex(outcome.content_digest)]
        if isinstance(known, _Row):
            self._vectors.seek(known.offset)
            vector_D = np.frombuffer(self._vectors.read(self._vector_bytes), self._dtype)
            outcome.width_px, outcome.height_px = known.width_px, known.height_px
            self.n_reused += known.is_earlier
            self._write_row(outcome, vector_D)
        elif known is not None:
            self._write_reject(outcome, known)

    def _refused(self, outcome: Outcome) -> None:
        if outcome.reject is not None:
            refused = _Refused(outcome.reject, outcome.detail)
        else:
            refused = _Refused(RejectReason.NONFINITE_EMBEDDING, _NO_VECTOR)
        if outcome.content_digest:
            self._known[bytes.fromhex(outcome.content_digest)] = refused
        self._write_reject(outcome, refused)

    def _recall(self, digest: bytes) -> None:
        """Lays the vectors of earlier parts where those of earlier images are, if one is of these bytes."""
        if self._earlier is None or digest in self._known:
            return
        for row in self._earlier.around(digest):
            if row.digest not in self._known:
                self._known[row.digest] = self._kept(
                    row.vector_D, row.width_px, row.height_px, is_earlier=True
                )

    def _kept(self, vector_D: npt.NDArray[Any], width_px: int, height_px: int, *, is_earlier: bool) -> _Row:
        """The vector, put where it can be read again."""
        row = _Row(self._vectors.seek(0, os.SEEK_END), width_px, height_px, is_earlier)
        self._vectors.write(vector_D.tobytes())
        return row

    def _write_row(self, outcome: Outcome, vector_D: npt.NDArray[Any]) -> None:
        norm = float(np.linalg.norm(vector_D.astype(np.float64)))
        self.norm_min, self.norm_max = min(self.norm_min, norm), max(self.norm_max, norm)
        image = EmbeddedImage(
            image_id=outcome.image_id,
            version=outcome.version,
            content_digest=outcome.content_digest,
            locator=outcome.locator,
            width_px=outcome.width_px,
            height_px=outcome.height_px,
        )
        self._part_writer.add(image, vector_D)
        self.n_rows += 1

    def _write_reject(self, outcome: Outcome, refused: _Refused) -> None:
        reject = Reject(
            image_id=outcome.image_id,
            version=outcome.version,
            reason=refused.reason,
            detail=refused.detail,
            locator=outcome.locator,
            content_digest=outcome.content_digest,
            size_bytes=outcome.size_bytes,
        )
        self._rejects_writer.add(reject)
        self.reject_counts[refused.reason] = self.reject_counts.get(refused.reason, 0) + 1


def _nameless(folder: Path) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=folder)
