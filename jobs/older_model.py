"""Opens what an older model has stored of a training's images, for ``train --compatible-with``."""

from collections.abc import Sequence
from typing import Any

from jobs.adapter import matrix_in_words
from jobs.output import say
from jobs.session import absolute, open_snapshot
from pipeline.errors import UsageError
from pipeline.model.adapter_file import MatrixRow
from pipeline.train.stored import OlderModel, StoredVectors, joined


def stored_vectors(where: str, image_ids: Sequence[str], label: str, dim: int) -> StoredVectors:
    """The vectors of these images in the snapshot that ``STORE[#COLLECTION[@SEQUENCE]]`` names.

    Raises:
        UsageError: it names none, its vectors have not ``dim`` dimensions, or are of none of the images.
    """
    uri, _, which = where.rpartition("#") if "#" in where else (where, "#", "main")
    collection, at, number = which.partition("@")
    if not (uri and collection) or (at and not number.isdecimal()):
        raise UsageError(f"{where!r} names no snapshot", fix="as in index/#main or index/#main@12")
    snapshot = open_snapshot(absolute(uri), collection, int(number) if at else None)
    model = snapshot.content.model
    if model.dim != dim:
        raise UsageError(
            f"vectors of collection {collection!r} have {model.dim} dimensions, the training makes {dim}: "
            "they cannot be compared",
            fix=f"train with --dim {model.dim}, or leave --compatible-with away and fit an adapter later",
        )
    of = OlderModel(
        model_id=model.id,
        name=model.name,
        collection=collection,
        snapshot=snapshot.manifest.digest,
        label=label.removeprefix("@"),
    )
    found = joined(of, image_ids, snapshot.live["image_id"].to_pylist(), snapshot.vectors)
    n_missing = int((~found.has_N).sum())
    if n_missing:
        say(
            f"bitsieve: warning: {n_missing} of {len(image_ids)} images have no vector in collection "
            f"{of.collection!r}: they learn from labels alone, and do not judge"
        )
    return found


def older_in_words(older: dict[str, Any] | None) -> list[str]:
    """What a training's result says of its older model: the matrix of versions; nothing if there is none."""
    if older is None:
        return []
    return [
        f"with {older['name']} of collection {older['collection']}: "
        f"{'accepted' if older['accepted'] else 'REFUSED'}, judged by {older['n_judged']} images of classes "
        "that had no part in learning",
        f"    {older['verdict']}",
        *matrix_in_words([MatrixRow.model_validate(row) for row in older["matrix"]]),
    ]
