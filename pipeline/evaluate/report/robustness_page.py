"""The page of `evaluate robustness`: how far images may be damaged before they are not found."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluate.report.document import (
    Axis,
    Cell,
    Document,
    Fact,
    Finding,
    Mark,
    Plot,
    Point,
    Section,
    Series,
    Share,
    Table,
)
from pipeline.evaluate.report.methods import TWO_SIDED, provenance
from pipeline.evaluate.report.words import attribute_name, count, percent

_KINDS = {
    "jpeg": ("JPEG", "quality"),
    "pixels": ("Fewer pixels", "pixels on the short side"),
    "watermark": ("Watermarks", "opacity"),
    "blur": ("Blur", "standard deviation, share of the short side"),
    "crop": ("Crop", "kept share of each side"),
    "rotation": ("Rotation", "degrees"),
    "brightness": ("Brightness", "factor"),
}
_LOST = 0.01

Level = Mapping[str, Any]


def robustness_document(result: Mapping[str, Any]) -> Document:
    """The report; ``result`` is the JSON beside the page."""
    clean, levels = result["clean"], [one for one in result["levels"] if "one_sided" in one]
    kinds = [kind for kind in _KINDS if any(one["kind"] == kind for one in levels)]
    sections = [_section(kind, [one for one in levels if one["kind"] == kind], result) for kind in kinds]
    return Document(
        kind="robustness",
        title=f"snapshot {result['snapshot']}",
        subtitle=f"{count(result['n_images'])} images of {count(result['n_labels'])} labels, embedded "
        "again at "
        f"{count(len(levels))} levels",
        verdict=_verdict(levels),
        findings=(
            Finding(
                mark=Mark.NOTE,
                text=f"Clean images: {percent(clean['val'])} of the same pairs are accepted where "
                f"{percent(result['far'])} of the different ones are, and {percent(clean['success_at_1'])} "
                "of the "
                "images find their label first.",
                detail=f"Below a squared distance of {clean['threshold']:.4g}.",
            ),
            *(_worst(kind, [one for one in levels if one["kind"] == kind]) for kind in kinds),
            *_moved_together(levels, result["far"]),
            *_rejected(result["levels"]),
        ),
        sections=(*sections, _codes(result, clean)),
        methods=(
            *_methods(result),
            *provenance(result["model_id"], result["snapshot"], result["digest"], result["software"]),
        ),
    )


def _is_lost(one: Level) -> bool:
    """Whether success at 1 falls for certain, by more than a hundredth."""
    return bool(one["one_sided"]["success_change_high"] < 0 and one["one_sided"]["success_change"] < -_LOST)


def _verdict(levels: Sequence[Level]) -> Finding:
    if not levels:
        return Finding(mark=Mark.BAD, text="At no level are images enough left to judge.")
    lost = [one for one in levels if _is_lost(one)]
    said = (
        f"{len(lost)} of {len(levels)} levels of damage cost more than one image in a hundred its first "
        "answer"
    )
    if not lost:
        return Finding(mark=Mark.GOOD, text=f"{said}.")
    worst = min(lost, key=lambda one: one["one_sided"]["success_change"])
    return Finding(
        mark=Mark.BAD,
        text=f"{said}; the worst is {worst['name']}.",
        detail=f"There {percent(worst['one_sided']['success_at_1'])} find their label first, "
        f"{percent(-worst['one_sided']['success_change'])} fewer than clean images.",
    )


def _worst(kind: str, levels: Sequence[Level]) -> Finding:
    lost = [one for one in levels if _is_lost(one)]
    title = _KINDS[kind][0]
    if not lost:
        return Finding(
            mark=Mark.GOOD, text=f"{title}: no level tried costs a hundredth of success at 1 for certain."
        )
    mildest = max(lost, key=lambda one: one["one_sided"]["success_change"])
    text = f"{title}: {len(lost)} of {len(levels)} levels cost more than a hundredth of success at 1"
    text += f", the mildest of them {mildest['name']}." if len(lost) > 1 else f": {mildest['name']}."
    return Finding(mark=Mark.BAD, text=text)


def _moved_together(levels: Sequence[Level], far: float) -> list[Finding]:
    """Levels that make different images look alike when all of them carry the damage."""
    moved = [one for one in levels if one["two_sided"]["far_fixed"] > 2 * far]
    if not moved:
        return []
    worst = max(moved, key=lambda one: one["two_sided"]["far_fixed"])
    return [
        Finding(
            mark=Mark.BAD,
            text="Where both images are damaged, different ones move together: "
            f"{percent(worst['two_sided']['far_fixed'])} "
            f"of them are accepted at the clean threshold with {worst['name']}.",
            detail=f"{len(moved)} levels more than double the rate of {far:g}.",
        )
    ]


def _rejected(levels: Sequence[Level]) -> list[Finding]:
    """Levels at which the pipeline made no vector of some images, which the figures leave out."""
    lost = [one for one in levels if one["n_rejected"]]
    if not lost:
        return []
    worst = max(lost, key=lambda one: int(one["n_rejected"]))
    unjudged = [one["name"] for one in lost if "one_sided" not in one]
    return [
        Finding(
            mark=Mark.BAD,
            text=f"At {count(len(lost))} levels images are rejected and left out of the figures: "
            f"{count(worst['n_rejected'])} with {worst['name']}.",
            detail=f"Too few are left to judge: {', '.join(unjudged)}." if unjudged else "",
        )
    ]


def _section(kind: str, levels: Sequence[Level], result: Mapping[str, Any]) -> Section:
    title, axis = _KINDS[kind]
    return Section(
        title=title,
        blocks=(_plot(title, axis, levels, result["clean"]), _one_sided(levels), _two_sided(levels)),
    )


def _plot(title: str, axis: str, levels: Sequence[Level], clean: Mapping[str, Any]) -> Plot:
    groups: dict[str, list[Level]] = {}
    for one in levels:
        if one["kind"] != "watermark" or one["area"] == levels[0]["area"]:
            groups.setdefault(one["style"], []).append(one)
    series = [
        Series(name=f"VAL{f', {style}' if style else ''}", points=_points(those, "val"))
        for style, those in groups.items()
    ]
    if len(groups) == 1:
        series.append(Series(name="success at 1", points=_points(levels, "success")))
        published = tuple(
            Point(x=one["level"], y=one["published_val"])
            for one in levels
            if one["published_val"] is not None
        )
        if published:
            series.append(Series(name="VAL of FaceNet NN1, published", points=published))
    return Plot(
        title=f"{title}: one-sided",
        alt=f"VAL of clean images is {clean['val']:.3f}; "
        + ", ".join(f"{one['name']} {one['one_sided']['val']:.3f}" for one in levels)
        + ".",
        x=Axis(title=axis),
        y=Axis(title="share", high=1.0),
        series=tuple(series),
    )


def _points(levels: Sequence[Level], name: str) -> tuple[Point, ...]:
    value = "val" if name == "val" else "success_at_1"
    points = [
        Point(
            x=one["level"],
            y=one["one_sided"][value],
            low=one["one_sided"][f"{name}_low"],
            high=one["one_sided"][f"{name}_high"],
        )
        for one in levels
    ]
    return tuple(sorted(points, key=lambda point: point.x))


def _one_sided(levels: Sequence[Level]) -> Table:
    with_published = any(one["published_val"] is not None for one in levels)
    columns = ("level", "VAL", "success at 1", "change", "finds itself", "median place", "cosine")
    return Table(
        title="Damaged images ask clean ones",
        columns=(*columns, "published VAL") if with_published else columns,
        rows=tuple(_one_sided_row(one, with_published=with_published) for one in levels),
    )


def _one_sided_row(one: Level, *, with_published: bool) -> tuple[Cell, ...]:
    side, itself, published = one["one_sided"], one["finds_itself@1"], one["published_val"]
    cells: tuple[Cell, ...] = (
        one["name"],
        Share(value=side["val"], low=side["val_low"], high=side["val_high"]),
        Share(value=side["success_at_1"], low=side["success_low"], high=side["success_high"]),
        f"{side['success_change']:+.4f}",
        "" if itself is None else f"{itself:.4f}",
        "" if one["median_place"] is None else f"{one['median_place']:,g}",
        f"{one['cosine_mean']:.4f}",
    )
    return (*cells, "" if published is None else f"{published:.3f}") if with_published else cells


def _two_sided(levels: Sequence[Level]) -> Table:
    rows = tuple(
        (
            one["name"],
            f"{one['one_sided']['val_fixed']:.4f}",
            f"{one['one_sided']['far_fixed']:.2g}",
            f"{one['two_sided']['val']:.4f}",
            f"{one['two_sided']['val_fixed']:.4f}",
            f"{one['two_sided']['far_fixed']:.2g}",
        )
        for one in levels
    )
    columns = ("level", "one damaged: VAL", "FAR", "both damaged: VAL anew", "VAL", "FAR")
    return Table(title="At the clean threshold", columns=columns, rows=rows)


def _codes(result: Mapping[str, Any], clean: Mapping[str, Any]) -> Section:
    rows = tuple(
        (
            one["name"] + (" (projected)" if one["projected"] else ""),
            count(one["bytes_per_vector"]),
            Share(
                value=one["quality"]["val"], low=one["quality"]["val_low"], high=one["quality"]["val_high"]
            ),
            Share(
                value=one["quality"]["success_at_1"],
                low=one["quality"]["success_low"],
                high=one["quality"]["success_high"],
            ),
            f"{one['quality']['val'] - clean['val']:+.4f}",
        )
        for one in result["codes"]
    )
    fitted_on = (
        "of the sample itself, which flatters them" if result["projection_fitted_on_sample"] else "outside it"
    )
    columns = ("vectors", "bytes", "VAL", "success at 1", "VAL less the whole vector's")
    return Section(
        title="Smaller vectors",
        note="The sample's vectors compared directly, without a second stage. Projected: by principal "
        f"components of vectors {fitted_on}, not by a model trained for so few dimensions.",
        blocks=(Table(columns=columns, rows=rows),),
    )


def _methods(result: Mapping[str, Any]) -> tuple[Fact, ...]:
    return (
        Fact(
            term="Sample",
            text=f"Images whose {attribute_name(result['label'])} another image shares, drawn by strata of "
            "how many "
            f"a label has, at most 10 of each, seed {result['seed']}; {count(result['n_lost'])} were gone "
            "from the "
            "source or rejected. Every image is read again, damaged, written as bytes, and decoded, "
            "prepared and "
            "embedded by the code of a night.",
        ),
        Fact(
            term="One-sided, two-sided",
            text="Damaged images ask clean ones of the sample; damaged ones ask damaged ones. An image "
            "never meets "
            "itself. A watermark is the same for all images, places and angles differ.",
        ),
        Fact(
            term="VAL",
            text=f"Share of same pairs below the threshold that accepts {result['far']:g} of the different "
            "pairs, "
            "chosen anew at each level as published tables do; at the clean threshold it is what an operator "
            "would see.",
        ),
        Fact(
            term="Finds itself",
            text="Share of damaged images whose first answer from the whole index, by the search that "
            "users call, "
            "is the image they were made from. Median place: where that image stands among all by exact "
            "distance, the median of the sample.",
        ),
        Fact(
            term="Published",
            text="FaceNet (arXiv 1503.03832), model NN1, its table on image quality: another model, other "
            "faces. "
            "Compare the shape of the curve.",
        ),
        Fact(
            term="Interval",
            text=f"{TWO_SIDED} over labels, {count(result['n_resamples'])} resamples, seed "
            f"{result['seed']}; the "
            "change of success is paired by image.",
        ),
    )
