"""Queries/s against recall for everybody, as one SVG that needs nothing beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

_LOWEST = 0.9  # nobody asks for less
_PANELS = {"qps_batch": "batches of 1,000", "qps_single": "one query at a time"}

Row = Mapping[str, Any]


def draw_curves(result: Mapping[str, Any], path: Path) -> None:
    """Writes the picture: a panel for batches, one for single queries; the chosen points are filled."""
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    rows = {"ours": result["ours"], **result["peers"]}
    for axes, (rate, title) in zip(figure.subplots(1, 2), _PANELS.items(), strict=True):
        for number, (name, row) in enumerate(rows.items()):
            _curve(axes, row, rate, colour="black" if name == "ours" else f"C{(number - 1) % 10}")
        axes.set(title=title, xlabel="recall@10", ylabel="queries/s", yscale="log", xscale="logit")
        axes.set_xlim(_LOWEST, 0.9998)
        ticks = [0.9, 0.95, 0.98, 0.99, 0.995, 0.999]
        axes.set_xticks(ticks, [f"{tick:g}"[1:] for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(visible=True, which="major", alpha=0.3)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8
    )
    data, machine = result["data"], result["machine"]
    figure.suptitle(
        f"{data['rows']:,} vectors, {data['d']} dimensions, {data['name']}; {machine['cores']} cores",
        fontsize=10,
    )
    figure.savefig(path, format="svg", metadata={"Date": None})


def frontier(points: Sequence[Row], rate: str) -> list[tuple[float, float]]:
    """(recall, rate) of the points that no other beats in both, by recall."""
    best: list[tuple[float, float]] = []
    for recall, speed in sorted(((point["recall"], point[rate]) for point in points), reverse=True):
        if not best or speed > best[-1][1]:
            best.append((recall, speed))
    return best[::-1]


def _curve(axes: Axes, row: Row, rate: str, *, colour: str) -> None:
    points = [point for one in row["tried"] for point in one.get("points", ())]
    shown = [(min(recall, 0.9997), speed) for recall, speed in frontier(points, rate) if recall >= _LOWEST]
    if not shown:
        return
    width = 2.5 if colour == "black" else 1.2
    axes.plot(*zip(*shown, strict=True), color=colour, lw=width, marker=".", ms=4, label=row["title"])
    if row[rate]:
        axes.plot(min(row["ann_recall@10"], 0.9997), row[rate], marker="o", ms=8, color=colour)
