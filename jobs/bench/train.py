"""``bitsieve bench train``: our semi-hard miner beside a library's, our loader beside PyTorch's.

Both miners, ours and pytorch-metric-learning's, list every semi-hard triplet of the same batches, and the two
sets must be equal; beside them our miner as training uses it, with one negative for each pair. One thread
each, processor time. ``loaders`` races the loaders.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.bench.machine import load, machine_facts
from jobs.output import AsJson, JsonFile, print_result, say
from jobs.train import require_torch
from pipeline.errors import DataCorrupt, UsageError, WorkerError

EXAMPLE = "Example: bitsieve bench train --batches 256,512,1800 --json"
_BATCHES, _QUICK_BATCHES = "256,512,1800", "256"
_WHO = ("ours", "ours-one-per-pair", "pytorch-metric-learning")
_LEAST_BYTES = 1 << 20  # what a process grows by is known in pages, and less is noise


def command(
    batches: Annotated[
        str | None, typer.Option(help=f"Images of each batch to mine, with commas; {_BATCHES} if absent.")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(help="What is loaded: folder or s3:// prefix of tars; a generated shop if absent."),
    ] = None,
    size: Annotated[int, typer.Option(min=16, help="Side of the pixels that are loaded.")] = 96,
    batch: Annotated[int, typer.Option(min=1, help="Images of a batch that is loaded.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of loading; medians are reported.")] = 3,
    quick: Annotated[
        bool, typer.Option("--quick", help="One small batch to mine, one short round of loading.")
    ] = False,
    output: JsonFile = None,
    as_json: AsJson = False,
) -> None:
    """The semi-hard miner against pytorch-metric-learning's, the loader against a PyTorch DataLoader."""
    require_torch()
    from jobs.bench.loaders import LoaderRace, race_loaders

    result: dict[str, Any] = {"machine": machine_facts(), "load_at_start": load(), "batches": []}
    for n_images in _sizes(batches or (_QUICK_BATCHES if quick else _BATCHES)):
        say(f"bench: mining a batch of {n_images}")
        result["batches"].append(_compared(n_images))
    last = result["batches"][-1]
    result |= {"miner_speedup": last["speedup"], "miner_memory_ratio": last["memory_ratio"]}
    say("bench: loading images")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        race = LoaderRace(
            images=images,
            size=size,
            batch=batch,
            n_batches=4 if quick else 40,
            n_products=10 if quick else 100,
            rounds=1 if quick else rounds,
            work=Path(folder),
        )
        result["loader"] = race_loaders(race)
    result["loader_ratio"] = result["loader"]["augmented"]["ratio"]
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
    measurable = max(ours["grown_bytes"], theirs["grown_bytes"]) >= _LEAST_BYTES
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
        "memory_ratio": theirs["grown_bytes"] / least if measurable else None,
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
        f"{batch['speedup']:.1f} times as fast as pytorch-metric-learning{_memory(batch)}"
        for batch in result["batches"]
    ]
    for mode in ("plain", "augmented"):
        found = result["loader"][mode]
        ours, theirs = found["ours"], found["dataloader"]
        lines.append(
            f"loading, {mode}: {ours['images_per_s']:.0f} images/s, {ours['cpu_ms']:.2f} ms of processor "
            f"each; a DataLoader {theirs['images_per_s']:.0f} and {theirs['cpu_ms']:.2f}: "
            f"{found['ratio']:.2f} times as fast"
        )
    return "\n".join(lines)


def _memory(batch: dict[str, Any]) -> str:
    ratio = batch["memory_ratio"]
    return (
        ", neither needs memory to speak of"
        if ratio is None
        else f", which needs {ratio:.1f} times the memory"
    )
