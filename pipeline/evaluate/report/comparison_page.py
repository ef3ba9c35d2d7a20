"""The page of `evaluate compare`: may the new one replace the old one, and what changes if it does."""

from collections.abc import Mapping
from typing import Any

from pipeline.evaluate.comparison import ChangedQuery, Comparison
from pipeline.evaluate.evaluation import Mode
from pipeline.evaluate.paired import LEVEL, MIN_GROUPS, PairedDifference, Verdict
from pipeline.evaluate.report.document import (
    Axis,
    Document,
    Fact,
    Facts,
    Finding,
    Gallery,
    Mark,
    Named,
    Picture,
    PictureRow,
    Plot,
    Point,
    Section,
    Series,
    Table,
    query_picture,
)
from pipeline.evaluate.report.methods import TWO_SIDED, provenance
from pipeline.evaluate.report.words import attribute_name, count, percent
from pipeline.evaluate.slice_tests import MAX_SLICES
from pipeline.evaluate.slice_tests import MIN_GROUPS as MIN_SLICE_GROUPS

_SHOWN = 6
_NEIGHBOURS_SHOWN = 5
_MARKS = {
    Verdict.BETTER: Mark.GOOD,
    Verdict.NOT_WORSE: Mark.GOOD,
    Verdict.WORSE_IN_PARTS: Mark.BAD,
    Verdict.WORSE: Mark.BAD,
}


def comparison_document(found: Comparison, result: Mapping[str, Any]) -> Document:
    """The report of a comparison; ``result`` is the JSON beside the page, with names, exclusions and cost."""
    sections = (
        _figures(found),
        _slices(found),
        _thresholds(found),
        _changes(found),
        _cost(result["cost"]),
    )
    return Document(
        kind="comparison",
        title=f"{result['old']['name']} against {result['new']['name']}",
        subtitle=f"{count(found.n_queries)} queries of {count(found.n_groups)} groups over "
        f"{count(found.n_images)} images that both have",
        verdict=Finding(
            mark=_MARKS.get(found.verdict, Mark.NOTE),
            text=verdict_in_words(result),
            detail=_how_sure(found.metrics[found.metric]),
        ),
        findings=_findings(found, result),
        sections=tuple(section for section in sections if section is not None),
        methods=(
            *_methods(found, result),
            *provenance("", result["old"]["snapshot"], result["old"]["digest"], result["software"]),
            *_new_provenance(result["new"]),
        ),
    )


def shown_queries(found: Comparison) -> list[str]:
    """Ids of the queries of which the page has pictures."""
    return [one.image_id for some in _shown_changes(found) for one in some]


def verdict_in_words(result: Mapping[str, Any]) -> str:
    """The verdict as a sentence."""
    verdict, metric, margin = Verdict(result["verdict"]), result["metric"], result["margin"]
    old, new = result["old"]["name"], result["new"]["name"]
    if result["identical"]:
        return f"Not worse: {new} has the same vectors as {old} for all images that both have."
    found = result["metrics"][metric]
    change = f"{metric} goes from {found['old']:.4f} to {found['new']:.4f}"
    lost = [one for one in result["slices"]["worse"] if one["loses"]]
    others = f" and {count(len(lost) - 1)} other slices" if len(lost) > 1 else ""
    where = f"where {attribute_name(lost[0]['attribute'])} is {lost[0]['value']}{others}" if lost else ""
    said = {
        Verdict.BETTER: f"Better: {new} may replace {old}; {change}.",
        Verdict.NOT_WORSE: f"Not worse: {new} may replace {old}; {change}, and a loss of {margin:g} is "
        "excluded.",
        Verdict.WORSE_IN_PARTS: f"{result['verdict_of_mean'].capitalize()} on the whole, but worse {where}: "
        f"{new} should not replace {old} as it is; {change}.",
        Verdict.WORSE: f"Worse: {new} should not replace {old}; {change}.",
        Verdict.INCONCLUSIVE: f"Inconclusive: {change}, and neither a gain is shown nor a loss of {margin:g} "
        "excluded.",
    }
    return said[verdict]


