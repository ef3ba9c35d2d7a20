"""Where the embedding workers' time goes, and so which stage limits them."""

from collections.abc import Mapping

_WALL = "wall"
_IN_WORDS = {"fetch_wait": "waiting for the source"}


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """The share of the workers' time that each stage took, largest first; empty before any work.

    ``seconds`` holds the time of each stage and, as ``wall``, all of the workers' time; threads of one worker
    may add up to more than that.

    >>> shares({"wall": 10.0, "decode": 6.0, "infer": 3.0})
    {'decode': 0.6, 'infer': 0.3}
    """
    wall_s = seconds.get(_WALL, 0.0)
    if not wall_s:
        return {}
    stages = ((stage, spent / wall_s) for stage, spent in seconds.items() if stage != _WALL)
    return dict(sorted(stages, key=lambda item: (-item[1], item[0])))


def limited_by(seconds: Mapping[str, float]) -> str:
    """``limited by …``, for the progress line; empty before any work."""
    stage = next(iter(shares(seconds)), None)
    return "" if stage is None else f"limited by {_in_words(stage)}"


def limit_in_words(seconds: Mapping[str, float], workers: int) -> str:
    """Which stage limited the workers and what they did with their time, as the end of a sentence.

    >>> limit_in_words({"wall": 10.0, "decode": 6.0, "infer": 3.0}, 2)
    'limited by decode: 1.2 of 2 workers (decode 60 %, infer 30 % of their time)'
    """
    found = shares(seconds)
    if not found:
        return ""
    stage, share = next(iter(found.items()))
    told = ", ".join(f"{_in_words(name)} {100 * part:.0f} %" for name, part in found.items())
    return f"limited by {_in_words(stage)}: {share * workers:.1f} of {workers} workers ({told} of their time)"


def _in_words(stage: str) -> str:
    return _IN_WORDS.get(stage, stage)
