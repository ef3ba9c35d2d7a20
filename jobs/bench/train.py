"""``bitsieve bench train``: the semi-hard miner beside pytorch-metric-learning's, on the same batches.

Both list every semi-hard triplet of a batch, and the two sets must be equal; beside them our miner as
training uses it, with one negative for each pair. One thread each, processor time.
"""

import json
import subprocess
import sys
from typing import Annotated, Any

import typer

from jobs.bench.machine import load, machine_facts
from jobs.output import AsJson, JsonFile, print_result, say
from jobs.train import require_torch
from pipeline.errors import DataCorrupt, UsageError, WorkerError

EXAMPLE = "Example: bitsieve bench train --batches 256,512,1800 --json"
_WHO = ("ours", "ours-one-per-pair", "pytorch-metric-learning")
_LEAST_BYTES = 1 << 20  # what a process grows by is known in pages, and less is noise


def command(
    batches: Annotated[str, typer.Option(help="Images of each batch, with commas.")] = "256,512,1800",
    output: JsonFile = None,
    as_json: AsJson = False,
) -> None:
    """The semi-hard miner against pytorch-metric-learning's: time, memory, and the same triplets."""
    require_torch()
    result: dict[str, Any] = {"machine": machine_facts(), "load_at_start": load(), "batches": []}
    for n_images in _sizes(batches):
        say(f"bench: mining a batch of {n_images}")
        result["batches"].append(_compared(n_images))
    last = result["batches"][-1]
    result |= {"miner_speedup": last["speedup"], "miner_memory_ratio": last["memory_ratio"]}
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")
    print_result(result, _in_words(result), as_json=as_json)


def _compared(n_images: int) -> dict[str, Any]:
    """One batch through each miner.

    Raises:
        DataCorrupt: they do not find the same triplets.
    """
    ours, one, theirs = (_measured(who, n_images) for who in _WHO)
    if ours["digest"] != theirs["digest"]:
        raise DataCorrupt(
            f"the miners differ on {n_images} images: {ours['triplets']} and {theirs['triplets']} triplets",
            fix="report this as a bug of bitsieve",
        )
    least = max(ours["grown_bytes"], _LEAST_BYTES)
    return {
        "images": n_images,
        "triplets": ours["triplets"],
        "pairs": one["triplets"],
        "cpu_s": {who: measured["cpu_s"] for who, measured in zip(_WHO, (ours, one, theirs), strict=True)},
        "grown_bytes": {
            who: measured["grown_bytes"] for who, measured in zip(_WHO, (ours, one, theirs), strict=True)
        },
        "speedup": theirs["cpu_s"] / ours["cpu_s"],
        "memory_ratio": theirs["grown_bytes"] / least,
    }


def _measured(who: str, n_images: int) -> dict[str, Any]:
    command_line = [sys.executable, "-m", "jobs.bench.peers.miners", who, str(n_images)]
    done = subprocess.run(  # noqa: S603 - our own interpreter and module
        command_line, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise WorkerError(f"{who} did not mine a batch of {n_images}: {reason}", fix="try smaller --batches")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 16:
        raise UsageError(f"--batches {text!r} is not a list of sizes from 16", fix="for example 256,512")
    return sizes


def _in_words(result: dict[str, Any]) -> str:
    lines = [
        f"{batch['images']:>6} images, {batch['triplets']:>9} semi-hard triplets: "
        f"{batch['speedup']:.1f} times as fast as pytorch-metric-learning, "
        f"which needs {batch['memory_ratio']:.1f} times the memory"
        for batch in result["batches"]
    ]
    return "\n".join(lines)
