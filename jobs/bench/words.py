"""The result of ``bench embed`` for people."""

from collections.abc import Mapping
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
    for row in result.get("growth", ()):
        rate, working = row["images_per_s"] or 0.0, (row["working_bytes"] or 0) / _MIB
        driver = (row["driver_bytes"] or 0) / _MIB
        lines.append(
            f"growth x {row['times']:<4} {row['images']:9} images: {rate:7.1f} images/s, "
            f"{working:.0f} MiB working, driver {driver:.0f} MiB"
        )
    return "\n".join(lines)


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
            lines.append(f"{name}: {shown} of the slowest stage alone ({rates} images/s)")
    if "skipped" in delayed:
        lines.append(f"latency: skipped, {delayed['skipped']}")
    return lines
