"""``bitsieve model``: shows what a model file says about itself, and adds what it does not say."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs import sift
from jobs.model_file import write_model
from jobs.output import AsJson, print_result, say
from pipeline.errors import ModelError, UsageError
from pipeline.model.card import ModelCard, card_from_values, preprocess_from_values
from pipeline.model.described import show_shape
from pipeline.model.file import (
    choose_output,
    image_input,
    inspect_graph,
    output_dim,
    read_model,
    wrap_model,
)
from pipeline.model.graph import GraphFacts, TensorFacts
from pipeline.model.presets import Preset, preset_input
from pipeline.model.probe import probe_in_child
from pipeline.values import Preprocess

app = typer.Typer(help="Shows, wraps and makes ONNX models.", no_args_is_help=True)
app.command("sift")(sift.command)

_WRAP_EXAMPLE = (
    "Example: bitsieve model wrap net.onnx -o faces.onnx --name faces --size 112 --resize shortest "
    "--scale 1 --mean 0,0,0 --std 1,1,1 --normalised --license Apache-2.0"
)


@app.command(epilog="Example: bitsieve model show faces.onnx")
def show(
    file: Annotated[Path, typer.Argument(help="A wrapped ONNX file.", metavar="FILE")],
    as_json: AsJson = False,
) -> None:
    """Show what a model is, how it wants its input, and its id.

    Runs nothing. A file without metadata is refused with the command that adds them.
    """
    data = _read(file)
    model = read_model(data, str(file))
    facts = inspect_graph(data, str(file))
    result = {
        "file": str(file),
        "bytes": len(data),
        "model_id": model.model_id,
        "model": _card(model.card),
        "preprocess": asdict(model.preprocess),
        "inputs": [asdict(tensor) for tensor in facts.inputs],
        "outputs": [asdict(tensor) for tensor in facts.outputs],
        "opset": facts.opset,
        "producer": facts.producer,
    }
    print_result(result, _shown(result, facts), as_json=as_json)


@app.command(epilog=_WRAP_EXAMPLE)
def wrap(
    src: Annotated[Path, typer.Argument(help="An ONNX file.", metavar="SRC")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the wrapped file.")],
    name: Annotated[str, typer.Option(help="What people call the model.")],
    size: Annotated[str, typer.Option(help="Input side in pixels, S or HEIGHTxWIDTH.")],
    resize: Annotated[str, typer.Option(help="shortest, longest, squash or none.")],
    scale: Annotated[float, typer.Option(help="X of (value * X - mean) / std; values are 0..255.")],
    mean: Annotated[str, typer.Option(help="R,G,B after scaling.")],
    std: Annotated[str, typer.Option(help="R,G,B after scaling.")],
    license_: Annotated[str, typer.Option("--license", help="Licence of the weights; never guessed.")],
    normalised: Annotated[bool, typer.Option("--normalised", help="The graph gives unit vectors.")] = False,
    output: Annotated[str | None, typer.Option(help="Which output, where there are several.")] = None,
    resize_to: Annotated[
        int | None, typer.Option(help="Side of the resize; default size / crop-pct.")
    ] = None,
    interpolation: Annotated[str, typer.Option(help="bilinear, bicubic, lanczos …")] = "bilinear",
    antialias: Annotated[bool, typer.Option(help="Average when shrinking, or pick points.")] = True,
    crop: Annotated[str, typer.Option(help="center or none.")] = "center",
    crop_pct: Annotated[float, typer.Option(help="Part of the resized side that the crop keeps.")] = 1.0,
    pad_value: Annotated[int, typer.Option(help="0..255, where a picture is smaller than the input.")] = 0,
    channel_order: Annotated[str, typer.Option(help="RGB or BGR.")] = "RGB",
    draft: Annotated[int, typer.Option(help="Let JPEG shrink to this many times the resize; 0: off.")] = 0,
    align: Annotated[str | None, typer.Option(help="arcface5: images must already be aligned so.")] = None,
    dim: Annotated[int | None, typer.Option(help="Vector length, where the file does not say.")] = None,
    version: Annotated[str, typer.Option(help="Version of the model.")] = "1",
    train_data: Annotated[str, typer.Option(help="What it was trained on.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a copy of an ONNX model that says how it wants its input, and try it on one image.

    A pixel becomes (value * scale - mean) / std. The graph and its weights stay as they are.
    """
    if out.exists() and not force:
        raise UsageError(f"{out} exists already", "choose another -o, or add --force")
    data = _read(src)
    facts = inspect_graph(data, str(src))
    tensor = image_input(facts, str(src))
    chosen = choose_output(facts, output, str(src))
    spec = preprocess_from_values(
        {
            "size": _size(size),
            "resize": resize,
            "resize_to": resize_to,
            "interpolation": interpolation,
            "antialias": antialias,
            "crop": crop,
            "crop_pct": crop_pct,
            "pad_value": pad_value,
            "channel_order": channel_order,
            "scale": scale,
            "mean": _triple(mean, "--mean"),
            "std": _triple(std, "--std"),
            "layout": _layout(tensor),
            "dtype": tensor.dtype,
            "draft": draft,
            "align": align,
        }
    )
    card = card_from_values(
        {
            "name": name,
            "version": version,
            "dim": _dim(data, chosen, dim, str(src)),
            "normalised": normalised,
            "license": license_,
            "output": chosen.name,
            "train_data": train_data,
        }
    )
    result = _wrap_and_write(data, card, spec, out)
    print_result(result, _wrapped_in_words(result), as_json=as_json)


