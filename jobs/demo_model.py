"""Trains the built-in model on a generated shop: ``make demo-model``; needs the extra ``train``.

1. Photograph a shop like the demo's under another seed: none of its products is in the demo. The photos are
   kept small, because a training reads each many times.
2. Train as `bitsieve train` does, with the settings below. A run that was killed goes on.
3. Export as `bitsieve export-model` does, to the file that ships.

What came of it the demo judges: beside the fixed filters and SIFT, on products it has never seen.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.model_file import write_model
from jobs.output import say
from jobs.session import open_run
from jobs.train import in_words, require_torch, train
from pipeline.config import CatalogConfig, TrainConfig
from pipeline.images.decode import decode
from pipeline.images.degrade import recompress_jpeg
from pipeline.images.products import product_jpeg
from pipeline.model.builtin import BUILTIN_FILE
from pipeline.model.card import ModelCard
from pipeline.model.probe import probe_in_child
from pipeline.storage.open import open_store
from pipeline.values import DecodeLimits

SEED = 1
"""Of the shop and of the training; the demo's shop has 0."""
_PRODUCTS, _VIEWS = 1600, 8
_SIDE_PX, _QUALITY = 96, 92
_SETTINGS: dict[str, Any] = {
    "network": "tiny",
    "size": 64,
    "loss": "n-tuple",
    "classes": 24,
    "images": 4,
    "steps": 600,
    "validate_every": 150,
    "validation_share": 0.04,
    "learning_rate": 2e-3,
    "cpus": 1,
    # the photos of a product differ as photos do; another light would make its colour another product's
    **dict.fromkeys(("crop", "light", "jpeg", "rescale", "watermark", "flip"), 0),
}


def command(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The ONNX file, which is overwritten.")
    ] = BUILTIN_FILE,
    work: Annotated[Path, typer.Option(help="Folder for the shop and the training.")] = Path(
        "build/demo-model"
    ),
    products: Annotated[int, typer.Option(min=20, help="How many products are learned from.")] = _PRODUCTS,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of `train`, for a trial; may be repeated.")
    ] = None,
) -> None:
    """Train the built-in model and write it."""
    require_torch()
    from pipeline.train.export import export_model, load_trained

    changed = dict(one.split("=", 1) for one in settings or [])
    config = CatalogConfig(
        source=str(work / "shop"),
        store=str(work / "store"),
        label="@folder",
        train=TrainConfig.model_validate({**_SETTINGS, "seed": SEED, **changed}),
    )
    say(f"photographing {products} products, {_VIEWS} times each")
    _photograph(work / "shop", products)
    with open_run(config) as run:
        result = train(run, "@folder")
        run.ended = result["stopped"]
    say(in_words(result))
    trained = load_trained(open_store(config.store), result["training"])
    exported = export_model(trained, _card(trained.settings.dim, products))
    probe_in_child(exported.data, output.name)
    write_model(output, exported.data)
    say(f"wrote {output} ({len(exported.data)} bytes): {json.dumps(result['validation'])}")


def _photograph(shop: Path, products: int) -> None:
    """A folder of photos for each product; what an earlier run has taken stays."""
    for product in range(products):
        folder = shop / f"p{product:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        for view in range(_VIEWS):
            photo = folder / f"v{view:02d}.jpg"
            if not photo.exists():
                write_model(photo, _small(product_jpeg(product, view, SEED)))


def _small(jpeg: bytes) -> bytes:
    image = decode(jpeg, DecodeLimits())
    factor = _SIDE_PX / min(image.size)
    width_px, height_px = (round(side * factor) for side in image.size)
    return recompress_jpeg(image.resize((width_px, height_px)), _QUALITY)


def _card(dim: int, products: int) -> ModelCard:
    return ModelCard(
        name="bitsieve-builtin",
        version="2",
        dim=dim,
        normalised=True,
        license="Apache-2.0",
        output="embedding",
        train_data=f"a generated shop of {products} products, {_VIEWS} photos each, seed {SEED}",
    )


if __name__ == "__main__":
    typer.run(command)
