"""The page of `evaluate history`: the figures of a collection over its nights."""

from collections.abc import Sequence
from itertools import pairwise

from pipeline.evaluate.history import WATCHED, Night, below_target, unusual_nights
from pipeline.evaluate.report.document import (
    SERIES_AT_MOST,
    Axis,
    Document,
    Fact,
    Finding,
    Mark,
    Named,
    Plot,
    Point,
    Rule,
    Section,
    Series,
    Table,
)
from pipeline.evaluate.report.words import count, percent

_ROWS = 30
_SCALES = ((1e7, 1e6, "million "), (1e4, 1e3, "thousand "))


def history_document(collection: str, nights: Sequence[Night]) -> Document:
    """The report of at least one night, oldest first."""
    drawings = (
        _plot(nights, "Images", "images", {"live images": "images"}),
        _plot(
            nights,
            "What each night did",
            "images",
            {"embedded": "embedded", "stale": "stale", "rejected": "rejected", "deleted": "deleted"},
        ),
        _recall(nights),
        _seconds(nights),
        _plot(
            nights,
            "Drift and churn",
            "share",
            {
                "drift of the mean": "mean_shift",
                "imbalance of the bits": "bit_imbalance",
                "neighbours that are others": "churn",
            },
        ),
    )
    return Document(
        kind="history",
        title=f"collection {collection}",
        subtitle=f"{count(len(nights))} nights, snapshots {nights[0].snapshot} to {nights[-1].snapshot}, "
        f"{nights[0].created[:10]} to {nights[-1].created[:10]}",
        verdict=_verdict(nights),
        findings=_findings(nights),
        sections=(
            Section(
                title="Night by night",
                blocks=tuple(one for one in drawings if one is not None),
                side_by_side=True,
            ),
            _table(nights),
        ),
        methods=(
            Fact(
                term="Where from",
                text="Manifests of the snapshots, which are never deleted, and the night's report among "
                "the events "
                "of each run. A snapshot is a publication: nights that changed nothing or were refused "
                "made none.",
            ),
            Fact(
                term="Unusual",
                text="Further from the median of up to 14 nights before than six times their spread "
                "(median absolute "
                "deviation, scaled; Leys et al. 2013), by more than a quarter of the median, and, for "
                "counts of "
                "images, by more than one in a thousand. Five nights have to come before.",
            ),
            Fact(
                term="Drift, churn",
                text="How far the mean of the vectors has moved from that of those the encoder was fitted "
                "on, and "
                "how unequally its bits are used; the share of the 10 nearest of 50 old images that are "
                "others "
                "than the night before.",
            ),
        ),
    )


def _verdict(nights: Sequence[Night]) -> Finding:
    last = nights[-1]
    odd = [one for one in unusual_nights(nights) if one.snapshot == last.snapshot]
    low = bool(below_target(nights[-1:]))
    said = f"The last night has {count(last.images)} images"
    if last.recall is not None:
        said += f" and a recall at {last.k} of {last.recall:.4f}"
    if not odd and not low:
        return Finding(mark=Mark.GOOD, text=f"{said}; nothing about it is unusual.")
    names = [WATCHED[one.figure] for one in odd] + (["a recall below its target"] if low else [])
    return Finding(mark=Mark.BAD, text=f"{said}; look at: {', '.join(names)}.")


def _findings(nights: Sequence[Night]) -> tuple[Finding, ...]:
    found = [
        Finding(
            mark=Mark.NOTE,
            text=f"Snapshot {one.snapshot}: {WATCHED[one.figure]} {_number(one.value)}, usually "
            f"{_number(one.usual)}.",
        )
        for one in unusual_nights(nights)[-12:]
    ]
    found += [
        Finding(
            mark=Mark.BAD,
            text=f"Snapshot {night.snapshot}: recall at {night.k} is at most {night.recall_high:.4f}, "
            "below its "
            f"target of {night.target:g}.",
        )
        for night in below_target(nights)[-6:]
    ]
    found += [
        Finding(
            mark=Mark.BAD,
            text=f"Snapshot {night.snapshot} was published although these gates refused it: "
            f"{', '.join(night.overridden)}.",
        )
        for night in nights
        if night.overridden
    ][-6:]
    changed = [b.snapshot for a, b in pairwise(nights) if a.model_id != b.model_id]
    if changed:
        names = ", ".join(map(str, changed))
        found.append(Finding(mark=Mark.NOTE, text=f"The model was changed with snapshot {names}."))
    return tuple(found)


