"""The page of `evaluate reranking`: which re-ranker helps, which hurts, and what each costs."""

from collections.abc import Mapping
from typing import Any

from pipeline.evaluate.paired import LEVEL, MIN_GROUPS
from pipeline.evaluate.report.document import (
    Axis,
    Cell,
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
from pipeline.evaluate.report.methods import provenance
from pipeline.evaluate.report.words import attribute_name, count


def reranking_document(result: Mapping[str, Any]) -> Document:
    """The report of re-rankers; ``result`` is the JSON of `evaluate reranking`."""
    rows = result["rerankers"]
    return Document(
        kind="re-ranking",
        title=f"snapshot {result['snapshot']}",
        subtitle=f"{count(result['n_queries'])} queries of {count(result['n_identities'])} values of "
        f"{attribute_name(result['label'])} over {count(result['n_images'])} images",
        verdict=_verdict(result),
        findings=tuple(_finding(row) for row in rows if row["verdict"] != "no difference shown"),
        sections=(
            Section(title="Gain over the plain ranking", note=_NOTE, blocks=(_table(result), *_plot(rows))),
        ),
        methods=(
            *_methods(result),
            *provenance(result["model_id"], result["snapshot"], result["digest"], {}),
        ),
    )


_NOTE = (
    "Settings were chosen on other identities than are judged here. The interval is of the difference on the "
    "same queries."
)


def _verdict(result: Mapping[str, Any]) -> Finding:
    helping = [row for row in result["rerankers"] if row["verdict"] == "helps"]
    if result["n_identities"] < MIN_GROUPS:
        return Finding(
            mark=Mark.NOTE,
            text=f"Nothing is concluded: to judge by takes {MIN_GROUPS} identities, here "
            f"{'is' if result['n_identities'] == 1 else 'are'} {result['n_identities']}.",
        )
    if not helping:
        return Finding(mark=Mark.NOTE, text="No re-ranker is shown to help here: keep the plain ranking.")
    best = max(helping, key=lambda row: float(row["map_gain"]["mean"]))
    return Finding(
        mark=Mark.GOOD,
        text=f"{best['name']} helps most: mean average precision {_gain(best['map_gain'])}.",
        detail=best["settings"],
    )


def _finding(row: Mapping[str, Any]) -> Finding:
    helps = row["verdict"] == "helps"
    said = "gives and takes" if row["verdict"] == "mixed" else row["verdict"]
    return Finding(
        mark=Mark.GOOD if helps else Mark.BAD,
        text=f"{row['name']} {said}: mean average precision {_gain(row['map_gain'])}, "
        f"success at 1 {_gain(row['success@1_gain'])}.",
        detail="" if helps or row["validation_gain"] > 0 else "It was no gain on the validation half either.",
    )


def _table(result: Mapping[str, Any]) -> Table:
    plain = result["plain"]
    rows: list[tuple[Cell, ...]] = [
        (
            Named(text=row["name"], meaning=row["settings"]),
            f"{row['map']:.4f}",
            _gain(row["map_gain"]),
            _gain(row["success@1_gain"]),
            _cost(row["cpu_ms_per_query"]),
            row["verdict"],
        )
        for row in result["rerankers"]
    ]
    return Table(
        columns=("re-ranker", "mAP", "gain in mAP", "gain in success@1", "CPU ms a query", "verdict"),
        rows=tuple(rows),
        total=("plain", f"{plain['map']:.4f}", "", "", _cost(plain["cpu_ms_per_query"]), ""),
    )


def _plot(rows: list[Mapping[str, Any]]) -> tuple[Plot, ...]:
    """Gain against cost, of those whose cost is known."""
    known = [row for row in rows if row["cpu_ms_per_query"]]
    series = tuple(
        Series(
            name=verdict,
            kind="scatter",
            points=tuple(
                Point(
                    x=row["cpu_ms_per_query"],
                    y=row["map_gain"]["mean"],
                    low=row["map_gain"]["low"],
                    high=row["map_gain"]["high"],
                )
                for row in known
                if row["verdict"] == verdict
            ),
        )
        for verdict in ("helps", "mixed", "no difference shown", "hurts")
        if any(row["verdict"] == verdict for row in known)
    )
    if not series:
        return ()
    return (
        Plot(
            title="Gain against cost",
            alt="Gain in mean average precision of each re-ranker against the CPU time of a query: "
            + ", ".join(
                f"{row['name']} {row['map_gain']['mean']:+.4f} at {row['cpu_ms_per_query']:.1f} ms"
                for row in known
            )
            + ".",
            x=Axis(title="CPU ms a query", scale="log"),
            y=Axis(title="gain in mAP"),
            series=series,
            rules=(Rule(axis="y", value=0.0, text="plain"),),
        ),
    )


def _methods(result: Mapping[str, Any]) -> tuple[Fact, ...]:
    return (
        Fact(
            term="Queries",
            text="Leave-one-out by exact distances: images of identities with several images ask, and the "
            f"image that asks is left out. {count(result['n_validation_queries'])} queries chose the "
            f"settings, {count(result['n_queries'])} of other identities were judged; halves and queries by "
            f"seed {result['seed']}.",
        ),
        Fact(
            term="Mean average precision",
            text=f"Over the first {count(result['depth'])} images, divided by all that are relevant.",
        ),
        Fact(
            term="Interval",
            text="Two-sided 95\u00a0% percentile bootstrap of the mean difference, identities resampled "
            f"whole, {count(result['n_resamples'])} resamples, seed {result['seed']}; each gain by itself.",
        ),
        Fact(
            term="Verdict",
            text=f"Needs {MIN_GROUPS} identities and, of either gain, an interval without 0 and p below "
            f"{LEVEL:g}: two-sided, {count(result['n_permutations'])} sign flips of identities, corrected "
            f"for the {count(2 * len(result['rerankers']))} gains of this page (Holm 1979): of many some "
            "look good by chance.",
        ),
        Fact(
            term="Cost",
            text="Processor time of a search of ten through the index, one query after the other, on all "
            "cores together. Exact k-reciprocal encoding needs all vectors in memory and is no search.",
        ),
    )


def _gain(gain: Mapping[str, float]) -> str:
    interval = f"{gain['mean']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})"
    return f"{interval}, p {gain['p_corrected']:.4f}"


def _cost(cpu_ms: float | None) -> str:
    return "not measured" if cpu_ms is None else f"{cpu_ms:.2f}"
