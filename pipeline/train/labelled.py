"""Turns a listing into labelled images, and splits them by identity. No torch here.

1. Rows that carry the label are kept; the others are counted. A label is text, a whole number or a truth
   value; two that differ only in type (``7`` and ``"7"``) are refused, because nobody means them to be two
   classes.
2. With a separator each image has several labels.
3. A share of the classes, chosen by the seed and their names, is set apart for validation.

Legend: N images, L labels.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.fingerprint import digest
from pipeline.model.card import class_draw
from pipeline.train.sampling import Labels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledImages:
    """N rows of a listing with labels: int64 [N] into ``names``, or bool [N, L]."""

    rows: pa.Table
    labels: Labels
    names: tuple[str, ...]
    n_without_label: int = 0

    def take(self, places: NDArray[np.int64]) -> "LabelledImages":
        """Some of the images, in this order; classes keep their numbers."""
        return LabelledImages(rows=self.rows.take(places), labels=self.labels[places], names=self.names)

    def digest(self) -> str:
        """What these images and labels are: equal ones give equal trainings."""
        facts = [
            self.rows["image_id"].to_pylist(),
            self.rows["version"].to_pylist(),
            hashlib.sha256(np.ascontiguousarray(self.labels).tobytes()).hexdigest(),
            list(self.names),
        ]
        return digest(facts)


def labelled_images(rows: pa.Table, label: str, separator: str | None = None) -> LabelledImages:
    """The rows of a listing that carry ``label``, with it.

    Raises:
        UsageError: none does, there is one class only, or labels differ only in type.
    """
    column = label.removeprefix("@")
    encoded = pc.dictionary_encode(rows["attributes"].combine_chunks())
    known = [json.loads(text).get(column) for text in encoded.dictionary.to_pylist()]
    _refuse_types(known, column)
    values = ["" if value is None else _text(value) for value in known]
    kinds_N = encoded.indices.to_numpy(zero_copy_only=False)
    has_N = np.array([value != "" for value in values], dtype=bool)[kinds_N]
    kept = rows.filter(pa.array(has_N))
    of_N = [values[kind] for kind in kinds_N[has_N]]
    split = [
        [part.strip() for part in text.split(separator) if part.strip()] if separator else [text]
        for text in of_N
    ]
    names = tuple(sorted({name for parts in split for name in parts}))
    if len(names) < 2:
        raise UsageError(
            f"{kept.num_rows} of {rows.num_rows} images carry the label {column!r}; "
            f"classes among them: {len(names)}; training needs two or more",
            fix="check --label; `bitsieve plan` shows which attributes there are",
        )
    number = {name: place for place, name in enumerate(names)}
    if separator:
        labels: Labels = np.zeros((len(split), len(names)), dtype=bool)
        for row, parts in enumerate(split):
            labels[row, [number[name] for name in parts]] = True
    else:
        labels = np.array([number[parts[0]] for parts in split], dtype=np.int64)
    return LabelledImages(
        rows=kept, labels=labels, names=names, n_without_label=rows.num_rows - kept.num_rows
    )


def split_by_identity(
    images: LabelledImages, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows to train on and those to validate on, ascending; classes of single labels are on one side.

    The classes with the smallest ``class_draw`` are set apart, at least two and at most all but two.
    An image with many labels goes with the first of them; the others may be on both sides.

    Raises:
        UsageError: fewer than four classes, or those set apart have one image each.
    """
    if len(images.names) < 4:
        raise UsageError(
            f"{len(images.names)} classes cannot be split into two to train on and two to validate on",
            fix="training needs images of at least four classes",
        )
    order = sorted(range(len(images.names)), key=lambda number: class_draw(images.names[number], seed))
    n_apart = min(max(2, round(share * len(order))), len(order) - 2)
    apart = np.zeros(len(order), dtype=bool)
    apart[order[:n_apart]] = True
    firsts_N = images.labels if images.labels.ndim == 1 else images.labels.argmax(axis=1)
    held_N = apart[firsts_N.astype(np.int64)]
    of_class = np.bincount(firsts_N[held_N]) if images.labels.ndim == 1 else images.labels[held_N].sum(axis=0)
    if of_class.max(initial=0) < 2:
        raise UsageError(
            f"the {n_apart} classes set apart for validation have one image each: none can be found again",
            fix="raise train.validation_share, take another train.seed, or leave such classes out",
        )
    return np.flatnonzero(~held_N), np.flatnonzero(held_N)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refuse_types(values: Sequence[object], column: str) -> None:
    kinds = {(type(value).__name__, _text(value)) for value in values if value is not None}
    if any(kind == "float" for kind, _ in kinds):
        raise UsageError(
            f"the label {column!r} holds numbers with fractions, which name no classes",
            fix="choose a --label of text or whole numbers",
        )
    twice = [text for text, count in Counter(text for _, text in kinds).items() if count > 1]
    if twice:
        raise UsageError(
            f"the label {column!r} holds {twice[0]!r} both as text and as a number: one class or two?",
            fix="write all labels of the catalog as one type",
        )