def _plot(nights: Sequence[Night], title: str, unit: str, series: dict[str, str]) -> Plot | None:
    """Figures of the nights by name; None where nobody measured any."""
    drawn = {
        name: [
            (night.snapshot, float(value))
            for night in nights
            if (value := getattr(night, figure)) is not None
        ]
        for name, figure in series.items()
    }
    drawn = {name: values for name, values in drawn.items() if values}
    if not drawn:
        return None
    largest = max(value for values in drawn.values() for _, value in values)
    _, scale, word = next((one for one in _SCALES if largest >= one[0]), (0.0, 1.0, ""))
    ends = ", ".join(
        f"{name} from {_number(values[0][1])} to {_number(values[-1][1])}" for name, values in drawn.items()
    )
    return Plot(
        title=title,
        alt=f"{title}: {ends}.",
        x=Axis(title="snapshot"),
        y=Axis(title=f"{word}{unit}"),
        series=tuple(
            Series(name=name, points=tuple(Point(x=x, y=value / scale) for x, value in values))
            for name, values in drawn.items()
        ),
    )


def _number(value: float) -> str:
    """Whole numbers with their thousands, others with four digits."""
    return count(int(value)) if value.is_integer() else f"{value:,.4g}"


def _recall(nights: Sequence[Night]) -> Plot | None:
    points = tuple(
        Point(x=night.snapshot, y=night.recall, low=night.recall_low, high=night.recall_high)
        for night in nights
        if night.recall is not None
    )
    if not points:
        return None
    target = nights[-1].target
    return Plot(
        title=f"Recall of the index at {nights[-1].k}",
        alt=f"Recall goes from {points[0].y:.4f} to {points[-1].y:.4f}; {percent(target)} is asked for.",
        x=Axis(title="snapshot"),
        y=Axis(title="recall", high=1.0),
        series=(Series(name="recall", points=points),),
        rules=(Rule(axis="y", value=target, text=f"asked {target:g}"),),
    )


def _seconds(nights: Sequence[Night]) -> Plot | None:
    totals: dict[str, float] = {}
    for night in nights:
        for stage, spent in night.seconds.items():
            totals[stage] = totals.get(stage, 0.0) + spent
    if not totals:
        return None
    longest = sorted(totals, key=lambda stage: (-totals[stage], stage))[: SERIES_AT_MOST - 1]
    series = [
        Series(
            name="all stages",
            points=tuple(Point(x=night.snapshot, y=night.total_seconds) for night in nights),
        )
    ]
    for stage in longest:
        points = tuple(
            Point(x=night.snapshot, y=night.seconds[stage]) for night in nights if stage in night.seconds
        )
        series.append(Series(name=stage, points=points))
    return Plot(
        title="Seconds",
        alt=f"All stages took {series[0].points[0].y:.1f} s in the first night and "
        f"{series[0].points[-1].y:.1f} s "
        f"in the last; most went into {longest[0]}.",
        x=Axis(title="snapshot"),
        y=Axis(title="seconds", low=0.0),
        series=tuple(series),
    )


def _table(nights: Sequence[Night]) -> Section:
    shown = list(nights)[-_ROWS:][::-1]
    rows = tuple(
        (
            Named(
                text=str(night.snapshot),
                meaning=", ".join(filter(None, (night.created[:16].replace("T", " "), night.note))),
            ),
            count(night.images),
            count(night.embedded),
            count(night.stale),
            count(night.rejected),
            count(night.deleted),
            "" if night.recall is None else f"{night.recall:.4f}",
            "" if night.churn is None else percent(night.churn),
            f"{night.total_seconds:,.1f}",
        )
        for night in shown
    )
    columns = ("snapshot", "images", "embedded", "stale", "rejected", "deleted", "recall", "churn", "seconds")
    return Section(
        title="The figures",
        note=f"The last {len(shown)} of {count(len(nights))} nights, the newest first.",
        blocks=(Table(columns=columns, rows=rows),),
    )
