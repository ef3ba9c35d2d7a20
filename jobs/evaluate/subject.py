"""What is evaluated: the live images of a snapshot, their vectors, labels and groups."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.place import Place
from jobs.search_answers import labels_of
from jobs.session import open_snapshot
from pipeline.errors import UsageError
from pipeline.evaluate.ranking import LabelledVectors
from pipeline.snapshot.conditions import check_column
from pipeline.snapshot.manifest import Manifest
from pipeline.snapshot.mapped_vectors import mapped_vectors
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.selection import values_of

GROUP = "group_id"
"""The attribute that says which images show one product, where a catalog has it."""


def label_column(snapshot: OpenSnapshot, label: str | None) -> str:
    """The attribute that is asked for, or the one the snapshot was indexed with.

    Raises:
        UsageError: neither names one.
    """
    column = label.removeprefix("@") if label else snapshot.manifest.source.label
    if column is None:
        raise UsageError("which attribute makes two images relevant?", fix="pass --label NAME")
    return column


def group_column(snapshot: OpenSnapshot, collapse: str | None) -> str | None:
    """The attribute that groups images: the one asked for, ``group_id`` where there is one, or none.

    Raises:
        UsageError: the catalog does not have the one asked for.
    """
    has_group = GROUP in snapshot.attributes.schema.names
    if collapse is None or (collapse == "group" and "group" not in snapshot.attributes.schema.names):
        return GROUP if has_group or collapse else None
    check_column(snapshot.attributes, collapse)
    return collapse


def labelled_vectors(snapshot: OpenSnapshot, column: str | None, group: str | None = None) -> LabelledVectors:
    """All live images with their vectors, and the attributes ``column`` and ``group`` as text.

    Raises:
        UsageError: the catalog has no such attribute.
    """
    return _labelled(snapshot, snapshot.live["image_id"].to_pylist(), snapshot.vectors, column, group)


def searched_vectors(snapshot: OpenSnapshot, column: str | None, group: str | None = None) -> LabelledVectors:
    """The same in the order of their ids, the vectors mapped from a file: for exact search over all of them.

    Raises:
        UsageError: the catalog has no such attribute.
    """
    ids = snapshot.live["image_id"].to_pylist()
    order_N = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
    ordered = [ids[row] for row in order_N.tolist()]
    return _labelled(snapshot, ordered, mapped_vectors(snapshot, order_N), column, group)


def _labelled(
    snapshot: OpenSnapshot,
    ids: list[str],
    x_ND: npt.NDArray[np.float32],
    column: str | None,
    group: str | None,
) -> LabelledVectors:
    labels = {} if column is None else labels_of(snapshot, ids, column)
    groups = None if group is None else labels_of(snapshot, ids, group)
    return LabelledVectors(
        x_ND=x_ND,
        ids=ids,
        labels=[labels.get(image_id) for image_id in ids],
        groups=None if groups is None else [groups.get(image_id) for image_id in ids],
    )


def attribute_of(snapshot: OpenSnapshot, ids: Sequence[str], column: str) -> list[object]:
    """An attribute of each of these images.

    Raises:
        UsageError: the catalog has no such attribute.
    """
    check_column(snapshot.attributes, column)
    wanted = pa.array(ids, type=pa.string())
    values: list[object] = values_of(snapshot.attributes, column, wanted).to_pylist()
    return values


def named_snapshot(place: Place, which: str) -> OpenSnapshot:
    """The snapshot that ``COLLECTION`` or ``COLLECTION@SEQUENCE`` of a store names.

    Raises:
        UsageError: it names none.
    """
    collection, at, number = which.partition("@")
    if at and not number.isdecimal():
        raise UsageError(f"{which!r} names no snapshot", fix="as in main or main@12")
    return open_snapshot(place.uri, collection, int(number) if at else None)


def check_one_model(queries: Manifest, images: Manifest) -> None:
    """Queries can ask images of another snapshot only if one model embedded both.

    Raises:
        UsageError: it did not.
    """
    theirs, ours = queries.content.model, images.content.model
    if theirs.id != ours.id:
        raise UsageError(
            f"the queries were embedded by {theirs.name} ({theirs.id[:12]}), the images by "
            f"{ours.name} ({ours.id[:12]}): their distances mean nothing",
            fix="embed both with one model",
        )


def read_text(path: Path) -> str:
    """A file that the command line names.

    Raises:
        UsageError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"cannot read {path}: {exc}") from exc


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers from 1 with commas between, ascending, as `-k` takes them.

    Raises:
        UsageError: it is anything else.
    """
    try:
        found = tuple(sorted({int(number) for number in text.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] < 1:
        raise UsageError(
            f"-k takes whole numbers from 1 with commas between, got {text!r}", fix="as in -k 1,10"
        )
    return found
