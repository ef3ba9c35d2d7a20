"""``bitsieve export-model``: a training's best network as an ONNX file, proven before it is written."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.model_file import write_model
from jobs.output import AsJson, print_result
from jobs.place import Config, Store, find_place
from jobs.run import utc_now
from jobs.train import require_torch
from pipeline.errors import UsageError
from pipeline.model.card import ModelCard, SetApart
from pipeline.model.probe import probe_in_child


def command(
    training: Annotated[str, typer.Argument(help="The key that `bitsieve train` printed, or its beginning.")],
    store: Store,
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write the ONNX file.")],
    name: Annotated[str, typer.Option(help="What people call the model.")],
    license_: Annotated[str, typer.Option("--license", help="Licence of the weights; never guessed.")],
    version: Annotated[str, typer.Option(help="Version of the model.")] = "1",
    train_data: Annotated[str, typer.Option(help="What it was trained on.")] = "",
    half: Annotated[bool, typer.Option("--half", help="Weights and arithmetic in float16.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Write a trained network as an ONNX file that `reindex` takes as it is.

    Pixels go in as they are; normalisation and unit length are inside. The file is compared with the network,
    in batches of 1, 2 and 7, before it is written.

    Example: bitsieve export-model 5f0c2a --store models/ -o shoes.onnx --name shoes --license MIT
    """
    if out.exists() and not force:
        raise UsageError(f"{out} exists already", "choose another -o, or add --force")
    require_torch()
    from pipeline.train.export import export_model, load_trained
    from pipeline.train.results import find_training

    place = find_place(store, None, config).open()
    key = find_training(place, training)
    trained = load_trained(place, key)
    card = ModelCard(
        name=name,
        version=version,
        dim=trained.settings.dim,
        normalised=True,
        license=license_,
        output="embedding",
        train_data=train_data or f"training {key[:16]}",
        created=f"{utc_now():%Y-%m-%d}",
    )
    older = trained.result["older"]
    if older is not None and older["accepted"]:
        apart = SetApart(label=older["label"], seed=trained.settings.seed, up_to=older["up_to"])
        card = card.model_copy(update={"compatible_with": (older["model_id"],), "set_apart": apart})
    exported = export_model(trained, card, half=half)
    tried = probe_in_child(exported.data, name)
    write_model(out, exported.data)
    result = {
        "file": str(out),
        "bytes": len(exported.data),
        "model_id": tried.model_id,
        "training": key,
        "dim": tried.dim,
        "precision": "float16" if half else "float32",
        "parity": {
            "least_cosine": exported.parity.least_cosine,
            "length_error": exported.parity.length_error,
        },
        "validation": trained.result["validation"],
        "compatible_with": list(card.compatible_with),
    }
    words = (
        f"wrote {out} ({len(exported.data)} bytes), {tried.dim} values of length {tried.norm:.4g}\n"
        f"model id {tried.model_id}\n"
        f"least cosine with the trained network {exported.parity.least_cosine:.7f}"
        + "".join(f"\ncomparable with vectors of model {one}" for one in card.compatible_with)
    )
    print_result(result, words, as_json=as_json)