def _how_sure(one: PairedDifference) -> str:
    return (
        f"The difference is {one.difference:+.4f}, with 95\u00a0% confidence between {one.low:+.4f} and "
        f"{one.high:+.4f} (p {one.p_value:.4f}); one of {one.minimum_detectable:.4f} would have been seen "
        "four "
        "times in five."
    )


def _findings(found: Comparison, result: Mapping[str, Any]) -> tuple[Finding, ...]:
    findings = [
        Finding(
            mark=Mark.BAD,
            text=f"Worse where {attribute_name(one.attribute)} is {one.value}: {found.metric} goes from "
            f"{one.old:.4f} to {one.new:.4f} over {count(one.n_queries)} queries.",
            detail=f"{one.difference:+.4f}, between {one.low:+.4f} and {one.high:+.4f}; p "
            f"{one.p_corrected:.4f}, corrected for {count(len(found.slices.tested))} slices. A loss of "
            f"{found.margin:g} is {'not ' if one.loses(found.margin) else ''}excluded.",
        )
        for one in found.slices.worse
    ]
    if not findings and found.slices.tested:
        said = f"None of {count(len(found.slices.tested))} slices is significantly worse."
        findings.append(Finding(mark=Mark.GOOD, text=said))
    if found.n_groups < MIN_GROUPS:
        said = (
            f"{count(found.n_groups)} groups are too few to conclude anything: at least {MIN_GROUPS} "
            "are needed."
        )
        findings.append(Finding(mark=Mark.BAD, text=said))
    findings.append(
        Finding(
            mark=Mark.NOTE,
            text=f"{percent(found.neighbours.share)} of the {found.neighbours.k} nearest images are "
            "others, and "
            f"{percent(found.neighbours.nearest_changed)} of the queries have another nearest image.",
        )
    )
    moved = [one for one in found.thresholds if one.old_threshold is not None and one.kept_far is not None]
    if moved:
        one = moved[-1]
        findings.append(
            Finding(
                mark=Mark.NOTE,
                text=f"A threshold of {one.old_threshold:.3f} on the squared distance becomes "
                f"{one.new_threshold:.3f} at a false accept rate of {one.far:g}.",
                detail=f"Left as it is, the rate would be {one.kept_far:.2g}.",
            )
        )
    cost = result["cost"]
    if cost["images_to_embed"]:
        hours = cost["embed_hours"]
        time = "" if hours is None else f", about {_duration(hours)} of one worker"
        text = f"{count(cost['images_to_embed'])} images are still to be embedded{time}."
        findings.append(Finding(mark=Mark.NOTE, text=text))
    return tuple(findings)


def _figures(found: Comparison) -> Section:
    rows = tuple(
        (
            f"{name} (decides)" if name == found.metric else name,
            f"{one.old:.4f}",
            f"{one.new:.4f}",
            f"{one.difference:+.4f}",
            f"{one.low:+.4f} to {one.high:+.4f}",
            f"{one.p_value:.4f}",
            f"{one.minimum_detectable:.4f}",
            f"{count(one.n_better)} / {count(one.n_worse)}",
        )
        for name, one in found.metrics.items()
    )
    columns = ("measure", "old", "new", "difference", "95 % interval", "p", "detectable", "better / worse")
    return Section(title="The figures", blocks=(Table(columns=columns, rows=rows),))


def _slices(found: Comparison) -> Section | None:
    if not found.slices.tested:
        return None
    rows = tuple(
        (
            Named(text=one.value, meaning=attribute_name(one.attribute)),
            count(one.n_queries),
            f"{one.old:.4f}",
            f"{one.new:.4f}",
            f"{one.difference:+.4f}",
            f"{one.low:+.4f} to {one.high:+.4f}",
            f"{one.p_corrected:.4f}",
        )
        for one in found.slices.tested[:20]
    )
    columns = ("slice", "queries", "old", "new", "difference", "95 % interval", "p of a loss, corrected")
    note = (
        f"{found.metric} on each; the {len(rows)} most likely to be worse of "
        f"{count(len(found.slices.tested))}."
    )
    return Section(title="Slices", note=note, blocks=(Table(columns=columns, rows=rows),))


