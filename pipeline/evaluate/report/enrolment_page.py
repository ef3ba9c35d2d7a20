"""The page of `evaluate enrolment`: who is known from one image each, strangers among them."""

from collections.abc import Mapping

from pipeline.evaluate.enrolment import EnrolmentReport, Rate, WrongProbe
from pipeline.evaluate.error_curve import MIN_FALSE_ACCEPTS
from pipeline.evaluate.report.document import (
    Axis,
    Cell,
    Document,
    Fact,
    Finding,
    Gallery,
    Mark,
    Picture,
    PictureRow,
    Plot,
    Point,
    Section,
    Series,
    Share,
    Table,
)
from pipeline.evaluate.report.methods import bootstrap, provenance
from pipeline.evaluate.report.words import count, percent


def enrolment_document(
    report: EnrolmentReport, *, model_id: str, snapshot: int, digest: str, software: Mapping[str, str]
) -> Document:
    """The report of an enrolment; what else is named is for the record."""
    return Document(
        kind="enrolment",
        title=f"snapshot {snapshot}",
        subtitle=f"{count(report.n_enrolled)} enrolled with one image each; asked: {count(report.n_mated)} "
        f"other images of theirs, {count(report.n_unknown)} images of strangers",
        verdict=_rank_1(report.rank_1),
        findings=tuple(_detection(rate, found) for rate, found in report.detection_rate.items()),
        sections=tuple(
            section for section in (_rates(report), _curve(report), _wrong(report)) if section is not None
        ),
        methods=(
            *_methods(report),
            bootstrap("the share of images, over identities", report.n_resamples, report.seed),
            *provenance(model_id, snapshot, digest, software),
        ),
    )


def _rank_1(found: Rate) -> Finding:
    return Finding(
        mark=Mark.NOTE,
        text=f"From one image each, {percent(found.value or 0.0)} of the other images find the right one "
        "nearest.",
        detail=f"With 95\u00a0% confidence between {percent(found.low or 0.0)} and "
        f"{percent(found.high or 0.0)}.",
    )


def _detection(rate: str, found: Rate) -> Finding:
    if found.value is None or found.threshold is None:
        return Finding(
            mark=Mark.NOTE, text=f"Nothing is said of a false-alarm rate of {rate}: {found.reason}."
        )
    return Finding(
        mark=Mark.NOTE,
        text=f"If {percent(float(rate))} of the strangers may be taken for somebody, "
        f"{percent(found.value)} of the images are found and named rightly.",
        detail=f"Between {percent(found.low or 0.0)} and {percent(found.high or 0.0)}, below a squared "
        f"distance of {found.threshold:.4g}.",
    )


def _rates(report: EnrolmentReport) -> Section:
    rows = [("nearest is right, no threshold", *_cells(report.rank_1))]
    rows += [(f"at {rate} false alarms", *_cells(found)) for rate, found in report.detection_rate.items()]
    return Section(
        title="The figures",
        blocks=(
            Table(columns=("detected and named", "share, 95 % interval", "threshold"), rows=tuple(rows)),
        ),
    )


def _cells(found: Rate) -> tuple[Cell, Cell]:
    if found.value is None or found.low is None or found.high is None:
        return "too few strangers", ""
    threshold = "" if found.threshold is None else f"{found.threshold:.4f}"
    return Share(value=found.value, low=found.low, high=found.high), threshold


def _curve(report: EnrolmentReport) -> Section | None:
    points = tuple(
        Point(x=float(rate), y=found.value, low=found.low, high=found.high)
        for rate, found in report.detection_rate.items()
        if found.value is not None and float(rate) > 0
    )
    if len(points) < 2:
        return None
    ordered = sorted(points, key=lambda point: point.x)
    plot = Plot(
        title="Detected and named against false alarms",
        alt=f"The share detected and named rises from {ordered[0].y:.3f} at {ordered[0].x:g} false alarms to "
        f"{ordered[-1].y:.3f} at {ordered[-1].x:g}.",
        x=Axis(title="false alarms, share of strangers", scale="log"),
        y=Axis(title="share detected and named", high=1.0),
        series=(Series(name="detection rate", points=tuple(ordered)),),
    )
    return Section(title="The curve", blocks=(plot,))


def _wrong(report: EnrolmentReport) -> Section | None:
    kinds = (
        (
            False,
            "Named wrongly",
            "Somebody who is enrolled, nearest to another: wrong labels stand here first.",
        ),
        (True, "Strangers like somebody", "Nobody they are is enrolled: the false alarms that come first."),
    )
    galleries = tuple(
        Gallery(title=title, note=note, rows=tuple(map(_probe, probes)))
        for stranger, title, note in kinds
        if (probes := [one for one in report.wrong if one.stranger == stranger])
    )
    if not galleries:
        return None
    return Section(
        title="The nearest wrong ones",
        note="Left who was asked for, right whose enrolled image is nearest; one for each identity.",
        blocks=galleries,
        side_by_side=True,
    )


def _probe(one: WrongProbe) -> PictureRow:
    return PictureRow(
        text=f"Squared distance {one.distance:.3f}.",
        pictures=(
            Picture(image_id=one.image_id, alt=f"Asked: {one.image_id}, {one.label}", caption=one.label),
            Picture(
                image_id=one.nearest_id,
                alt=f"Nearest: {one.nearest_id}, {one.nearest_label}",
                mark=Mark.BAD,
                caption=one.nearest_label,
            ),
        ),
    )


def _methods(report: EnrolmentReport) -> tuple[Fact, ...]:
    return (
        Fact(
            term="Who asks whom",
            text="One image of each known identity is enrolled, drawn by the seed; its others are mated "
            "probes. A fifth of the identities with several images and all with a single one stay "
            f"strangers. {count(report.n_without_label)} images without a label take no part. No identity "
            "was trained on.",
        ),
        Fact(
            term="Rank 1",
            text="The share of mated probes whose nearest enrolled image is their own identity's.",
        ),
        Fact(
            term="Detection rate",
            text="The same, and the distance lies below the threshold that lets in that share of "
            "strangers (Grother and Ngan, NIST IR 8009). Shown where the rate allows at least "
            f"{MIN_FALSE_ACCEPTS} false alarms.",
        ),
    )