@app.command(
    "import", epilog="Example: bitsieve model import w600k.onnx -o faces.onnx --preset arcface --license L"
)
def import_(
    src: Annotated[Path, typer.Argument(help="An ONNX file.", metavar="SRC")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the wrapped file.")],
    preset: Annotated[Preset, typer.Option(help="The family it is of.")],
    license_: Annotated[str, typer.Option("--license", help="Licence of the weights; never guessed.")],
    name: Annotated[str | None, typer.Option(help="What people call the model; the file's name.")] = None,
    size: Annotated[str | None, typer.Option(help="S or HEIGHTxWIDTH, where the file does not say.")] = None,
    output: Annotated[str | None, typer.Option(help="Which output, where there are several.")] = None,
    dim: Annotated[int | None, typer.Option(help="Vector length, where the file does not say.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a copy of a well-known kind of ONNX model with the preprocessing of its family, and try it."""
    if out.exists() and not force:
        raise UsageError(f"{out} exists already", "choose another -o, or add --force")
    data = _read(src)
    spec = preset_input(data, str(src), preset, None if size is None else _size(size))
    chosen = choose_output(inspect_graph(data, str(src)), output, str(src))
    card = card_from_values(
        {
            "name": name or src.stem,
            "dim": _dim(data, chosen, dim, str(src)),
            "normalised": False,
            "license": license_,
            "output": chosen.name,
        }
    )
    result = _wrap_and_write(data, card, spec, out)
    print_result(result, _wrapped_in_words(result), as_json=as_json)


def _wrap_and_write(data: bytes, card: ModelCard, spec: Preprocess, out: Path) -> dict[str, Any]:
    wrapped = wrap_model(data, card, spec)
    tried = probe_in_child(wrapped, card.name)
    write_model(out, wrapped)
    for note in tried.notes:
        say(f"warning: {note}")
    return {
        "file": str(out),
        "bytes": len(wrapped),
        "model_id": tried.model_id,
        "model": _card(card),
        "preprocess": asdict(spec),
        "probe": {"dim": tried.dim, "norm": tried.norm, "ms": round(tried.run_ms, 3)},
        "notes": list(tried.notes),
    }


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        raise ModelError(f"cannot read the model {path}: {reason}", "give the path of an ONNX file") from exc


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(
            f"--size must be S or HEIGHTxWIDTH in pixels, got {text!r}", "for example --size 224"
        )
    return int(parts[0]), int(parts[-1])


def _triple(text: str, option: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError as exc:
        raise UsageError(f"{option} must be three numbers R,G,B, got {text!r}", f"{option} 0,0,0") from exc
    return red, green, blue


def _layout(tensor: TensorFacts) -> str:
    shape = tensor.shape or ()
    return "NHWC" if shape[-1] == 3 and shape[1] != 3 else "NCHW"


def _dim(data: bytes, output: TensorFacts, given: int | None, where: str) -> int:
    dim = given or output_dim(data, output.name, where)
    if dim is None:
        shown = f"{output.name!r} is {show_shape(output.shape)}"
        raise ModelError(f"{where} does not say how long its vectors are: {shown}", "say it: --dim D")
    return dim


def _card(card: ModelCard) -> dict[str, Any]:
    return card.model_dump(mode="json", by_alias=True)


def _shown(result: Mapping[str, Any], facts: GraphFacts) -> str:
    card, spec = result["model"], result["preprocess"]
    lines = [
        f"{card['name']} {card['version']}, {card['license']}",
        f"model id   {result['model_id']}",
        *(f"input      {tensor.name} {tensor.dtype} {show_shape(tensor.shape)}" for tensor in facts.inputs),
        *(_output_line(tensor, card["output"]) for tensor in facts.outputs),
        f"vectors    {card['dim']}-d, {'unit length' if card['normalised'] else 'normalised afterwards'}",
        "preprocess " + ", ".join(f"{key} {_short(value)}" for key, value in spec.items() if key != "schema"),
        f"file       {result['bytes']} bytes, opset {facts.opset}, {facts.producer or 'unknown producer'}",
    ]
    return "\n".join(lines)


def _output_line(tensor: TensorFacts, used: str) -> str:
    return f"output     {tensor.name} {show_shape(tensor.shape)}{'  (used)' if tensor.name == used else ''}"


def _short(value: object) -> str:
    return ",".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)


def _wrapped_in_words(result: Mapping[str, Any]) -> str:
    tried = result["probe"]
    return (
        f"wrote {result['file']} ({result['bytes']} bytes)\nmodel id {result['model_id']}\n"
        f"one image: {tried['dim']} values, length {tried['norm']:.4g}, {tried['ms']:.1f} ms"
    )