def _thresholds(found: Comparison) -> Section:
    rows = tuple(
        (f"{one.far:g}", one.reason, "", "", "", "", "")
        if one.old_threshold is None or one.kept_far is None or one.kept_val is None
        else (
            f"{one.far:g}",
            f"{one.old_threshold:.4f}",
            f"{one.new_threshold:.4f}",
            f"{one.old_val:.4f}",
            f"{one.new_val:.4f}",
            f"{one.kept_far:.2g}",
            f"{one.kept_val:.4f}",
        )
        for one in found.thresholds
    )
    columns = ("FAR", "old threshold", "new", "old VAL", "new", "FAR if the old is kept", "VAL then")
    return Section(
        title="Thresholds on the distance",
        note="Who accepts pairs below a squared distance has to change the number with the vectors.",
        blocks=(*_vals(found), Table(columns=columns, rows=rows)),
    )


def _vals(found: Comparison) -> tuple[Plot, ...]:
    """VAL of old and new at the false accept rates that the pairs can show."""
    shown = [one for one in found.thresholds if one.old_val is not None and one.new_val is not None]
    if not shown:
        return ()
    sides = {
        "old": [(one.far, one.old_val or 0.0) for one in shown],
        "new": [(one.far, one.new_val or 0.0) for one in shown],
    }
    ends = ", ".join(f"{name} {values[-1][1]:.3f}" for name, values in sides.items())
    plot = Plot(
        title="Accepted same pairs at false accept rates",
        alt=f"VAL at a FAR of {shown[-1].far:g}: {ends}.",
        x=Axis(title="FAR, share of different pairs", scale="log"),
        y=Axis(title="VAL, share of same pairs", high=1.0),
        series=tuple(
            Series(name=name, points=tuple(Point(x=far, y=val) for far, val in values[::-1]))
            for name, values in sides.items()
        ),
    )
    return (plot,)


def _changes(found: Comparison) -> Section | None:
    gains, losses = _shown_changes(found)
    galleries = tuple(
        Gallery(
            title=title,
            rows=tuple(_row(one, side, found.mode) for one in some for side in ("old", "new")),
        )
        for title, some in (("Largest losses", losses), ("Largest gains", gains))
        if some
    )
    return Section(title="Queries that changed most", blocks=galleries) if galleries else None


def _shown_changes(found: Comparison) -> tuple[list[ChangedQuery], list[ChangedQuery]]:
    """Gains and losses."""
    gains = [one for one in found.changed if one.new_value > one.old_value][:_SHOWN]
    return gains, [one for one in found.changed if one.new_value < one.old_value][:_SHOWN]


def _row(one: ChangedQuery, side: str, mode: Mode) -> PictureRow:
    shown = one.image_id if mode is Mode.LEAVE_ONE_OUT else query_picture(one.image_id)
    ids, value = (one.old_ids, one.old_value) if side == "old" else (one.new_ids, one.new_value)
    return PictureRow(
        title=f"{one.label}, {side}",
        subtitle=f"{value:.3f}",
        lead=Picture(image_id=shown, alt=f"query {one.image_id}", word="query"),
        pictures=tuple(
            Picture(image_id=image_id, alt=f"{side} answer {rank}", figure=str(rank), caption=image_id)
            for rank, image_id in enumerate(ids[:_NEIGHBOURS_SHOWN], start=1)
        ),
    )


