"""The page of `experiment`: which way of training is best, which are shown to be worse, and how sure."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluate.paired import MIN_GROUPS
from pipeline.evaluate.published import FACENET_TABLES, PublishedVal
from pipeline.evaluate.report.document import (
    Axis,
    Block,
    Document,
    Fact,
    Finding,
    Mark,
    Named,
    Plot,
    Point,
    Section,
    Series,
    Share,
    Table,
)
from pipeline.evaluate.report.methods import provenance
from pipeline.evaluate.report.words import attribute_name, count

Result = Mapping[str, Any]

_NOUNS = {
    "losses": "loss",
    "mining": "miner",
    "dimension": "dimension",
    "data": "share of the images",
    "pooling": "pooling",
    "flops": "network",
}
_SHARED = (
    "network",
    "dim",
    "loss",
    "miner",
    "classes",
    "images",
    "steps",
    "patience",
    "learning_rate",
    "views",
)
_AXES = {
    "dimension": "dimensions",
    "data": "images trained on",
    "flops": "multiply-adds of one image",
}


def experiment_document(result: Result) -> Document:
    """The report of an experiment; ``result`` is its JSON."""
    name, ways = result["experiment"], result["ways"]
    published = FACENET_TABLES.get(name, ())
    blocks: list[Block] = [
        _figures(name, ways),
        *_plot(name, ways, published),
        _differences(name, result["reference"], ways),
    ]
    sections = [Section(title="On classes that no training has seen", note=_NOTE, blocks=tuple(blocks))]
    if published:
        sections.append(Section(title="Published", note=_OTHER, blocks=(_published(published),)))
    return Document(
        kind="experiment",
        title=f"{name}: {'generated catalog' if result['generated'] else result['source']}",
        subtitle=f"{count(result['n_queries'])} queries of {count(result['n_classes'])} values of "
        f"{attribute_name(result['label'])}, {count(len(result['seeds']))} trainings of each way",
        verdict=experiment_verdict(result),
        findings=_findings(result),
        sections=tuple(sections),
        methods=_methods(result),
    )


_NOTE = (
    "Means over trainings with different seeds, with the interval over classes. The spread is the standard "
    "deviation over seeds: what training once more would change."
)
_OTHER = (
    "VAL at a false accept rate of .001 as FaceNet (arXiv 1503.03832) prints it: faces, 100 million and more "
    "of them, trained for far longer. The shape may be compared, the height may not."
)


def experiment_verdict(result: Result) -> Finding:
    """What the experiment comes to, in one sentence."""
    reference, others = result["reference"], _others(result)
    worse, better = (
        [way["name"] for way in others if way["verdict"] == verdict] for verdict in ("worse", "better")
    )
    if len(result["seeds"]) < 2:
        return Finding(
            mark=Mark.NOTE,
            text="Nothing is concluded: one training of each way does not show what another would change.",
        )
    if not result["concludes"]:
        return Finding(
            mark=Mark.NOTE,
            text=f"Nothing is concluded: to judge by takes {MIN_GROUPS} classes, here are "
            f"{result['n_classes']}.",
        )
    chosen = f"The {_NOUNS[result['experiment']]} {reference} was best on the classes to choose by"
    if better:
        return Finding(mark=Mark.NOTE, text=f"{chosen}; on those to judge by {', '.join(better)} is better.")
    if not worse:
        return Finding(mark=Mark.NOTE, text=f"{chosen}; none of {len(others)} others is shown to be worse.")
    text = f"{chosen}, and {len(worse)} of {len(others)} others are shown to be worse: {', '.join(worse)}."
    return Finding(mark=Mark.GOOD, text=text)


def spread_in_words(sd: float | None) -> str:
    """The standard deviation over seeds; a dash where there is one seed."""
    return "\u2013" if sd is None else f"{sd:.4f}"


def _others(result: Result) -> list[Mapping[str, Any]]:
    """The trained ways but the reference."""
    return [way for way in result["ways"] if way["validation"] is not None and way["difference"] is not None]


def _findings(result: Result) -> tuple[Finding, ...]:
    findings = []
    (untrained,) = (way for way in result["ways"] if way["validation"] is None)
    found = untrained["difference"]
    if result["concludes"]:
        learned = untrained["verdict"] == "worse"
        helps = "better than none" if learned else "not shown to help"
        by_first = " against ".join(
            _success(result, name) for name in (result["reference"], untrained["name"])
        )
        findings.append(
            Finding(
                mark=Mark.GOOD if learned else Mark.BAD,
                text=f"Training with {result['reference']} is {helps}: MAP@R {found['old']:.4f} against "
                f"{found['new']:.4f} untrained.",
                detail=f"The difference lies between {-found['high']:+.4f} and {-found['low']:+.4f}. "
                f"By success@1 it is {by_first}.",
            )
        )
    findings += [
        Finding(
            mark=Mark.BAD,
            text=f"{way['name']} collapsed in {way['n_collapsed']} of {len(result['seeds'])} trainings: its "
            "vectors came to lie on one spot.",
            detail="A lower train.learning_rate, another miner or loss may keep it from that.",
        )
        for way in result["ways"]
        if way["n_collapsed"]
    ]
    if result["scaled"]:
        findings.append(Finding(mark=Mark.NOTE, text=result["scaled"]))
    if result["val_reason"]:
        findings.append(Finding(mark=Mark.NOTE, text=f"No VAL: {result['val_reason']}."))
    if result["quick"]:
        findings.append(
            Finding(
                mark=Mark.BAD, text="A quick run: it shows that the experiment works, not which way is best."
            )
        )
    return tuple(findings)


def _success(result: Result, name: str) -> str:
    (way,) = (way for way in result["ways"] if way["name"] == name)
    return f"{way['metrics']['success@1']['mean']:.4f}"


def _figures(name: str, ways: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        columns=(_NOUNS[name], "success@1", "MAP@R", "spread", "VAL at .001"),
        rows=tuple(
            (
                Named(text=way["name"], meaning=_meaning(way)),
                _share(way["metrics"]["success@1"]),
                _share(way["metrics"]["map_at_r"]),
                spread_in_words(way["metrics"]["map_at_r"]["sd"]),
                "none" if way["val"] is None else _share(way["val"]),
            )
            for way in ways
        ),
    )


def _differences(name: str, reference: str, ways: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        title=f"Beside {reference}, which was best on the classes to choose by",
        columns=(_NOUNS[name], "difference in MAP@R", "interval", "corrected p", "shown"),
        rows=tuple(
            (
                way["name"],
                f"{found['difference']:+.4f}",
                f"{found['low']:+.4f} to {found['high']:+.4f}",
                f"{way['p_corrected']:.4f}",
                way["verdict"],
            )
            for way in ways
            if (found := way["difference"]) is not None
        ),
    )


def _meaning(way: Mapping[str, Any]) -> str:
    if way["mult_adds"] is None:
        return str(way["meaning"])
    cost = f"{way['parameters'] / 1e6:.2g} M parameters, {way['mult_adds'] / 1e6:.3g} M multiply-adds"
    return "; ".join(filter(None, [way["meaning"], cost]))


def _share(figure: Mapping[str, Any]) -> Share:
    return Share(value=figure["mean"], low=figure["low"], high=figure["high"])


def _plot(
    name: str, ways: Sequence[Mapping[str, Any]], published: Sequence[PublishedVal]
) -> tuple[Plot, ...]:
    """Figures against the number that the ways differ in, where they differ in one."""
    along = sorted((way for way in ways if way["x"] is not None), key=lambda way: float(way["x"]))
    if not along:
        return ()
    kind: Any = "scatter" if name == "flops" else "line"
    series = [
        Series(
            name="MAP@R here",
            kind=kind,
            points=tuple(_point(way, way["metrics"]["map_at_r"]) for way in along),
        )
    ]
    if all(way["val"] is not None for way in along):
        series.append(
            Series(name="VAL at .001 here", kind=kind, points=tuple(_point(way, way["val"]) for way in along))
        )
    series.append(
        Series(
            name="VAL at .001, FaceNet's own",
            kind=kind,
            points=tuple(
                Point(x=one.x, y=one.val)
                if one.sem is None
                else Point(x=one.x, y=one.val, low=one.val - one.sem, high=one.val + one.sem)
                for one in published
            ),
        )
    )
    return (
        Plot(
            title=f"Quality over {_AXES[name]}",
            alt=f"MAP@R over {_AXES[name]}: "
            + ", ".join(f"{way['name']} {way['metrics']['map_at_r']['mean']:.3f}" for way in along)
            + "; beside it the published table.",
            x=Axis(title=_AXES[name], scale="log"),
            y=Axis(title="share", low=0.0, high=1.0),
            series=tuple(series),
            note="Published figures are of other data at another scale.",
        ),
    )


def _point(way: Mapping[str, Any], figure: Mapping[str, Any]) -> Point:
    return Point(x=float(way["x"]), y=figure["mean"], low=figure["low"], high=figure["high"])


def _published(published: Sequence[PublishedVal]) -> Table:
    return Table(
        columns=("FaceNet", "VAL at .001", "standard error over five splits"),
        rows=tuple(
            (one.name, f"{one.val:.3f}", "not stated" if one.sem is None else f"{one.sem:.3f}")
            for one in published
        ),
    )


def _methods(result: Result) -> tuple[Fact, ...]:
    settings, images = result["settings"], result["images"]
    rejected = sum(images["rejected"].values())
    return (
        Fact(
            term="Classes",
            text=f"{count(images['judged'])} of {count(images['usable'])} images, three tenths of the "
            "classes, are set apart to judge by, the same in all trainings. Of the other classes each seed "
            f"sets apart {settings['validation_share']:g} to choose the best step by. Left out: "
            f"{count(images['without_label'])} images without the label, {count(rejected)} rejected.",
        ),
        Fact(
            term="Measures",
            text="Leave-one-out over the images to judge by, exact distances; VAL over all their pairs, at "
            "the threshold of each training.",
        ),
        Fact(
            term="Comparison",
            text="The reference is the way with the highest mean MAP@R on the classes to choose by. "
            "Differences are paired by query and averaged over seeds; 95\u00a0% bootstrap and sign-flip test "
            "over classes, p values corrected for the number of ways (Holm). A difference is shown if p is "
            "below .05, the interval excludes 0 and every seed has its sign.",
        ),
        Fact(
            term="Shared settings",
            text=", ".join(f"{name} {settings[name]}" for name in _SHARED)
            + f"; seeds {', '.join(map(str, result['seeds']))}. A way changes what it is named after; "
            "nothing was tuned for one of them.",
        ),
        *provenance("", None, "", result["software"]),
    )
