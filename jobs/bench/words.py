"""The result of ``bench embed`` for people."""

from collections.abc import Mapping, Sequence
from typing import Any

_MIB = 1 << 20
_RATIOS = ("ratio_to_ceiling", "ratio_to_ray_data", "ratio_to_dataloader", "memory_ratio_to_ray_data")
_NAMES = {
    "ours": "bitsieve, defaults",
    "one_process": "bare, one process",
    "a_process_per_core": "bare, a process per core",
    "ray_data": "Ray Data",
    "dataloader": "DataLoader loop",
}


def embed_text(result: Mapping[str, Any]) -> str:
    """A table of the contenders, then the ratios, then whatever else was asked for."""
    machine, images = result["machine"], result["images"]
    lines = [
        f"{images['count']} images in {images['tars']} tars, {images['bytes'] / _MIB:.0f} MiB; "
        f"{result['model']['name']}; {machine['cores']} cores of {machine['processor']}; "
        f"load before {result['load_at_start']}",
    ]
    for name, one in result.get("contenders", {}).items():
        memory = one["memory"]
        peak = f"{memory['working_bytes'] / _MIB:7.0f} MiB working" if memory else ""
        rate = one["images_per_s"]
        shown = f"{rate:7.1f} images/s {peak}" if rate is not None else f"      no figure: {one['failure']}"
        lines.append(f"  {_NAMES.get(name, name):26}{shown}")
    lines += [f"{name:26}{result[name]:.3f}" for name in _RATIOS if result.get(name) is not None]
    lines += _overlap(result)
    for row in result.get("growth", {}).get("sizes", ()):
        rate, working = row["images_per_s"] or 0.0, (row["working_bytes"] or 0) / _MIB
        driver = (row["driver_bytes"] or 0) / _MIB
        lines.append(
            f"growth x {row['times']:<4} {row['images']:9} images: {rate:7.1f} images/s, "
            f"{working:.0f} MiB working, driver {driver:.0f} MiB"
        )
    lines += [*_where(result.get("where_time_goes")), *_profile(result.get("profile"))]
    lines += [*_objects(result.get("small_objects")), *_crash(result.get("crash"))]
    for goal in result["goals"]:
        met = "met" if goal["met"] else "missed"
        lines.append(f"goal {goal['name']:26}{goal['goal']:16}{goal['value']:.3f}  {met}")
    return "\n".join(lines)


def _where(found: Mapping[str, Any] | None) -> list[str]:
    """Milliseconds of a core for an image: by our stages, by who used it, and of the fastest bare loop."""
    if found is None:
        return []
    clock, used, ceiling = found["clock_ms"], found["processor_ms"], found["ceiling"] or {}
    stages = ", ".join(f"{name} {spent:.2f}" for name, spent in clock.items() if name != "whole")
    lines = [
        f"ms of a core an image: {clock['whole']:.2f} by the clock: {stages}",
        "  of the processors: " + ", ".join(f"{name} {spent:.2f}" for name, spent in used.items()),
    ]
    if ceiling:
        shown = f"{ceiling['clock_ms']:.2f} by the clock, {ceiling['processor_ms']:.2f} of the processors"
        lines.append(f"  fastest bare loop: {shown}")
    return lines


def _profile(found: Sequence[Mapping[str, Any]] | None) -> list[str]:
    rows = [f"{one['own_s']:9.3f} s {one['calls']:>9} calls  {one['function']}" for one in found or ()]
    return ["the functions of our workers that took the most time of their own:", *rows] if rows else []


def _objects(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    if "skipped" in found:
        return [f"small objects: skipped, {found['skipped']}"]
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in found["requests_per_s"].items() if rate)
    chosen = ", ".join(f"{name} {one['threads']} threads" for name, one in found["settings"].items())
    return [f"small objects: requests/s: {rates}", f"  best settings: {chosen}"]


def _crash(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    if found["failures"]:
        return [f"crash: no figure: {found['failures'][0]}"]
    return [
        f"crash: {found['units_done_twice']} of {found['tasks']} commit units done twice "
        f"({found['images_done_twice']} of {found['images']} images), {found['images_lost']} lost, "
        f"{found['ratio_to_undisturbed']:.3f} of the undisturbed speed"
    ]


def _overlap(result: Mapping[str, Any]) -> list[str]:
    found = {"decode-bound": result.get("decode_bound")}
    delayed = result.get("latency") or {}
    found.update({f"latency, {name}": delayed.get(name) for name in ("tars", "objects")})
    lines = []
    for name, one in found.items():
        if one is not None:
            rates = ", ".join(f"{key} {rate:.0f}" for key, rate in one["images_per_s"].items() if rate)
            ratio = one["ratio_to_slowest_stage"]
            shown = f"{ratio:.3f}" if ratio is not None else "none"
            cores = one["ratio_to_what_the_cores_allow"]
            lines.append(f"{name}: {shown} of the slowest stage alone ({rates} images/s)")
            lines += [] if cores is None else [f"  {cores:.3f} of what the cores allow"]
            needed = one["processor_time_needed"]
            lines += [] if needed is None else [f"  {needed:.3f} of the processor time is the stages' alone"]
    if "skipped" in delayed:
        lines.append(f"latency: skipped, {delayed['skipped']}")
    return lines
