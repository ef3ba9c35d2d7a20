"""The result of ``bench index`` for people."""

from collections.abc import Mapping
from typing import Any

_MIB = 1 << 20


def index_text(result: Mapping[str, Any]) -> str:
    """A table of ours and the peers, fastest batch first, then the ratios and whatever else was asked for."""
    machine, data = result["machine"], result["data"]
    rows = {"ours": result["ours"], **result["variants"], **result["peers"]}
    lines = [
        f"{data['rows']} vectors of {data['d']} dimensions ({data['name']}), {data['queries']} queries; "
        f"{machine['cores']} cores of {machine['processor']}; load before {result['load_at_start']}",
        f"{'':38}{'recall@10':>10}{'batch q/s':>11}{'single q/s':>11}{'build s':>9}{'hot MiB':>9}"
        f"{'dropped: batch, single q/s, hot MiB':>38}",
    ]
    order = sorted(rows.values(), key=lambda one: -(one["qps_batch"] or 0))
    lines += [_line(one) for one in order]
    lines += [f"{name:26}{ratio:.3f}" for name, ratio in result["ratios"].items() if ratio is not None]
    lines += [
        f"middle stage {row['bits']:>5} bits, {row['read']:>4} vectors read: recall {row['recall']:.4f}, "
        f"with the stage {row['with_stage']:.4f}"
        for row in result.get("middle_stage", ())
    ]
    for row in result.get("growth", ()):
        if row["failure"]:
            lines.append(f"growth {row['rows']:>10} rows: {row['failure']}")
            continue
        lines.append(
            f"growth {row['rows']:>10} rows: build {row['build_s']:.1f} s, calibrate "
            f"{row['calibrate_s']:.1f} s, peak {row['build_peak_bytes'] / _MIB:.0f} MiB, "
            f"{row['qps_batch']:.0f} and {row['qps_single']:.0f} queries/s, recall {row['ann_recall@10']:.4f}"
        )
    seeds = result.get("seeds")
    if seeds is not None:
        lowest = seeds["lowest"] if seeds["lowest"] is not None else float("nan")
        lines.append(
            f"seeds: recall {seeds['target']} met in {seeds['met']} of {seeds['of']}, lowest {lowest:.4f}"
        )
    return "\n".join(lines)


def _line(one: Mapping[str, Any]) -> str:
    if one["qps_batch"] is None:
        return f"  {one['title']:36}no figure: {one['failure']}"
    mark = " " if one["reached"] else "*"  # below the target
    dropped = one["dropped"]
    cold = (
        f"{dropped['qps_batch']:12.0f}{dropped['qps_single']:12.0f}{dropped['hot_bytes'] / _MIB:14.0f}"
        if dropped
        else f"{'n/a':>38}"
    )
    return (
        f"  {one['title']:36}{one['ann_recall@10']:9.4f}{mark}{one['qps_batch']:11.0f}"
        f"{one['qps_single']:11.0f}"
        f"{one['build_s']:9.1f}{one['hot_bytes'] / _MIB:9.0f}{cold}"
    )
