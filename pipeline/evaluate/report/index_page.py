"""The page of `evaluate index`, and what other pages say of an index: recall against C, bits, lists, cost."""

from collections.abc import Mapping
from typing import Any

from pipeline.evaluate.report.document import (
    Axis,
    Block,
    Cell,
    Document,
    Fact,
    Facts,
    Finding,
    Mark,
    Plot,
    Point,
    Rule,
    Section,
    Series,
    Share,
    Table,
)
from pipeline.evaluate.report.facts import IndexFacts
from pipeline.evaluate.report.methods import TWO_SIDED, provenance
from pipeline.evaluate.report.words import count, percent, percent_with_interval
from pipeline.index.bootstrap import RESAMPLES


def index_document(result: Mapping[str, Any], facts: IndexFacts) -> Document:
    """The report of an index.

    Args:
        result: The JSON of `evaluate index`.
        facts: Of the k that the snapshot is calibrated for.
    """
    recall = {name: found for name, found in result.items() if name.startswith("ann_recall@")}
    findings = [Finding(mark=Mark.BAD, text=warning) for warning in result["warnings"]]
    findings += [Finding(mark=Mark.NOTE, text=text) for text in _where_lost(result["lost"])]
    sections = [
        Section(title="Recall", note=_RECALL_NOTE, blocks=(_recall_table(recall, result["filters"]),)),
        Section(title="What it takes", blocks=_curves(result, facts), side_by_side=True),
        Section(title="What it costs", blocks=(_cost(result),)),
    ]
    return Document(
        kind="index",
        title=f"snapshot {result['snapshot']}",
        subtitle=f"{count(result['n_vectors'])} vectors, method {result['method']}, "
        f"{count(result['n_queries'])} fresh queries",
        verdict=index_finding(facts),
        findings=tuple(findings),
        sections=tuple(section for section in sections if section.blocks),
        methods=(*_METHODS, *provenance("", result["snapshot"], result["digest"], {})),
    )


def index_finding(index: IndexFacts) -> Finding:
    """Whether the index finds what exact search finds."""
    if index.n_calibration_queries == 0:
        return Finding(mark=Mark.NOTE, text="There were no pictures to ask with: nothing is known of recall.")
    if index.candidates == 0:
        return Finding(mark=Mark.GOOD, text="Search is exact: the index misses nothing.")
    met = index.recall.low >= index.recall_asked  # as the gate judges it
    return Finding(
        mark=Mark.GOOD if met else Mark.BAD,
        text=f"The index returns {percent(index.recall.mean)} of the {index.k} truly nearest pictures "
        f"({percent(index.recall.low)} to {percent(index.recall.high)}); "
        f"{percent(index.recall_asked)} was asked for.",
    )


def index_section(index: IndexFacts) -> Section:
    """What a page on something else says of the index beside it."""
    facts = [
        Fact(term="Recall asked", text=f"{percent(index.recall_asked)} of the {index.k} nearest"),
        Fact(
            term="Recall measured",
            text=percent_with_interval(index.recall.mean, index.recall.low, index.recall.high),
        ),
        Fact(term="On", text=f"{count(index.n_calibration_queries)} queries"),
        Fact(term="Method", text=index.method),
    ]
    if index.bits:
        facts.append(Fact(term="Bits a vector", text=count(index.bits)))
    if index.candidates:
        text = f"{count(index.candidates)} of {count(index.n_vectors)} are compared exactly"
        facts.append(Fact(term="Candidates C", text=text))
    if index.n_lists:
        text = f"{count(index.n_probes)} of {count(index.n_lists)} probed"
        facts.append(Fact(term="Lists", text=text))
    facts.append(Fact(term="Vectors", text=count(index.n_vectors)))
    curve = recall_curve(index)
    return Section(
        title="The index",
        note="How much of the exact answer the fast search gives. It is measured with the real search "
        "code, and is a matter of its own beside the figures below, which use exact search.",
        blocks=(Facts(items=tuple(facts)), *([curve] if curve else [])),
        side_by_side=True,
    )


def recall_curve(index: IndexFacts) -> Plot | None:
    """Recall against candidates: the calibration curve, what was asked and what was chosen."""
    points = sorted((point.candidates, point.recall) for point in index.curve if point.candidates > 0)
    if len(points) < 2:
        return None
    chosen = () if not index.candidates else (Rule(axis="x", value=index.candidates, text=_chosen(index)),)
    return Plot(
        title=f"Recall at {index.k} against candidates",
        alt=f"Recall at {index.k} rises from {points[0][1]:.3f} with {points[0][0]} candidates "
        f"to {points[-1][1]:.3f} with {points[-1][0]}; {index.candidates} were chosen.",
        x=Axis(title="candidates C", scale="log"),
        y=Axis(title="recall", high=1.0),
        series=(Series(name="recall", points=tuple(Point(x=c, y=recall) for c, recall in points)),),
        rules=(Rule(axis="y", value=index.recall_asked, text=f"asked {index.recall_asked:.3g}"), *chosen),
    )


