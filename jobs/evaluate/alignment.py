"""Embeds the faces of a list of pairs twice: cropped about the centre, and put in place by five points."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from jobs.evaluate.embedded_sample import image_batches, session_of
from jobs.progress import TerminalProgress
from pipeline.embed.query import embed_queries
from pipeline.errors import SourceError, UsageError
from pipeline.evaluate.pairs_file import PairList
from pipeline.evaluate.verification import Options, Subject, verify_pairs
from pipeline.evaluate.verification_report import VerificationReport
from pipeline.images.align import aligned, centre_crop, face_share
from pipeline.images.decode import ImageRejected
from pipeline.snapshot.open import OpenSnapshot
from pipeline.storage import layout

_BATCH = 64
_SIZED = 64

T = TypeVar("T")
Landmarks = Mapping[str, npt.NDArray[np.float64]]


def alignment_json(
    snapshot: OpenSnapshot,
    pairs: PairList,
    landmarks: Landmarks,
    options: Options,
    chosen_on: PairList | None,
) -> dict[str, Any]:
    """Judges the pairs whose images have points, by both ways of cropping, with the snapshot's model.

    The square about the centre is, as a share of the picture's short side, as large as those of the faces are
    in the median, so that both see about as much of a head.

    Raises:
        UsageError: no image of the pairs is in the snapshot and has points.
        SourceError: none of them could be read from the source and embedded.
    """
    listed = {name for one in (pairs, chosen_on) if one is not None for name in (*one.left, *one.right)}
    here = sorted(listed & set(snapshot.live["image_id"].to_pylist()))
    wanted = [name for name in here if name in landmarks]
    if not wanted:
        raise UsageError(
            f"none of the {len(here)} listed images of the snapshot has points",
            fix="the first column of the landmarks is the image id, as `bitsieve search` prints it",
        )
    share = _median_share(snapshot, wanted, landmarks)
    where = layout.model(snapshot.content.model.id)
    centre: dict[str, Any] = {}
    five: dict[str, Any] = {}
    with (
        session_of(snapshot.store.get(where), where) as session,
        TerminalProgress() as progress,
        ThreadPoolExecutor(os.cpu_count()) as threads,
    ):
        side_px, done = min(session.model.preprocess.size), 0
        progress.stage("alignment", len(wanted), "images")
        for names, images in image_batches(snapshot, wanted, _BATCH):
            points = [landmarks[name] for name in names]
            crops = threads.map(partial(_unless_rejected, centre_crop), images, repeat(share))
            faces = threads.map(partial(_unless_rejected, aligned), images, points, repeat(side_px))
            for kept, made in ((centre, crops), (five, faces)):
                found = embed_queries(session, list(made))
                rows = zip(names, found.xq_QD, found.reasons, strict=True)
                kept.update({name: x_D for name, x_D, reason in rows if reason is None})
            done += len(names)
            progress.advance(done)
    both = [name for name in wanted if name in centre and name in five]
    if not both:
        raise _unread(snapshot, len(wanted))
    return {
        "n_images": len(both),
        "n_without_landmarks": len(here) - len(wanted),
        "n_lost": len(wanted) - len(both),
        "centre_share": round(share, 4),
        **{
            kind: _summary(_judged(snapshot, pairs, both, vectors, options, chosen_on))
            for kind, vectors in (("centre_crop", centre), ("five_points", five))
        },
    }


def alignment_in_words(found: Mapping[str, Any]) -> str:
    """Both ways of cropping, line by line."""
    left_out = f"{found['n_without_landmarks']} without points, {found['n_lost']} lost"
    lines = [f"  embedded again  {found['n_images']:,} images ({left_out})"]
    for kind, name in (("centre_crop", "centre crop"), ("five_points", "five points")):
        one = found[kind]
        accuracy = (one["accuracy"] or one["held_out"])["mean"]
        lines.append(f"  {name:<15} accuracy {accuracy:.4f}  auc {one['auc']:.5f}  eer {one['eer']:.4f}")
    return "\n".join(lines)


def _median_share(snapshot: OpenSnapshot, wanted: list[str], landmarks: Landmarks) -> float:
    some = wanted[:: max(1, len(wanted) // _SIZED)]
    shares = [
        share
        for names, images in image_batches(snapshot, some, _BATCH)
        for name, data in zip(names, images, strict=True)
        if (share := _unless_rejected(face_share, data, landmarks[name])) is not None
    ]
    if not shares:
        raise _unread(snapshot, len(some))
    return min(1.0, float(np.median(shares)))


def _unread(snapshot: OpenSnapshot, n_images: int) -> SourceError:
    return SourceError(
        f"none of {n_images} images could be embedded again from {snapshot.manifest.source.uri}",
        fix="check that the source is still there",
    )


def _judged(
    snapshot: OpenSnapshot,
    pairs: PairList,
    names: list[str],
    vectors: Mapping[str, npt.NDArray[np.float32]],
    options: Options,
    chosen_on: PairList | None,
) -> VerificationReport:
    x_ND = np.stack([vectors[name] for name in names])
    subject = Subject(model_id=snapshot.content.model.id)
    return verify_pairs(pairs, names, x_ND, subject, options, chosen_on=chosen_on)


def _summary(report: VerificationReport) -> dict[str, Any]:
    wanted = ("n_pairs", "n_same", "n_different", "accuracy", "held_out", "auc", "eer", "val_at_far")
    found = report.to_json()
    return {name: found[name] for name in wanted}


def _unless_rejected(act: Callable[..., T], *given: Any) -> T | None:
    """What ``act`` makes of an image; None where it is none."""
    try:
        return act(*given)
    except ImageRejected:
        return None
