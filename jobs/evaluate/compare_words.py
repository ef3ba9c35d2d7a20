"""A comparison in words, for a terminal."""

from collections.abc import Mapping
from typing import Any

from jobs.output import visible
from pipeline.evaluate.report.comparison_page import verdict_in_words


def comparison_in_words(result: Mapping[str, Any]) -> str:
    """The verdict, then the figures line by line."""
    lines = [
        verdict_in_words(result),
        f"{result['n_queries']:,} queries of {result['n_groups']:,} groups over {result['n_images']:,} "
        "images "
        f"that {result['old']['name']} and {result['new']['name']} both have",
    ]
    if result["asked_by"] is not None:
        lines.append(_asked_by(result["asked_by"], result["n_namesakes"]))
    for name, one in result["metrics"].items():
        lines.append(
            f"  {name:<13} {one['old']:.4f} to {one['new']:.4f}  {one['difference']:+.4f} "
            f"({one['low']:+.4f} to {one['high']:+.4f})  p {one['p_value']:.4f}  detectable "
            f"{one['minimum_detectable']:.4f}  {one['n_better']} better, {one['n_worse']} worse"
        )
    slices = result["slices"]
    lines.append(f"  slices        {len(slices['worse'])} of {slices['tested']} significantly worse")
    if result["allow_worse_slices"] and slices["worse"]:
        lines.append("    the mean alone decides (--allow-worse-slices)")
    lines += [
        f"    {visible(one['attribute'])} = {visible(one['value'])}: {one['difference']:+.4f} "
        f"({one['low']:+.4f} to {one['high']:+.4f}) over {one['n_queries']} queries, p "
        f"{one['p_corrected']:.4f} corrected{'' if one['loses'] else ', within the margin'}"
        for one in slices["worse"]
    ]
    neighbours = result["neighbours"]
    lines.append(
        f"  neighbours    {neighbours['share']:.1%} of the {neighbours['k']} nearest are others; the nearest "
        f"for {neighbours['nearest_changed']:.1%} of the queries"
    )
    lines += [_threshold(one) for one in result["thresholds"] if one["old_threshold"] is not None]
    return "\n".join([*lines, *_cost(result["cost"])])


def _asked_by(asked_by: Mapping[str, Any], n_namesakes: int) -> str:
    said = [f"{name.replace('_', ' ')} {n:,}" for name, n in asked_by["excluded"].items() if n]
    if n_namesakes:
        said.append(f"{n_namesakes:,} have the id of another picture, which is judged like any")
    named = f"  asked by      {asked_by['old']['name']} and {asked_by['new']['name']}"
    return f"{named}: {', '.join(said)}" if said else named


def _threshold(one: Mapping[str, Any]) -> str:
    return (
        f"  FAR {one['far']:<9g} D < {one['old_threshold']:.3f} becomes {one['new_threshold']:.3f} "
        f"(VAL {one['old_val']:.4f} to {one['new_val']:.4f}); the old one kept: FAR {one['kept_far']:.2g}"
    )


def _cost(cost: Mapping[str, Any]) -> list[str]:
    old, new = cost["old"], cost["new"]
    lines = []
    if new is not None:
        lines.append(
            f"  memory        {old['hot_bytes_per_vector']:g} to {new['hot_bytes_per_vector']:g} hot bytes a "
            f"vector; one search {old['single_p50_ms']:g} to {new['single_p50_ms']:g} ms"
        )
    if cost["images_to_embed"]:
        hours = cost["embed_hours"]
        time = "an unknown time" if hours is None else f"{hours:.2f} hours of one worker"
        lines.append(f"  still to do   {cost['images_to_embed']:,} images to embed: {time}")
    return lines
