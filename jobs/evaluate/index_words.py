"""The report of an index in words, for a terminal."""

from collections.abc import Mapping
from typing import Any


def index_in_words(result: Mapping[str, Any]) -> str:
    """The report of an index, line by line."""
    measured = [name for name in result if name.startswith("ann_recall@")]
    lines = [
        f"snapshot {result['snapshot']}: {result['n_vectors']} vectors, method {result['method']}, "
        f"{result['n_queries']} fresh queries"
    ]
    for name in measured:
        found, k = result[name], name.partition("@")[2]
        c = result["candidates"][k]
        lines.append(f"  {name:<15} {_interval(found)}" + (f"  C = {c}" if c else ""))
    lines += [
        f"  ann_recall@{k:<4} is not measured: there are no {k} others to find" for k in result["too_few"]
    ]
    lines += [_filter_in_words(one) for one in result["filters"]]
    shown = "ann_recall@10" if "ann_recall@10" in measured else measured[-1] if measured else ""
    curve = [f"{p['candidates']}: {p[shown]:.4f}" for p in result["curve"] if shown in p]
    bits, lists, memory, speed = (result[name] for name in ("bits", "lists", "memory", "speed"))
    if curve:
        lines.append(f"  recall at C     {', '.join(curve)}")
    probes = [f"{p['probes']}: {p[shown]:.4f}" for p in result["probe_curve"]]
    if probes:
        lines.append(f"  recall at lists {', '.join(probes)}")
    lines += [
        f"  lost at {one['k']:<7} {one['code']:.4f} to the code, {one['lists']:.4f} to the lists"
        for one in result["lost"]
    ]
    if bits:
        lines.append(
            f"  bits            {bits['bits']}, imbalance {bits['balance_mean']} "
            f"(worst {bits['balance_max']}), correlation {bits['correlation_mean']} "
            f"(worst {bits['correlation_max']})"
        )
    if lists:
        lines.append(
            f"  lists           {lists['n_lists']}, imbalance {lists['imbalance']}, "
            f"{lists['smallest']} to {lists['largest']} vectors, {lists['empty']} empty"
        )
    lines.append(
        f"  bytes a vector  {memory['hot_bytes_per_vector']} hot, {memory['cold_bytes_per_vector']} cold; "
        f"float32 takes {memory['float32_bytes_per_vector']}"
    )
    if speed:
        lines.append(
            f"  queries/s       {speed['batch_per_s']} in batches of {speed['batch_size']}, "
            f"{speed['single_per_s']} one by one "
            f"(p50 {speed['single_p50_ms']} ms, p99 {speed['single_p99_ms']} ms)"
        )
    age = result["staleness"]
    asked, found = (sum(one[name] for one in result["self_queries"]) for name in ("asked", "found"))
    lines.append(
        f"  left behind     {age['dead_rows']} of {age['rows']} rows dead, "
        f"{age['index_shards']} index shards, {age['delta_shards']} of them deltas"
    )
    lines.append(f"  self-queries    {found} of {asked} find themselves")
    return "\n".join(lines)


def _filter_in_words(one: Mapping[str, Any]) -> str:
    name, found = next((n, v) for n, v in one.items() if n.startswith("ann_recall@"))
    kept = f"{100 * one['selectivity']:g} % kept: {one['n_matching']} vectors, {one['method']}"
    if found is None:
        return f"  {name:<15} is not measured with {kept}: too few to find"
    left_out = f"; {one['n_excluded']} queries left out, with too few to find" if one["n_excluded"] else ""
    return f"  {name:<15} {_interval(found)}  {kept}{left_out}"


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['mean']:.4f}  (95 % interval {found['low']:.4f} to {found['high']:.4f})"
