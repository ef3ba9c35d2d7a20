"""The report on robustness in words, for a terminal."""

from collections.abc import Mapping
from typing import Any


def robustness_in_words(result: Mapping[str, Any]) -> str:
    """A line for the clean images, one for each level and one for each code."""
    clean = result["clean"]
    lines = [
        f"{result['n_images']:,} images of {result['n_labels']:,} labels; VAL at a FAR of {result['far']:g}, "
        f"D < {clean['threshold']:.4f}",
        f"  {'clean':<44} VAL {_interval(clean, 'val')}  success@1 {_interval(clean, 'success')}",
    ]
    for one in result["levels"]:
        if "one_sided" not in one:
            lines.append(f"  {one['name']:<44} not judged: {_lost(one)}, too few are left")
            continue
        side, itself = one["one_sided"], one["finds_itself@1"]
        published = "" if one["published_val"] is None else f"  published {one['published_val']:.3f}"
        lines.append(
            f"  {one['name']:<44} VAL {_interval(side, 'val')}  success@1 {_interval(side, 'success')}  "
            f"cosine {one['cosine_mean']:.4f}"
            + (
                ""
                if itself is None
                else f"  finds itself {itself:.3f}, median place {one['median_place']:,g}"
            )
            + f"  two-sided VAL {one['two_sided']['val']:.4f}, FAR {one['two_sided']['far_fixed']:.2g}"
            + published
            + (f"  {_lost(one)}" if one["n_rejected"] else "")
        )
    lines += [
        f"  {one['name'] + (' (projected)' if one['projected'] else ''):<44} VAL "
        f"{_interval(one['quality'], 'val')}  success@1 {_interval(one['quality'], 'success')}  "
        f"{one['bytes_per_vector']} bytes"
        for one in result["codes"]
    ]
    return "\n".join(lines)


def _lost(one: Mapping[str, Any]) -> str:
    return f"{one['n_rejected']:,} images rejected"


def _interval(one: Mapping[str, Any], name: str) -> str:
    value = one["val" if name == "val" else "success_at_1"]
    return f"{value:.4f} ({one[f'{name}_low']:.4f} to {one[f'{name}_high']:.4f})"
