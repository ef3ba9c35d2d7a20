"""The census of ``cluster-photos --near-duplicates``: groups of images with nearly equal codes."""

from collections import Counter
from typing import Any

import numpy as np

from jobs.grouping import Grouping, largest_groups, sizes
from jobs.output import visible
from jobs.search_answers import labels_of
from pipeline.evaluate.metrics import Ints
from pipeline.evaluate.report.clusters_page import near_duplicates_document
from pipeline.index.near_duplicates import near_duplicate_groups
from pipeline.index.order import row_of, shard_of
from pipeline.index.search import Searcher
from pipeline.snapshot.neighbour_graph import live_places
from pipeline.snapshot.open import OpenSnapshot

_RADIUS_SHARE = 0.04
_GROUPS_SHOWN = 40
_IMAGES_SHOWN = 12
_VALUES_SHOWN = 20


def census(snapshot: OpenSnapshot, radius: int | None, by: str | None) -> Grouping:
    """Groups of images whose codes differ in at most ``radius`` bits, counted by the attribute ``by``.

    Raises:
        UsageError: no such attribute, or a radius that makes no sense.
    """
    searcher = snapshot.searcher
    codes_NW, place_N = _live_codes(searcher)
    bits = codes_NW.shape[1] * 8
    radius = int(bits * _RADIUS_SHARE) if radius is None else radius
    ids = searcher.ids(place_N)
    labels = labels_of(snapshot, ids.to_pylist(), by) if by is not None else {}  # refused before the work
    group_N = near_duplicate_groups(codes_NW, radius)
    groups = largest_groups(ids, group_N, _GROUPS_SHOWN, _IMAGES_SHOWN)
    result: dict[str, Any] = {
        "bits": bits,
        "radius": radius,
        **sizes(group_N),
        "n_in_groups": int((np.bincount(group_N)[group_N] > 1).sum()),
        "by": None if by is None else _counted(by, [labels.get(one) for one in ids.to_pylist()], group_N),
        "groups": groups,
    }
    return Grouping(
        ids=ids,
        group_N=group_N,
        column="group",
        result=result,
        words=_in_words(result),
        document=near_duplicates_document(result, snapshot.manifest.sequence, snapshot.manifest.digest),
    )


def _live_codes(searcher: Searcher) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], Ints]:
    """The codes of all live rows and their places."""
    assert searcher.encoder is not None  # noqa: S101 (a snapshot has one)
    place_N = live_places(searcher)
    codes_NW = np.empty((len(place_N), searcher.encoder.bits // 8), dtype=np.uint8)
    for number, shard in enumerate(searcher.shards):
        here = shard_of(place_N) == number
        if shard.codes_NW is not None:
            codes_NW[here] = shard.codes_NW[row_of(place_N[here])]
    return codes_NW, place_N


def _counted(by: str, values: list[str | None], group_N: Ints) -> dict[str, Any]:
    """Groups of several images by the values of an attribute; an image without one counts for none."""
    inside: dict[int, list[str]] = {}
    for group, value in zip(group_N.tolist(), values, strict=True):
        if value is not None:
            inside.setdefault(group, []).append(value)
    several = {group: found for group, found in inside.items() if len(found) > 1}
    mixed = [group for group, found in several.items() if len(set(found)) > 1]
    images, groups = Counter[str](), Counter[str]()
    for found in several.values():
        images.update(found)
        groups.update(set(found))
    most = sorted(images.items(), key=lambda one: (-one[1], one[0]))[:_VALUES_SHOWN]
    return {
        "attribute": by,
        "n_groups_with_one_value": len(several) - len(mixed),
        "n_groups_with_several": len(mixed),
        "values": [{"value": value, "images": n, "groups": groups[value]} for value, n in most],
    }


def _in_words(result: dict[str, Any]) -> str:
    n_groups = result["n_groups"] - result["n_singletons"]
    lines = [
        f"{n_groups:,} groups of near duplicates with {result['n_in_groups']:,} of {result['n_images']:,} "
        f"images, the largest of {result['largest']:,} (at most {result['radius']} of {result['bits']} bits "
        "differ)"
    ]
    if result["by"]:
        by = result["by"]
        lines.append(
            f"by {visible(by['attribute'])}: {by['n_groups_with_one_value']:,} groups with one value, "
            f"{by['n_groups_with_several']:,} with several"
        )
        lines += [
            f"  {visible(one['value'])}: {one['images']:,} images in {one['groups']:,} groups"
            for one in by["values"]
        ]
    lines += ["  " + "  ".join(visible(image_id) for image_id in group) for group in result["groups"][:10]]
    return "\n".join(lines)
