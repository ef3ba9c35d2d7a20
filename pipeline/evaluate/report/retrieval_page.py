"""The page of `evaluate retrieval`: what somebody who knows the pictures, not the measures, wants to know."""

from collections.abc import Mapping
from itertools import groupby
from typing import Final

from pipeline.evaluate.evaluation import (
    ClassScore,
    EvaluationReport,
    GalleryKind,
    GalleryQuery,
    Mode,
    Neighbour,
    Slice,
)
from pipeline.evaluate.report.coverage import coverage_finding, coverage_section
from pipeline.evaluate.report.document import (
    Document,
    Fact,
    Finding,
    Gallery,
    Mark,
    Named,
    Picture,
    PictureRow,
    Section,
    Share,
    Table,
    query_picture,
)
from pipeline.evaluate.report.facts import IndexFacts, RunFacts
from pipeline.evaluate.report.index_page import index_finding, index_section
from pipeline.evaluate.report.methods import bootstrap, provenance
from pipeline.evaluate.report.words import (
    attribute_name,
    count,
    out_of,
    percent,
    percent_with_interval,
    short,
)

MEASURES: Final[Mapping[str, tuple[str, str]]] = {
    "success@1": ("Success at 1", "the closest picture is right"),
    "success@5": ("Success at 5", "at least one of the 5 closest is right"),
    "success@10": ("Success at 10", "at least one of the 10 closest is right"),
    "map": ("Mean average precision", "how early all the right ones come"),
    "map@10": ("Average precision at 10", "the same, where only the 10 closest count"),
    "r_precision": ("R-precision", "right ones among as many places as there are right ones"),
    "map_at_r": ("MAP@R", "the same places, early ones counting more"),
    "mrr": ("Mean reciprocal rank", "1 divided by the place of the first right one"),
    "recall@10": ("Recall at 10", "share of all right ones that are among the 10 closest"),
    "precision@10": ("Precision at 10", "share of the 10 closest that is right"),
    "ndcg@10": ("nDCG at 10", "the 10 closest against a perfect order"),
}

GALLERY: Final[Mapping[GalleryKind, tuple[str, str]]] = {
    GalleryKind.CONFUSED: (
        "Most confused",
        "The closest picture carries another label; the smallest distances first. Look here for wrong labels "
        "and for one thing under two names.",
    ),
    GalleryKind.WORST: ("Worst", "The right pictures come late. What do these have in common?"),
    GalleryKind.BEST: ("Best", "The right pictures come first; the largest groups first."),
}


_SLICES_SHOWN = 20
_MUCH_UNJUDGED = 0.2


def retrieval_document(
    report: EvaluationReport, *, index: IndexFacts | None = None, run: RunFacts | None = None
) -> Document:
    """The report of a retrieval.

    Args:
        report: The evaluation.
        index: How the index was calibrated, where there is one.
        run: What the run covered, where the page belongs to one.
    """
    number = None if report.snapshot is None else f"snapshot {report.snapshot}"
    titles = [title for title in (run.collection if run else None, number) if title is not None]
    asked = f"{count(report.n_images)} pictures, {count(report.n_queries)} of them asked"
    if report.mode is Mode.QUERY_SET:
        who = f" of {report.asked_by}" if report.asked_by else ""
        asked = f"{count(report.n_images)} pictures, asked by a set of {count(report.n_queries)} queries{who}"
    verdict, *findings = retrieval_findings(report, index, run)
    sections = (
        index_section(index) if index else None,
        coverage_section(run) if run else None,
        _figures(report),
        _pictures(report),
        *_slices(report),
        _classes(report),
    )
    return Document(
        kind="retrieval",
        title=", ".join(titles) or "Vectors outside a store",
        subtitle=", ".join([asked, *([run.finished_at] if run and run.finished_at else [])]),
        verdict=verdict,
        findings=tuple(findings),
        sections=tuple(section for section in sections if section is not None),
        methods=_methods(report),
    )


def retrieval_findings(
    report: EvaluationReport, index: IndexFacts | None, run: RunFacts | None
) -> list[Finding]:
    """The findings, the most important first."""
    found = [_closest(report), _among_ten(report)]
    if index is not None:
        found.append(index_finding(index))
    if run is not None:
        found.append(coverage_finding(run))
    return [*found, *_unjudged(report), *_left_out(report)]


def _closest(report: EvaluationReport) -> Finding:
    score = report.metrics["success@1"]
    other = "closest other picture" if report.mode is Mode.LEAVE_ONE_OUT else "closest catalog picture"
    return Finding(
        mark=Mark.NOTE,
        text=f"For {out_of(score.macro, report.n_queries)} pictures, the {other} {_shows(report)}.",
        detail=f"Measured {percent(score.macro)} on {count(report.n_queries)} queries; "
        f"with 95\u00a0% confidence between {percent(score.low)} and {percent(score.high)}.",
    )


def _among_ten(report: EvaluationReport) -> Finding:
    share = out_of(report.metrics["success@10"].macro, report.n_queries)
    return Finding(
        mark=Mark.NOTE, text=f"For {share} pictures, at least one of the ten closest {_shows(report)}."
    )


