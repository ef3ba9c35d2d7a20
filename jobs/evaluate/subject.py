"""What is evaluated: the live images of a snapshot, their vectors and labels."""

from jobs.search_answers import labels_of
from pipeline.errors import UsageError
from pipeline.evaluate.ranking import LabelledVectors
from pipeline.snapshot.open import OpenSnapshot


def label_column(snapshot: OpenSnapshot, label: str | None) -> str:
    """The attribute that is asked for, or the one the snapshot was indexed with.

    Raises:
        UsageError: neither names one.
    """
    column = label.removeprefix("@") if label else snapshot.manifest.source.label
    if column is None:
        raise UsageError("which attribute makes two images relevant?", fix="pass --label NAME")
    return column


def labelled_vectors(snapshot: OpenSnapshot, column: str) -> LabelledVectors:
    """All live images with their vectors and the attribute ``column``, None where it is absent."""
    ids = snapshot.live["image_id"].to_pylist()
    labels = labels_of(snapshot, ids, column)
    return LabelledVectors(x_ND=snapshot.vectors, ids=ids, labels=[labels.get(image_id) for image_id in ids])
