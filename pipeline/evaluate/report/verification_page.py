"""The page of `evaluate verification`: how well distance tells same from different, and what it misjudges."""

from collections.abc import Mapping
from typing import Any

from pipeline.evaluate.accuracy import FoldAccuracy, HeldOutAccuracy
from pipeline.evaluate.error_curve import MIN_FALSE_ACCEPTS, ValAtFar
from pipeline.evaluate.report.alignment_section import alignment_finding, alignment_section
from pipeline.evaluate.report.document import (
    Axis,
    Cell,
    Document,
    Fact,
    Facts,
    Finding,
    Gallery,
    Mark,
    Picture,
    PictureRow,
    Plot,
    Point,
    Rule,
    Section,
    Series,
    Share,
    Table,
)
from pipeline.evaluate.report.methods import TWO_SIDED, provenance
from pipeline.evaluate.report.words import count, percent, short
from pipeline.evaluate.verification_report import VerificationReport, WrongPair


def verification_document(
    report: VerificationReport,
    first_frames: Mapping[str, str] | None = None,
    alignment: Mapping[str, Any] | None = None,
) -> Document:
    """The report of a verification.

    Args:
        report: What was found.
        first_frames: The images that stand for videos.
        alignment: The same pairs by centre crops and by five points, as in the JSON.
    """
    verdict, *findings = _findings(report)
    if alignment is not None:
        findings.append(alignment_finding(alignment))
    number = "vectors outside a store" if report.snapshot is None else f"snapshot {report.snapshot}"
    sections = (
        _curve(report),
        _rates(report),
        None if alignment is None else alignment_section(alignment),
        _folds(report.accuracy),
        _wrong(report, first_frames or {}),
    )
    return Document(
        kind="verification",
        title=number,
        subtitle=f"{count(report.n_pairs)} pairs: {count(report.n_same)} same, "
        f"{count(report.n_different)} different",
        verdict=verdict,
        findings=tuple(findings),
        sections=tuple(section for section in sections if section is not None),
        methods=_methods(report),
    )


def _findings(report: VerificationReport) -> list[Finding]:
    found = []
    if report.accuracy is not None:
        accuracy = report.accuracy
        found.append(
            Finding(
                mark=Mark.NOTE,
                text=f"One threshold on the distance judges {percent(accuracy.mean)} of the pairs rightly.",
                detail=f"Mean over {len(accuracy.folds)} folds; standard error {percent(accuracy.sem)}, "
                f"standard deviation {percent(accuracy.std)}.",
            )
        )
    if report.held_out is not None:
        found += _held_out_findings(report.held_out)
    shown = [(far, val) for far, val in report.val_at_far.items() if val.val is not None]
    found += [_rate_finding(far, val) for far, val in reversed(shown)]
    found.append(
        Finding(
            mark=Mark.NOTE,
            text=f"A same pair is nearer than a different one {percent(report.auc)} of the time; where "
            f"both errors are equally frequent, each is {percent(report.eer)}.",
        )
    )
    hidden = [far for far, val in report.val_at_far.items() if val.val is None]
    if hidden:
        said = (
            f"Nothing is said of a false accept rate of {', '.join(hidden)}: the different pairs are too few."
        )
        found.append(Finding(mark=Mark.NOTE, text=said))
    if report.n_without_label:
        text = f"{count(report.n_without_label)} pictures take part in no pair: they have no label."
        found.append(Finding(mark=Mark.NOTE, text=text))
    if report.n_missing:
        examples = ", ".join(short(image_id, 64) for image_id in report.missing_ids[:3])
        listed = f"{count(report.n_missing)} of {count(report.n_pairs + report.n_missing)} listed pairs"
        text = f"Left out: {listed}, because there is no vector of {examples}."
        found.append(Finding(mark=Mark.BAD, text=text))
    if report.missing_folds:
        numbers = ", ".join(map(str, report.missing_folds))
        text = f"Whole folds are missing and in no mean: {numbers}. The figures are not of the protocol."
        found.append(Finding(mark=Mark.BAD, text=text))
    return found