def _shows(report: EvaluationReport) -> str:
    return "is judged right" if report.judged else f"shows the same {attribute_name(report.label)}"


def _unjudged(report: EvaluationReport) -> list[Finding]:
    share = report.unjudged_at_10
    if share is None or share.mean == 0:
        return []
    text = f"Nobody judged {percent(share.mean)} of the ten closest pictures: they count as wrong."
    return [Finding(mark=Mark.BAD if share.mean > _MUCH_UNJUDGED else Mark.NOTE, text=text)]


def _left_out(report: EvaluationReport) -> list[Finding]:
    name = attribute_name(report.label)
    parts = [
        (report.n_without_label, "that nobody judged" if report.judged else f"without a {name}"),
        (
            report.n_queries_without_relevants,
            "with nothing to find" if report.judged else f"whose {name} no other shows",
        ),
        (report.n_not_drawn, "that were not drawn"),
        (report.n_unknown_queries, "judged queries that are no pictures here"),
        (report.n_unknown_images, "judged pictures that are not here"),
        (report.n_junk, "that are junk"),
    ]
    said = [f"{count(n)} {what}" for n, what in parts if n]
    findings = [Finding(mark=Mark.NOTE, text=f"Not judged: {' and '.join(said)}.")] if said else []
    if report.n_namesakes:
        text = (
            f"{count(report.n_namesakes)} queries have the id of another picture, which is judged like any."
        )
        findings.append(Finding(mark=Mark.NOTE, text=text))
    return findings


def _figures(report: EvaluationReport) -> Section:
    rows = []
    for name in (*MEASURES, *(name for name in report.metrics if name not in MEASURES)):
        score = report.metrics[name]
        title, meaning = MEASURES.get(name) or _at_depth(name)
        mean = Share(value=score.macro, low=score.low, high=score.high)
        rows.append(
            (Named(text=title, meaning=meaning), mean, f"{score.weighted:.3f}", f"{score.per_class:.3f}")
        )
    return Section(
        title="The figures",
        note=f"Right means: {_right(report)}. All from 0 to 1, more is better, by exact "
        f"search over {count(report.n_images)} pictures.",
        blocks=(
            Table(columns=("measure", "mean, 95 % interval", "weighted", "per class"), rows=tuple(rows)),
        ),
    )


def _right(report: EvaluationReport) -> str:
    return "graded above 0 by somebody" if report.judged else f"same {attribute_name(report.label)}"


def _at_depth(name: str) -> tuple[str, str]:
    """A measure at a depth that was asked for, such as ``recall@100``."""
    measure, _, depth = name.partition("@")
    title, meaning = MEASURES[f"{measure}@10"]
    return title.replace("10", depth), meaning.replace("10", depth)


def _slices(report: EvaluationReport) -> list[Section]:
    """The largest values of each attribute that was asked for."""
    columns = dict.fromkeys(one.column for one in report.slices)
    return [_sliced(column, [one for one in report.slices if one.column == column]) for column in columns]


def _sliced(column: str, slices: list[Slice]) -> Section:
    rows = []
    for one in slices[:_SLICES_SHOWN]:
        first, ap, recall = (one.metrics[name] for name in ("success@1", "map", "recall@10"))
        share = Share(value=first.mean, low=first.low, high=first.high)
        rows.append((one.value, count(one.n_queries), share, f"{ap.mean:.3f}", f"{recall.mean:.3f}"))
    table = Table(
        columns=(column, "queries", "success at 1, 95 % interval", "MAP", "recall at 10"), rows=tuple(rows)
    )
    more = len(slices) - len(rows)
    rest = f" The {count(more)} smaller ones are in the JSON." if more else ""
    return Section(
        title=f"By {short(column, 28)}",
        note="Where it works, and where not. With many values some look bad by chance: a reason to look, "
        f"not a proof.{rest}",
        blocks=(table,),
    )


def _pictures(report: EvaluationReport) -> Section | None:
    order = list(GalleryKind)
    ordered = sorted(report.gallery, key=lambda query: order.index(query.kind))
    galleries = [
        Gallery(
            title=GALLERY[kind][0],
            note=GALLERY[kind][1],
            rows=tuple(_row(query, report.mode) for query in queries),
        )
        for kind, queries in groupby(ordered, key=lambda query: query.kind)
    ]
    if not galleries:
        return None
    name = attribute_name(report.label)
    return Section(
        title="The pictures",
        note=f"✓ same, with a solid border: same {name} as the query. ✗ other, with a dashed border: "
        "another one. The number is the squared distance, 0 for the same vector.",
        blocks=tuple(galleries),
    )


