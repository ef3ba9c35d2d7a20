"""The benchmark that two snapshots share: images both have with the same bytes, labels, slices."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.evaluate.subject import GROUP
from jobs.search_answers import labels_of
from pipeline.errors import UsageError
from pipeline.evaluate.comparison import Benchmark, QuerySet, Vectors
from pipeline.evaluate.label_sample import sample_by_label
from pipeline.evaluate.metrics import Ints
from pipeline.snapshot.conditions import check_column
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.selection import values_of

_NO_SLICE = frozenset({"image_id", "locator"})
_MOST_VALUES = 50
_SIZES = ((1, "1 image"), (2, "2 images"), (5, "3 to 5 images"), (20, "6 to 20 images"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Excluded:
    """Images that are not compared."""

    only_old: int
    only_new: int
    other_bytes: int
    """The same id, another picture."""
    not_sampled: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Common:
    """Rows of the live images of old and new that are the same images, in the order of their ids."""

    ids: Sequence[str]
    old_N: Ints
    new_N: Ints
    excluded: Excluded


def common_images(old: OpenSnapshot, new: OpenSnapshot) -> Common:
    """The images that both have with the same bytes, as far as their digests are known.

    Raises:
        UsageError: there is none.
    """
    old_ids, new_ids = (one.live["image_id"].combine_chunks() for one in (old, new))
    where = pc.index_in(old_ids, value_set=new_ids)
    old_N = np.flatnonzero(np.asarray(where.is_valid()))
    new_N = where.drop_null().to_numpy().astype(np.int64)
    digests = zip(
        old.live["content_digest"].take(pa.array(old_N)).to_pylist(),
        new.live["content_digest"].take(pa.array(new_N)).to_pylist(),
        strict=True,
    )
    same_N = np.array([a == b or not a or not b for a, b in digests], dtype=np.bool_)
    if not same_N.any():
        raise UsageError(
            f"{_name(old)} and {_name(new)} have no image in common, "
            f"of {len(old_ids)} and {len(new_ids)} images",
            fix="compare snapshots of the same catalog",
        )
    ids = old_ids.take(pa.array(old_N[same_N])).to_pylist()
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
    return Common(
        ids=[ids[row] for row in order.tolist()],
        old_N=old_N[same_N][order],
        new_N=new_N[same_N][order],
        excluded=Excluded(
            only_old=len(old_ids) - len(old_N),
            only_new=len(new_ids) - len(new_N),
            other_bytes=int((~same_N).sum()),
        ),
    )


def _name(snapshot: OpenSnapshot) -> str:
    return f"{snapshot.manifest.collection}@{snapshot.manifest.sequence}"


def sampled(common: Common, labels: Sequence[str | None], n: int, seed: int) -> Common:
    """About ``n`` of the images, labels kept together."""
    rows = sample_by_label(common.ids, labels, n, seed=seed)
    excluded = replace(common.excluded, not_sampled=len(common.ids) - len(rows))
    return replace(narrowed_to(common, rows), excluded=excluded)


def narrowed_to(common: Common, rows: Ints) -> Common:
    """Some of the images, by row."""
    return replace(
        common,
        ids=[common.ids[row] for row in rows.tolist()],
        old_N=common.old_N[rows],
        new_N=common.new_N[rows],
    )


def labels_for(snapshot: OpenSnapshot, ids: Sequence[str], column: str) -> list[str | None]:
    """The attribute ``column`` of each image, None where it has none.

    Raises:
        UsageError: there is no such attribute.
    """
    found = labels_of(snapshot, ids, column)
    return [found.get(image_id) for image_id in ids]


def benchmark_of(
    attributes: OpenSnapshot,
    ids: Sequence[str],
    column: str,
    vectors: tuple[Vectors, Vectors],
    *,
    group: str | None,
    slices: Sequence[str],
    asked_by: tuple[OpenSnapshot, QuerySet] | None = None,
) -> Benchmark:
    """The old and new vectors of ``ids``, labelled, grouped and sliced by the attributes of a snapshot.

    Args:
        attributes: The snapshot that knows the attributes.
        ids: Images.
        column: The attribute that makes two images relevant.
        vectors: Old and new, a row for each image.
        group: What stands or falls together; ``group_id`` if there is one, else the label.
        slices: Attributes to look into; all with few values if empty.
        asked_by: Queries and the snapshot that knows their groups and slices; the images ask if absent.

    Raises:
        UsageError: there is no such attribute.
    """
    labels = labels_for(attributes, ids, column)
    asker, queries = asked_by or (attributes, None)
    asking, asking_labels = (ids, labels) if queries is None else (queries.ids, queries.labels)
    grouped_by = group or (GROUP if GROUP in asker.attributes.schema.names else column)
    groups = labels_for(asker, asking, grouped_by)
    names = list(slices) or _sliceable(asker, asking, exclude={column, grouped_by})
    if grouped_by != column and not slices:
        names.append(column)
    return Benchmark(
        ids=ids,
        labels=labels,
        groups=[name or f"\0{image_id}" for name, image_id in zip(groups, asking, strict=True)],
        slices={
            "images with the same label": _sizes(asking_labels, labels),
            **{name: labels_for(asker, asking, name) for name in names},
        },
        old_ND=vectors[0],
        new_NE=vectors[1],
        queries=queries,
    )


def _sliceable(snapshot: OpenSnapshot, ids: Sequence[str], exclude: set[str]) -> list[str]:
    """Attributes with 2 to 50 values among the images."""
    table, wanted = snapshot.attributes, pa.array(ids, type=pa.string())
    names = []
    for name in table.schema.names:
        if name in _NO_SLICE or name in exclude:
            continue
        check_column(table, name)
        kind = table.schema.field(name).type
        if pa.types.is_nested(kind) or pa.types.is_floating(kind):
            continue
        if 2 <= pc.count_distinct(values_of(table, name, wanted)).as_py() <= _MOST_VALUES:
            names.append(name)
    return names


def _sizes(asking: Sequence[str | None], labels: Sequence[str | None]) -> list[str | None]:
    """How many images carry the label of each image that asks, in words."""
    counts: dict[str, int] = {}
    for label in labels:
        if label is not None:
            counts[label] = counts.get(label, 0) + 1
    return [_size(counts[label]) if label in counts else None for label in asking]


def _size(n: int) -> str:
    return next((name for most, name in _SIZES if n <= most), "more than 20 images")
