"""``bitsieve evaluate verification``: is the distance a good judge of same and different?"""

from pathlib import Path
from typing import Annotated

import typer

from jobs.evaluate.page import Page, write_page
from jobs.evaluate.subject import label_column, labelled_vectors, read_text
from jobs.output import AsJson, print_result
from jobs.place import Collection, Config, SnapshotNumber, Store, find_place
from jobs.run import software_versions
from pipeline.errors import UsageError
from pipeline.evaluate.error_curve import ValAtFar
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
from pipeline.evaluate.verification_report import Thresholds, VerificationReport
from pipeline.evaluate.videos import FRAMES, first_frames, videos_of
from pipeline.snapshot.open import OpenSnapshot


def command(
    store: Store,
    pairs: Annotated[Path | None, typer.Option(help="List of pairs in LFW's format; all if absent.")] = None,
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
    snapshot = find_place(store, collection, config).snapshot(sequence)
    listed = None if pairs is None else read_pairs(read_text(pairs), str(pairs), id_template)
    column = label_column(snapshot, label) if listed is None else None
    images = labelled_vectors(snapshot, column, None if video is None else video.removeprefix("@"))
    videos = images.groups
    base = images if videos is None else videos_of(images, videos, frames)
    report = verification_report(snapshot, base, listed, options)
    if output is not None:
        document = verification_document(report, None if videos is None else first_frames(images.ids, videos))
        write_page(output, document, report.to_json(), snapshot)
    print_result(report.to_json(), _in_words(report), as_json=as_json)


def verification_report(
    snapshot: OpenSnapshot, base: LabelledVectors, listed: PairList | None, options: Options
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
    return verify_pairs(listed, base.ids, base.x_ND, subject, options)


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
