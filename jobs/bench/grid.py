"""The settings that are tried for each peer and for the ceiling on a part of the images; the best one races.

Ours is not tuned: it runs with its defaults. ``cores`` is what the machine gives: every contender may use
all of them and no more.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Settings = Mapping[str, Any]

_BATCHES = (1, 8, 32)


def ceiling_grid(cores: int) -> dict[str, Sequence[Settings]]:
    """Bare processes: one with as many inference threads as cores, and one process with one for each core.

    The inference threads of one process either share the work of one run (``intra``) or run images side by
    side in the same session (``streams``), each decoding its own.
    """
    side_by_side = [{"processes": 1, "streams": cores, "intra": 1, "batch": batch} for batch in _BATCHES]
    together = [{"processes": 1, "streams": 1, "intra": cores, "batch": batch} for batch in _BATCHES]
    decoding_beside = [{"processes": 1, "streams": cores, "intra": cores, "batch": 8}]
    return {
        "one_process": [*side_by_side, *together, *decoding_beside],
        "a_process_per_core": [
            {"processes": cores, "streams": 1, "intra": 1, "batch": batch} for batch in _BATCHES
        ],
    }


def ray_data_grid(cores: int) -> Sequence[Settings]:
    """Ray Data: batch size, actors, and where the images are decoded.

    Reading tasks and actors share the cores: Ray Data stands still if the actors take them all.
    """
    small, every = {"actors": 1, "threads": cores}, {"actors": cores, "threads": 1}
    shared = {"read_cpus": 0.5, "actor_cpus": 0.5}
    alone = {"read_cpus": 1, "actor_cpus": max(0.5, (cores - 1) / cores)}
    return [
        {**every, **shared, "decode": "actor", "batch": 64},
        {**every, **shared, "decode": "actor", "batch": 8},
        {**every, **shared, "decode": "actor", "batch": 256},
        {**small, **alone, "decode": "actor", "batch": 64},
        {**every, **shared, "decode": "map", "batch": 64},
        {**small, "threads": 1, **alone, "decode": "map", "batch": 64},
        {**small, "threads": 1, **alone, "decode": "map", "batch": 256},
    ]


def dataloader_grid(cores: int) -> Sequence[Settings]:
    """The DataLoader: decoding workers, batch size, inference threads of the main process."""
    return [
        {"workers": cores, "batch": 64, "threads": 1},
        {"workers": cores, "batch": 8, "threads": 1},
        {"workers": cores, "batch": 64, "threads": cores},
        {"workers": max(1, cores - 1), "batch": 64, "threads": max(1, cores - 1)},
        {"workers": max(1, cores - 1), "batch": 8, "threads": cores},
        {"workers": 0, "batch": 64, "threads": cores},
    ]


def objects_grid(cores: int) -> dict[str, tuple[Settings, ...]]:
    """Requests on their way at once, in each process, for bare boto3 and for our own store."""
    one, spread = (16, 4, 8, 32, 64), (8, 4, 16, 32)
    return {
        "boto3, one process": tuple({"processes": 1, "threads": threads} for threads in one),
        "boto3, a process per core": tuple({"processes": cores, "threads": threads} for threads in spread),
        "our store, one process": tuple({"processes": 1, "threads": threads} for threads in one),
    }