def _held_out_findings(found: HeldOutAccuracy) -> list[Finding]:
    findings = [
        Finding(
            mark=Mark.NOTE,
            text=f"The threshold that another list chose judges {percent(found.mean)} of the pairs rightly.",
            detail=f"Between {percent(found.low)} and {percent(found.high)}, below a squared distance of "
            f"{found.threshold:.4g}; on the {count(found.n_choosing)} pairs that chose it, "
            f"{percent(found.choosing_mean)}.",
        )
    ]
    if found.n_choosing_missing:
        text = f"{count(found.n_choosing_missing)} pairs of the list that chose the threshold are left out: "
        findings.append(Finding(mark=Mark.BAD, text=f"{text}an image of theirs has no vector."))
    if found.n_shared_images:
        text = f"{count(found.n_shared_images)} images are in both lists: the accuracy flatters."
        findings.append(Finding(mark=Mark.BAD, text=text))
    return findings


def _rate_finding(far: str, val: ValAtFar) -> Finding:
    every = round(1 / float(far)) if float(far) else 0
    where = f"Where 1 of {count(every)} different pairs is let in" if every > 1 else f"At a rate of {far}"
    return Finding(
        mark=Mark.NOTE,
        text=f"{where}, {percent(val.val or 0.0)} of the same pairs are accepted.",
        detail=f"Between {percent(val.low or 0.0)} and {percent(val.high or 0.0)}; "
        f"{count(val.n_false_accepts or 0)} false accepts below a squared distance of {val.threshold:.4g}.",
    )


def _curve(report: VerificationReport) -> Section | None:
    points = tuple(Point(x=far, y=val) for far, val in report.curve if far > 0)
    if not points:
        return None
    plot = Plot(
        title="Accepted same pairs against accepted different pairs (ROC)",
        alt=f"VAL rises from {points[0].y:.3f} at a FAR of {points[0].x:.2g} to {points[-1].y:.3f} at "
        f"{points[-1].x:.2g}; the area under the curve is {report.auc:.4f}.",
        x=Axis(title="FAR, share of different pairs", scale="log", high=1.0),
        y=Axis(title="VAL, share of same pairs", high=1.0),
        series=(Series(name="VAL", points=points), *_intervals(report)),
        rules=(Rule(axis="x", value=max(report.eer, points[0].x), text=f"EER {report.eer:.3g}"),),
    )
    facts = Facts(
        items=(
            Fact(term="Area under the curve", text=f"{report.auc:.5f}"),
            Fact(term="Equal error rate", text=f"{report.eer:.4f}"),
            Fact(term="Same pairs", text=count(report.n_same)),
            Fact(term="Different pairs", text=count(report.n_different)),
        )
    )
    return Section(title="The curve", blocks=(plot, facts), side_by_side=True)


def _intervals(report: VerificationReport) -> tuple[Series, ...]:
    points = tuple(
        Point(x=float(far), y=val.val, low=val.low, high=val.high)
        for far, val in report.val_at_far.items()
        if val.val is not None and float(far) > 0
    )
    name = "at a rate below, with its interval"
    return (Series(name=name, points=points, kind="scatter"),) if points else ()


def _rates(report: VerificationReport) -> Section:
    rows = [_rate_row(far, val) for far, val in report.val_at_far.items()]
    return Section(
        title="VAL at false accept rates",
        note="The share of same pairs that are accepted where that share of different pairs is. What too "
        "few pairs decide is not shown.",
        blocks=(
            Table(columns=("FAR", "VAL, 95 % interval", "threshold", "false accepts"), rows=tuple(rows)),
        ),
    )


def _rate_row(far: str, val: ValAtFar) -> tuple[Cell, ...]:
    if val.val is None or val.low is None or val.high is None:
        return (far, "too few pairs", "", "")
    share = Share(value=val.val, low=val.low, high=val.high)
    return (far, share, f"{val.threshold:.4f}", count(val.n_false_accepts or 0))


def _folds(accuracy: FoldAccuracy | None) -> Section | None:
    if accuracy is None:
        return None
    folds = zip(accuracy.numbers, accuracy.folds, accuracy.thresholds, strict=True)
    rows = [(f"{number}", f"{right:.4f}", f"{threshold:.4f}") for number, right, threshold in folds]
    return Section(
        title="Accuracy by fold",
        note="The threshold of each fold is chosen on all the others.",
        blocks=(
            Table(
                columns=("fold", "accuracy", "threshold"),
                rows=tuple(rows),
                total=("mean", f"{accuracy.mean:.4f}", ""),
            ),
        ),
    )


