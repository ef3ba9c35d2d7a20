"""``bitsieve model sift``: a classical model to compare with, fitted on a catalog without labels."""

import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from jobs.evaluate.embedded_sample import image_batches
from jobs.model_file import write_model
from jobs.output import AsJson, print_result
from jobs.place import Collection, Config, Store, find_place
from pipeline.errors import SourceError, UsageError
from pipeline.images.decode import ImageRejected, quiet_decoder_warnings
from pipeline.images.preprocess import load_pixels
from pipeline.index.sample import seeded_order
from pipeline.model.file import read_model
from pipeline.model.sift import build_descriptor_model, least_size_px
from pipeline.model.sift_fit import Pixels, fit_sift
from pipeline.snapshot.open import OpenSnapshot
from pipeline.values import DecodeLimits, Preprocess


def command(
    store: Store,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the model.")],
    images: Annotated[int, typer.Option(min=16, help="How many images to fit on.")] = 600,
    words: Annotated[int, typer.Option(min=16, max=20_000, help="Visual words.")] = 1_000,
    dim: Annotated[int, typer.Option(min=8, max=4_096, help="Length of the vectors.")] = 128,
    size: Annotated[int, typer.Option(max=1_024, help="Side of the input in pixels.")] = 224,
    seed: Annotated[int, typer.Option(help="Draws other images and words.")] = 0,
    collection: Collection = None,
    config: Config = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fit SIFT and a bag of visual words on a published collection; the model is an ONNX file like any other.

    Example: bitsieve model sift --store index/ -o sift.onnx
    """
    if out.exists() and not force:
        raise UsageError(f"{out} exists already", "choose another -o, or add --force")
    if size < least_size_px():
        raise UsageError(
            f"an input of {size} pixels has no place for a descriptor", f"--size {least_size_px()}"
        )
    snapshot = find_place(store, collection, config).snapshot(None)
    data, n_fitted_on = sift_of(snapshot, images=images, words=words, dim=dim, size=size, seed=seed)
    write_model(out, data)
    result: dict[str, Any] = {
        "file": str(out),
        "bytes": len(data),
        "model_id": read_model(data, str(out)).model_id,
        "images": n_fitted_on,
        "words": words,
        "dim": dim,
        "size": size,
        "seed": seed,
    }
    said = f"wrote {out} ({len(data)} bytes), fitted on {n_fitted_on} images\nmodel id {result['model_id']}"
    print_result(result, said, as_json=as_json)


def sift_of(
    snapshot: OpenSnapshot, *, images: int, words: int, dim: int, size: int, seed: int
) -> tuple[bytes, int]:
    """SIFT and a bag of visual words, fitted on so many images of a snapshot; how many of them were there.

    Raises:
        SourceError: none of them is in the source.
        UsageError: they are too few, or show too little.
    """
    ids = snapshot.live["image_id"].to_pylist()
    drawn = [ids[row] for row in np.argsort(seeded_order(ids, seed), kind="stable")[:images].tolist()]
    prepared = _prepared(snapshot, drawn, read_model(build_descriptor_model(size), "sift").preprocess)
    data = fit_sift(prepared, n_words=words, dim=dim, seed=seed, threads=os.cpu_count() or 1)
    return data, len(prepared)


def _prepared(snapshot: OpenSnapshot, ids: list[str], spec: Preprocess) -> list[Pixels]:
    """What the model sees of the images that the source still has, in the order of their ids."""
    quiet_decoder_warnings()
    found: dict[str, Pixels] = {}
    for names, blocks in image_batches(snapshot, ids):
        for name, data in zip(names, blocks, strict=True):
            try:
                pixels = load_pixels(data, spec, DecodeLimits()).pixels
            except ImageRejected:
                continue
            found[name] = pixels.astype(np.uint8)
    if not found:
        raise SourceError(
            f"none of {len(ids)} images could be read from {snapshot.manifest.source.uri}",
            fix="check that the source is still there",
        )
    return [found[name] for name in sorted(found)]