def _row(query: GalleryQuery, mode: Mode) -> PictureRow:
    shown = query.image_id if mode is Mode.LEAVE_ONE_OUT else query_picture(query.image_id)
    exist = "right one exists" if query.n_relevant == 1 else "right ones exist"
    return PictureRow(
        lead=Picture(image_id=shown, alt=f"Query {query.image_id}, {query.label}"),
        title=query.label,
        subtitle=query.image_id,
        text=f"{count(query.n_relevant)} {exist}, the first at place {count(query.first_relevant_rank)}. "
        f"Average precision {query.average_precision:.3f}.",
        pictures=tuple(_neighbour(place, one) for place, one in enumerate(query.neighbours, start=1)),
    )


def _neighbour(place: int, one: Neighbour) -> Picture:
    mark = Mark.GOOD if one.relevant else Mark.NOTE if one.label is None else Mark.BAD
    word = {Mark.GOOD: "same", Mark.BAD: "other", Mark.NOTE: "no label"}[mark]
    return Picture(
        image_id=one.image_id,
        alt=f"Place {place}: {one.image_id}, {word}",
        mark=mark,
        word=word,
        figure=f"{one.distance:.3f}",
        caption=one.label or "",
    )


def _classes(report: EvaluationReport) -> Section | None:
    if not report.worst_classes or report.judged:
        return None
    name = attribute_name(report.label)
    tables = [("Lowest", report.worst_classes), ("Highest", report.best_classes)]
    return Section(
        title=f"By {name}",
        note=f"Mean average precision over the pictures with the same {name}, of {count(report.n_classes)} "
        "in all. Those with few pictures swing widely.",
        blocks=tuple(_class_table(title, name, scores) for title, scores in tables if scores),
        side_by_side=True,
    )


def _class_table(title: str, name: str, scores: tuple[ClassScore, ...]) -> Table:
    rows = tuple((score.label, count(score.n_queries), f"{score.map:.3f}") for score in scores)
    return Table(title=title, columns=(short(name, 28), "pictures", "MAP"), rows=rows)


def _methods(report: EvaluationReport) -> tuple[Fact, ...]:
    name, ann_recall = attribute_name(report.label), report.ann_recall_at_10
    asks = (
        f"Leave-one-out: every picture whose {name} another picture shares asks all the others. The picture "
        "itself is removed by its id, not as the first hit."
        if report.mode is Mode.LEAVE_ONE_OUT
        else "A query set asks the base; a base picture with the query's own id is removed."
    )
    counts = (
        f"{count(report.n_queries)} queries, {count(report.n_images)} pictures in the base, "
        f"{count(report.n_classes)} classes. Left out as queries: {count(report.n_without_label)} without a "
        f"label, {count(report.n_queries_without_relevants)} with nothing to find. Pictures without a label "
        "still take up places."
    )
    facts = [Fact(term="Who asks whom", text=f"{asks} {counts}"), *_variants(report), *_DEFINITIONS]
    if report.resampled_by is None:
        facts.append(bootstrap("the mean over queries", report.n_resamples, report.seed, report.n_queries))
    else:
        of = f"the mean over queries, each {short(report.resampled_by, 28)} drawn whole"
        facts.append(bootstrap(of, report.n_resamples, report.seed, report.n_resampled))
    if ann_recall is not None:
        shown = percent_with_interval(ann_recall.mean, ann_recall.low, ann_recall.high)
        text = f"{shown}: share of returned pictures whose exact distance is at most the 10th exact distance."
        facts.append(Fact(term="Index recall at 10", text=text))
    return (*facts, *provenance(report.model_id, report.snapshot, report.digest, report.software))


def _variants(report: EvaluationReport) -> list[Fact]:
    """What is not as usual."""
    facts = []
    if report.judged:
        text = "Somebody graded pairs of a query and a picture: above 0 is right, below 0 junk, which is "
        text += "taken out of the ranking. What nobody judged counts as wrong. nDCG takes the grade as gain."
        facts.append(Fact(term="Judgements", text=text))
    if report.collapse is not None:
        text = f"Values of {short(report.collapse, 28)} are ranked, each at its nearest picture's place, and "
        text += (
            "right if one of its pictures is; the query's own is taken out unless it is what is looked for."
        )
        facts.append(Fact(term="Ranked", text=text))
    return facts


_DEFINITIONS = (
    Fact(
        term="Order",
        text="Squared L2 distance in float32 (accumulated in float64), then the id in UTF-8 byte order. "
        "Search is exact and covers the whole base.",
    ),
    Fact(term="Right ones", text="R is the number of right pictures that exist for a query, found or not."),
    Fact(
        term="Success at k",
        text="1 if any of the first k is right, else 0. Metric-learning papers call it Recall@k.",
    ),
    Fact(term="Precision, recall at k", text="Right ones among the first k, divided by k or by R."),
    Fact(
        term="Average precision",
        text="The sum of the precision at each right picture over the whole list, divided by R. MAP@R "
        "counts only the first R places. R-precision is the precision at R.",
    ),
    Fact(
        term="nDCG at 10",
        text="The sum of 1 / log2(place + 1) over the right ones in the first 10, divided by that of a "
        "perfect order.",
    ),
    Fact(
        term="Means",
        text="Mean: over queries. Weighted: over queries, weighted by R. Per class: over classes, of the "
        "class means.",
    ),
)
