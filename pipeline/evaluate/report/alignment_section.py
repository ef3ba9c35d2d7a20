"""A part of the page of `evaluate verification`: crops about the centre against faces put in place."""

from collections.abc import Mapping
from typing import Any

from pipeline.evaluate.report.document import Finding, Mark, Section, Table
from pipeline.evaluate.report.words import count, percent

_CROPS = {"centre_crop": "about the centre", "five_points": "by five points"}


def alignment_finding(found: Mapping[str, Any]) -> Finding:
    """The shares that both judge rightly; ``found`` is ``alignment`` of the JSON."""
    centre, five = (_accuracy_of(found[kind]) for kind in _CROPS)
    return Finding(
        mark=Mark.NOTE,
        text=f"Faces put in place by five points are judged rightly in {percent(five)} of the pairs, crops "
        f"about the centre in {percent(centre)}.",
    )


def alignment_section(found: Mapping[str, Any]) -> Section:
    """The figures of both."""
    rates = [far for far, val in found["five_points"]["val_at_far"].items() if val["val"] is not None]
    rows = tuple(
        (
            name,
            count(found[kind]["n_pairs"]),
            _with_spread(found[kind]),
            f"{found[kind]['eer']:.4f}",
            *(_rate_of(found[kind]["val_at_far"][far]) for far in rates),
        )
        for kind, name in _CROPS.items()
    )
    columns = ("cropped", "pairs", "accuracy", "EER", *(f"VAL at FAR {far}" for far in rates))
    note = (
        f"{count(found['n_images'])} images embedded again, {count(found['n_without_landmarks'])} have no "
        f"points, {count(found['n_lost'])} could not be read. The crop about the centre has "
        f"{percent(found['centre_share'])} of the picture's short side, as the faces have in the median; the "
        "five points are moved to the template of ArcFace by turn, scale and shift."
    )
    return Section(
        title="Centre crop against five points", note=note, blocks=(Table(columns=columns, rows=rows),)
    )


def _accuracy_of(one: Mapping[str, Any]) -> float:
    return float((one["accuracy"] or one["held_out"])["mean"])


def _with_spread(one: Mapping[str, Any]) -> str:
    accuracy, held_out = one["accuracy"], one["held_out"]
    if accuracy is not None:
        return f"{accuracy['mean']:.4f}, standard error {accuracy['sem']:.4f}"
    return f"{held_out['mean']:.4f} ({held_out['low']:.4f} to {held_out['high']:.4f})"


def _rate_of(val: Mapping[str, Any]) -> str:
    return (
        "too few pairs" if val["val"] is None else f"{val['val']:.4f} ({val['low']:.4f} to {val['high']:.4f})"
    )
