"""``bitsieve evaluate verification``: is the distance a good judge of same and different?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.evaluate.alignment import alignment_in_words, alignment_json
from jobs.evaluate.page import Page, write_page
from jobs.evaluate.subject import label_column, labelled_vectors, read_text
from jobs.output import AsJson, print_result
from jobs.place import Collection, Config, SnapshotNumber, Store, find_place
from jobs.run import software_versions
from pipeline.errors import UsageError
from pipeline.evaluate.accuracy import Thresholds
from pipeline.evaluate.error_curve import ValAtFar
from pipeline.evaluate.landmarks_file import read_landmarks
from pipeline.evaluate.pairs_file import DEFAULT_ID_TEMPLATE, PairList, read_pairs
from pipeline.evaluate.ranking import LabelledVectors
from pipeline.evaluate.report.verification_page import verification_document
from pipeline.evaluate.verification import (
    FARS,
    Options,
    Subject,
    verify_all_pairs,
    verify_pairs,
)
from pipeline.evaluate.verification_report import VerificationReport
from pipeline.evaluate.videos import FRAMES, first_frames, videos_of
from pipeline.snapshot.open import OpenSnapshot


def command(
    store: Store,
    pairs: Annotated[Path | None, typer.Option(help="List of pairs in LFW's format; all if absent.")] = None,
    threshold_from: Annotated[
        Path | None, typer.Option(help="Another list, whose pairs choose the threshold; the folds if absent.")
    ] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(help="Five points of each face, CSV: centre crops against faces put in place by them."),
    ] = None,
    id_template: Annotated[
        str, typer.Option(help="How a name and a number of the list make an id.")
    ] = DEFAULT_ID_TEMPLATE,
    label: Annotated[str | None, typer.Option(help="Attribute that says who is the same.")] = None,
    far: Annotated[list[float] | None, typer.Option(help="False accept rate; may be repeated.")] = None,
    thresholds: Annotated[Thresholds, typer.Option(help="Thresholds tried for the accuracy.")] = "facenet",
    few_different: Annotated[
        bool, typer.Option("--few-different", help="Show VAL also where 10 different pairs decide it.")
    ] = False,
    video: Annotated[
        str | None, typer.Option(help="Attribute that says which video a frame is from; judges videos.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="So many first frames of a video count.")] = FRAMES,
    collection: Collection = None,
    config: Config = None,
    sequence: SnapshotNumber = None,
    output: Page = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy, ROC and VAL at false accept rates, of a list of pairs or of all pairs of labelled images.

    Example: bitsieve evaluate verification --store index/ --pairs pairsDevTest.txt
    """
    options = Options(
        fars=_checked(far or FARS),
        thresholds=thresholds,
        few_different=few_different,
        mean_of_frames=video is not None,
    )
    if pairs is None and threshold_from is not None:
        raise UsageError("--threshold-from is for a list of pairs", fix="name the judged list with --pairs")
    if landmarks is not None and (pairs is None or video is not None):
        raise UsageError("--landmarks is for a list of pairs of images", fix="name the list with --pairs")
    points = None if landmarks is None else read_landmarks(read_text(landmarks), str(landmarks))
    snapshot = find_place(store, collection, config).snapshot(sequence)
    listed, choosing = (
        None if path is None else read_pairs(read_text(path), str(path), id_template)
        for path in (pairs, threshold_from)
    )
    column = label_column(snapshot, label) if listed is None else None
    images = labelled_vectors(snapshot, column, None if video is None else video.removeprefix("@"))
    videos = images.groups
    base = images if videos is None else videos_of(images, videos, frames)
    report = verification_report(snapshot, base, listed, options, choosing)
    result: dict[str, Any] = report.to_json()
    words = _in_words(report)
    if listed is not None and points is not None:
        result["alignment"] = alignment_json(snapshot, listed, points, options, choosing)
        words += "\n" + alignment_in_words(result["alignment"])
    if output is not None:
        first = None if videos is None else first_frames(images.ids, videos)
        write_page(output, verification_document(report, first, result.get("alignment")), result, snapshot)
    print_result(result, words, as_json=as_json)


def verification_report(
    snapshot: OpenSnapshot,
    base: LabelledVectors,
    listed: PairList | None,
    options: Options,
    choosing: PairList | None = None,
) -> VerificationReport:
    """Judges listed pairs of images or videos, or all pairs of those that carry a label.

    Raises:
        UsageError: the list's ids are not the snapshot's.
    """
    subject = Subject(
        model_id=snapshot.content.model.id,
        snapshot=snapshot.manifest.sequence,
        digest=snapshot.manifest.digest,
        software=software_versions(),
    )
    if listed is None:
        return verify_all_pairs(base, subject, options)
    return verify_pairs(listed, base.ids, base.x_ND, subject, options, chosen_on=choosing)


def _checked(fars: "list[float] | tuple[float, ...]") -> tuple[float, ...]:
    wrong = [far for far in fars if not 0 <= far <= 1]
    if wrong:
        raise UsageError(f"a false accept rate is between 0 and 1, got {wrong[0]}")
    return tuple(fars)


def _in_words(report: VerificationReport) -> str:
    lines = [f"{report.n_pairs:,} pairs: {report.n_same:,} same, {report.n_different:,} different"]
    if report.n_without_label:
        lines.append(f"  left out: {report.n_without_label:,} images without a label")
    if report.n_missing:
        examples = ", ".join(report.missing_ids[:3])
        lines.append(f"  left out: {report.n_missing} pairs, no vector of {examples}")
    if report.missing_folds:
        numbers = ", ".join(map(str, report.missing_folds))
        lines.append(f"  left out: all pairs of fold {numbers}, which is in no mean")
    if report.held_out is not None:
        chosen = report.held_out
        lines.append(
            f"  accuracy       {chosen.mean:.4f}  (95 % interval {chosen.low:.4f} to {chosen.high:.4f}; "
            f"D < {chosen.threshold:.4f}, chosen on {chosen.n_choosing:,} other pairs, "
            f"{chosen.choosing_mean:.4f} of them)"
        )
        if chosen.n_choosing_missing:
            lines.append(f"  left out: {chosen.n_choosing_missing} of the pairs that choose, no vector")
        if chosen.n_shared_images:
            lines.append(f"  in both lists: {chosen.n_shared_images} images; the accuracy flatters")
    if report.accuracy is not None:
        found = report.accuracy
        lines.append(
            f"  accuracy       {found.mean:.4f}  (std {found.std:.4f}, standard error {found.sem:.4f}, "
            f"{len(found.folds)} folds)"
        )
    lines += [f"  auc            {report.auc:.5f}", f"  eer            {report.eer:.4f}"]
    return "\n".join([*lines, *(_val_line(far, val) for far, val in report.val_at_far.items())])


def _val_line(far: str, found: ValAtFar) -> str:
    if found.val is None or found.low is None or found.high is None:
        return f"  VAL@FAR={far:<7}not shown: {found.reason}"
    return (
        f"  VAL@FAR={far:<7}{found.val:.4f}  (95 % interval {found.low:.4f} to {found.high:.4f}; "
        f"D < {found.threshold:.4f}, {found.n_false_accepts} false accepts)"
    )
