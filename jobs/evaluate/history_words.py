"""The history of a collection in words, for a terminal: a line for each night, the unusual ones said."""

from collections.abc import Sequence

from pipeline.evaluate.history import WATCHED, Night, below_target, unusual_nights

_SHOWN = 30
_BARS = " ▁▂▃▄▅▆▇█"


def history_in_words(collection: str, nights: Sequence[Night]) -> str:
    """A small drawing of each figure, the last nights line by line, and what is unusual."""
    lines = [f"{collection}: {len(nights)} nights, {nights[0].created} to {nights[-1].created}"]
    for figure, name in WATCHED.items():
        values = [getattr(night, figure) for night in nights]
        known = [value for value in values if value is not None]
        if known:
            lines.append(f"  {name:<31} {drawn(values)}  {min(known):g} to {max(known):g}")
    lines.append("  night  created                       images embedded   stale rejected  recall   seconds")
    lines += [
        f"  {night.snapshot:>5}  {night.created:<25} {night.images:>10} {night.embedded:>8} {night.stale:>7} "
        f"{night.rejected:>8}  {'' if night.recall is None else f'{night.recall:.4f}':<6} "
        f"{night.total_seconds:>9.1f}  {night.note}"
        for night in nights[-_SHOWN:]
    ]
    lines += [
        f"  unusual: night {one.snapshot}: {WATCHED[one.figure]} {one.value:g}, usually {one.usual:g}"
        for one in unusual_nights(nights)
    ]
    lines += [
        f"  night {night.snapshot}: recall {night.recall:.4f} is below its target of {night.target:g}"
        for night in below_target(nights)
    ]
    return "\n".join(lines)


def drawn(values: Sequence[float | None]) -> str:
    """One character for each value, the higher the larger; a blank where there is none.

    >>> drawn([0, 1, None, 2])
    '▁▄ █'
    """
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    spread = (high - low) or 1
    steps = len(_BARS) - 2
    return "".join(
        _BARS[0] if value is None else _BARS[1 + int(steps * (value - low) / spread)] for value in values
    )