def _cost(cost: Mapping[str, Any]) -> Section:
    sides = [(name, cost[name]) for name in ("old", "new") if cost[name] is not None]
    columns = ("", "images", "dimensions", "first stage", "hot bytes a vector", "cold", "one search, median")
    rows = tuple(
        (
            name,
            count(side["images"]),
            count(side["dim"]),
            side["method"],
            f"{side['hot_bytes_per_vector']:g}",
            f"{side['cold_bytes_per_vector']:g}",
            f"{side['single_p50_ms']:g} ms",
        )
        for name, side in sides
    )
    per_s, hours = cost["images_per_s"], cost["embed_hours"]
    items = [Fact(term="Images still to embed", text=count(cost["images_to_embed"]))]
    if per_s is not None:
        items.append(Fact(term="Images a second of one worker", text=f"{per_s:g}"))
    if hours is not None and cost["images_to_embed"]:
        items.append(Fact(term="Time of one worker", text=_duration(hours)))
    return Section(
        title="What the change costs", blocks=(Table(columns=columns, rows=rows), Facts(items=tuple(items)))
    )


def _duration(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def _methods(found: Comparison, result: Mapping[str, Any]) -> tuple[Fact, ...]:
    label = attribute_name(result["label"])
    if found.mode is Mode.LEAVE_ONE_OUT:
        whom = (
            f"Each image with a {label} that another one shares is a query for all other images that old and "
            f"new both have, by exact search, leave-one-out by id. Left out: {_left_out(result['excluded'])}."
        )
        pairs = "All pairs of labelled images"
    else:
        asked_by = result["asked_by"]
        whom = (
            f"Each query that {asked_by['old']['name']} and {asked_by['new']['name']} both have, with a "
            f"{label} that an image shares, asks all images that old and new both have, by exact search; a "
            "query is taken out of its own ranking where the images have the same bytes under its id. "
            f"{count(found.n_namesakes)} have the id of another picture, which is judged like any. Left out "
            f"of the images: {_left_out(result['excluded'])}; of the queries: "
            f"{_left_out(asked_by['excluded'])}."
        )
        pairs = "All pairs of a labelled query and a labelled image, less a query's own"
    return (
        Fact(term="Who asks whom", text=whom),
        Fact(
            term="Difference",
            text="New less old of each query. Groups (what stands or falls together) are resampled and "
            "permuted "
            f"whole. {TWO_SIDED} over groups, {count(found.n_resamples)} resamples; if no group lost, the "
            "interval reaches as low as a share of 1 - .025^(1/groups) that lose everything. p is "
            "two-sided, of "
            f"{count(found.n_permutations)} sign flips (Good 2005, section 3.1). Seed {found.seed}.",
        ),
        Fact(
            term="Detectable",
            text="2.80 standard errors: a difference of that size is found significant in 80 % of trials.",
        ),
        Fact(
            term="Verdict",
            text=f"On {found.metric}, margin {found.margin:g}. Better: the interval and p < {LEVEL:g} "
            "exclude no "
            "gain. Not worse: the interval excludes a loss of the margin, or the vectors are the same "
            "numbers. "
            "Worse: a loss is shown by both, and one of the margin is not excluded. Else, or with fewer than "
            f"{MIN_GROUPS} groups, inconclusive. Worse in parts: better or not worse on the whole, and on a "
            "slice a loss is shown and one of the margin not excluded"
            + ("; here the whole alone decides, as was asked." if found.allow_worse_slices else "."),
        ),
        Fact(
            term="Slices",
            text=f"Values of attributes with at least {MIN_SLICE_GROUPS} groups, at most {MAX_SLICES} of "
            "them: "
            f"{count(len(found.slices.tested))} tested, {count(found.slices.n_untested)} not. One-sided sign "
            "flips, corrected for their number (Holm 1979); intervals resample groups, one slice by itself.",
        ),
        Fact(
            term="Thresholds",
            text=f"{pairs}; VAL is the share of same pairs below the threshold, FAR that of different pairs.",
        ),
    )


def _left_out(excluded: Mapping[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count(n)}" for name, n in excluded.items())


def _new_provenance(new: Mapping[str, Any]) -> tuple[Fact, ...]:
    if "digest" not in new:
        return (Fact(term="New", text=new["name"]),)
    return provenance(new["model_id"], new["snapshot"], new["digest"], {})