def _wrong(report: VerificationReport, first_frames: Mapping[str, str]) -> Section | None:
    kinds = (
        (
            True,
            "Same, but far apart",
            "Taken for different. Look here for wrong labels, old pictures and odd angles.",
        ),
        (False, "Different, but near", "Taken for the same. Look here for one thing under two names."),
    )
    galleries = tuple(
        Gallery(title=title, note=note, rows=tuple(_pair(pair, first_frames) for pair in pairs))
        for same, title, note in kinds
        if (pairs := [pair for pair in report.wrong if pair.same == same])
    )
    if not galleries:
        return None
    where = "of the equal error rate, one for each two labels"
    if report.mode == "pairs":
        where = "of their fold" if report.held_out is None else "that the other list chose"
    return Section(
        title="The misjudged pairs",
        note=f"Those farthest on the wrong side of the threshold {where}.",
        blocks=galleries,
        side_by_side=True,
    )


def _pair(pair: WrongPair, first_frames: Mapping[str, str]) -> PictureRow:
    kind = "same" if pair.same else "different"
    below = "not below" if pair.same else "below"
    return PictureRow(
        text=f"Squared distance {pair.distance:.3f}, {below} {pair.threshold:.3f}.",
        pictures=tuple(
            Picture(
                image_id=first_frames.get(name, name),
                alt=f"{name}, of a {kind} pair",
                mark=Mark.BAD,
                caption=name,
            )
            for name in (pair.left, pair.right)
        ),
    )


def _methods(report: VerificationReport) -> tuple[Fact, ...]:
    if report.mode == "pairs":
        n_listed = report.n_pairs + report.n_missing
        pairs = (
            f"A list of {count(n_listed)} pairs, of which {count(report.n_missing)} are left out because an "
        )
        pairs += "image has no vector."
        interval = (
            f"{TWO_SIDED} over pairs, same and different ones apart, the threshold chosen anew each time"
        )
    else:
        pairs = "All pairs of labelled images, counted in blocks; thresholds are "
        pairs += f"{report.resolution:.2g} apart. Pictures without a label take no part."
        interval = f"{TWO_SIDED} over labels, at the threshold of all pairs: pairs of one label fall together"
    facts = [
        Fact(term="Pairs", text=pairs),
        Fact(
            term="Accepted", text="A pair whose squared L2 distance of unit vectors lies below the threshold."
        ),
        Fact(
            term="VAL at FAR",
            text="FAR is the share of different pairs accepted, VAL that of same pairs (FaceNet, section "
            "4), at the largest threshold that keeps to FAR. Shown where FAR allows at least "
            f"{MIN_FALSE_ACCEPTS} false accepts.",
        ),
        Fact(
            term="AUC, EER",
            text="Area under VAL against FAR, ties one half. The rate where false accepts and false "
            "rejects are equal, linear between two thresholds.",
        ),
    ]
    if report.of_videos:
        text = "Distances are means over all pairs of the first frames of two videos."
        facts.append(Fact(term="Videos", text=text))
    facts += _accuracy_methods(report)
    facts.append(
        Fact(term="Interval", text=f"{interval}; {count(report.n_resamples)} resamples, seed {report.seed}.")
    )
    return (*facts, *provenance(report.model_id, report.snapshot, report.digest, report.software))


def _accuracy_methods(report: VerificationReport) -> list[Fact]:
    tried = {"facenet": "0, .01 ... 3.99", "exact": "the midpoints of the sorted distances"}
    if report.held_out is not None:
        text = (
            "Share of the pairs judged rightly with the first threshold that is best on the other list, of "
            f"{tried[report.held_out.mode]}. Its interval resamples pairs at that threshold."
        )
        return [Fact(term="Accuracy", text=text)]
    if report.accuracy is None:
        return []
    text = (
        "Share of a fold's pairs judged rightly with the first threshold that is best on the "
        f"other folds, of {tried[report.accuracy.mode]}. Standard deviation divides by the folds, the "
        "standard error of "
        "the mean by the folds less one and the root of the folds: papers print one or the other."
    )
    return [Fact(term="Accuracy", text=text)]
