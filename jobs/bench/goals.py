"""The goals of issue 3, and which of them a run of ``bench embed`` has met."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_AT_LEAST, _AT_MOST = "at least", "at most"
_MEETS = {_AT_LEAST: operator.ge, _AT_MOST: operator.le}


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A figure of the result by its path, and the bound it is to keep."""

    name: str
    path: tuple[str, ...]
    side: str
    bound: float


GOALS = (
    Goal(name="ceiling_local", path=("ratio_to_ceiling",), side=_AT_LEAST, bound=0.9),
    Goal(name="ceiling_s3", path=("ratio_to_ceiling",), side=_AT_LEAST, bound=0.85),
    Goal(name="ray_data", path=("ratio_to_ray_data",), side=_AT_LEAST, bound=1.3),
    Goal(name="dataloader", path=("ratio_to_dataloader",), side=_AT_LEAST, bound=1.0),
    Goal(name="memory", path=("memory_ratio_to_ray_data",), side=_AT_MOST, bound=0.25),
    Goal(name="decode_bound", path=("decode_bound", "ratio_to_slowest_stage"), side=_AT_LEAST, bound=0.9),
    Goal(name="latency_tars", path=("latency", "tars", "ratio_to_slowest_stage"), side=_AT_LEAST, bound=0.9),
    Goal(
        name="latency_objects",
        path=("latency", "objects", "ratio_to_slowest_stage"),
        side=_AT_LEAST,
        bound=0.9,
    ),
    Goal(name="growth_speed", path=("growth", "images_per_s_change"), side=_AT_MOST, bound=0.05),
    Goal(name="growth_peak", path=("growth", "peak_change"), side=_AT_MOST, bound=0.1),
    Goal(name="growth_driver", path=("growth", "driver_change"), side=_AT_MOST, bound=0.1),
    Goal(name="crash_units_done_twice", path=("crash", "units_done_twice"), side=_AT_MOST, bound=1),
    Goal(name="crash_images_lost", path=("crash", "images_lost"), side=_AT_MOST, bound=0),
)


def judged(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """{name, goal, value, met} of every goal that ``result`` has a figure for, in the issue's order.

    >>> judged({"images": {"on_s3": False}, "ratio_to_ceiling": 0.88})
    [{'name': 'ceiling_local', 'goal': 'at least 0.9', 'value': 0.88, 'met': False}]
    """
    elsewhere = "ceiling_local" if result["images"]["on_s3"] else "ceiling_s3"
    found = []
    for goal in GOALS:
        value = _value(result, goal.path)
        if value is not None and goal.name != elsewhere:
            met = bool(_MEETS[goal.side](value, goal.bound))
            said = f"{goal.side} {goal.bound:g}"
            found.append({"name": goal.name, "goal": said, "value": value, "met": met})
    return found


def _value(result: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = result
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if value is None else float(value)