_RECALL_NOTE = (
    "The share of the truly nearest pictures that a search returns, measured with the search that users "
    "call, on pictures that chose nothing."
)
_METHODS = (
    Fact(
        term="Recall at k",
        text="A returned picture counts if its exact distance is at most that of the k-th exact neighbour, "
        "so that ties are nobody's loss. The picture that asks is left out by its id.",
    ),
    Fact(
        term="Queries",
        text="Rows of the index that were not used to fit it nor to choose C, drawn by the seed.",
    ),
    Fact(
        term="Interval",
        text=f"{TWO_SIDED} of the mean over queries, {count(RESAMPLES)} resamples; its lower end is at "
        "most .025 to the power 1/n, what n queries can show.",
    ),
    Fact(
        term="Bits",
        text="Imbalance is |share of ones - 1/2| of a bit: 0 is best, 1/2 a dead bit. Correlation is the "
        "absolute Pearson correlation of two bits; two that always agree are one bit.",
    ),
    Fact(
        term="Lists",
        text="Imbalance is the number of lists times the sum of their squared shares: 1 when all are equal.",
    ),
)


def _chosen(index: IndexFacts) -> str:
    return f"C = {count(index.candidates)}, measured {index.recall.mean:.3f}"


def _where_lost(lost: list[Mapping[str, Any]]) -> list[str]:
    return [
        f"Of the {one['k']} nearest, {percent(one['code'])} are lost to the code and its candidates, and "
        f"{percent(one['lists'])} to lists that are not looked into."
        for one in lost
        if one["code"] > 0 or one["lists"] > 0
    ]


def _recall_table(recall: Mapping[str, Mapping[str, float]], filters: list[Mapping[str, Any]]) -> Table:
    rows: list[tuple[Cell, ...]] = [(name, _share(found)) for name, found in recall.items()]
    for one in filters:
        name, found = next((name, value) for name, value in one.items() if name.startswith("ann_recall@"))
        among = f"{name} among {percent(one['selectivity'])} of the vectors ({one['method']})"
        rows.append((among, "not measured: too few to find" if found is None else _share(found)))
    return Table(columns=("measure", "mean, 95 % interval"), rows=tuple(rows))


def _share(found: Mapping[str, float]) -> Share:
    return Share(value=found["mean"], low=found["low"], high=found["high"])


def _curves(result: Mapping[str, Any], facts: IndexFacts) -> tuple[Block, ...]:
    at_candidates = recall_curve(facts)
    at_probes = _probe_curve(result["probe_curve"], f"ann_recall@{facts.k}", facts.recall_asked)
    return tuple(plot for plot in (at_candidates, at_probes) if plot is not None)


def _probe_curve(curve: list[Mapping[str, float]], name: str, asked: float) -> Plot | None:
    points = tuple(Point(x=one["probes"], y=one[name]) for one in curve if name in one)
    if len(points) < 2:
        return None
    return Plot(
        title="Recall against lists looked into",
        alt=f"Recall rises from {points[0].y:.3f} with {points[0].x:g} lists to {points[-1].y:.3f} with "
        f"{points[-1].x:g}.",
        x=Axis(title="lists", scale="log"),
        y=Axis(title="recall", high=1.0),
        series=(Series(name="recall", points=points),),
        rules=(Rule(axis="y", value=asked, text=f"asked {asked:.3g}"),),
    )


def _cost(result: Mapping[str, Any]) -> Facts:
    memory, speed, bits, lists, age = (
        result[name] for name in ("memory", "speed", "bits", "lists", "staleness")
    )
    hot, cold = memory["hot_bytes_per_vector"], memory["cold_bytes_per_vector"]
    said = [
        ("Bytes a vector, hot", f"{hot} (float32 takes {memory['float32_bytes_per_vector']})"),
        ("Bytes a vector, cold", f"{cold}"),
    ]
    if speed:
        batches = f"{speed['batch_per_s']} in batches of {count(speed['batch_size'])}"
        said.append(("Queries a second", f"{batches}, {speed['single_per_s']} one by one"))
        slowest = f"{speed['single_p50_ms']} ms, 1 in 100 takes {speed['single_p99_ms']} ms"
        said.append(("One query", slowest))
    if bits:
        said.append(
            (
                "Bits",
                f"{count(bits['bits'])}; imbalance {bits['balance_mean']}, worst {bits['balance_max']}; "
                f"correlation {bits['correlation_mean']}, worst {bits['correlation_max']}",
            )
        )
    if lists:
        sizes = (
            f"{count(lists['n_lists'])} of {count(lists['smallest'])} to {count(lists['largest'])} vectors"
        )
        said.append(("Lists", f"{sizes}; imbalance {lists['imbalance']}, {count(lists['empty'])} empty"))
    said.append(
        (
            "Left behind",
            f"{percent(age['dead_share'])} of {count(age['rows'])} rows are dead; {age['delta_shards']} of "
            f"{age['index_shards']} index shards are deltas",
        )
    )
    return Facts(items=tuple(Fact(term=term, text=text) for term, text in said))
