"""``bitsieve search``: the images of a snapshot that are nearest to given images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer

from jobs.models import stored_model
from jobs.output import print_result, say, visible
from jobs.session import open_snapshot
from pipeline.embed.query import embed_files
from pipeline.errors import UsageError
from pipeline.model.session import EmbeddingSession
from pipeline.snapshot.open import OpenSnapshot


def command(
    images: Annotated[list[Path], typer.Argument(help="Query images, or folders of them.")],
    store: Annotated[str, typer.Option(help="Folder or s3:// prefix of the store.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many matches for each query.")] = 10,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare every vector instead of candidates.")
    ] = False,
    collection: Annotated[str, typer.Option(help="Collection in the store.")] = "main",
    sequence: Annotated[int | None, typer.Option("--snapshot", help="An earlier snapshot.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """The images nearest to the given ones; the model comes from the store.

    Example: bitsieve search query.jpg --store index/ -k 5
    """
    result = search_images(open_snapshot(store, collection, sequence), expand(images), k, exact=exact)
    if result["warning"]:
        say(f"bitsieve: warning: {result['warning']}")
    print_result(result, _in_words(result), as_json=as_json)


def search_images(snapshot: OpenSnapshot, files: Sequence[Path], k: int, *, exact: bool) -> dict[str, Any]:
    """Embeds ``files`` with the snapshot's model and searches; the JSON that scripts rely on."""
    model, data = stored_model(snapshot.store, snapshot.content.model.id)
    with EmbeddingSession(data, where=model.card.name) as session:
        xq_QD = embed_files(session, files)
    found = snapshot.searcher.search(xq_QD, k, exact=exact)
    labels = labels_of(snapshot, sorted({image_id for ids in found.ids for image_id in ids}))
    results = [
        {
            "query": str(file),
            "matches": [
                {"id": image_id, "distance": distance, "label": labels.get(image_id)}
                for image_id, distance in zip(ids, distances, strict=True)
            ],
        }
        for file, ids, distances in zip(files, found.ids, found.distances, strict=True)
    ]
    return {
        "snapshot": snapshot.manifest.sequence,
        "method": found.method,
        "candidates": found.candidates,
        "warning": found.warning,
        "results": results,
    }


def labels_of(snapshot: OpenSnapshot, ids: Sequence[str], label: str | None = None) -> dict[str, str]:
    """The label of each image that has one, as text.

    Raises:
        UsageError: the catalog has no such attribute.
    """
    column = label or snapshot.manifest.source.label
    if column is None:
        return {}
    table = snapshot.attributes
    if column not in table.schema.names:
        known = ", ".join(name for name in table.schema.names if name not in ("image_id", "locator"))
        raise UsageError(
            f"the catalog has no attribute {column!r}", fix=f"its attributes are: {known or 'none'}"
        )
    rows = table.filter(pc.is_in(table["image_id"], value_set=pa.array(ids, type=pa.string())))
    pairs = zip(rows["image_id"].to_pylist(), rows[column].to_pylist(), strict=True)
    return {image_id: str(value) for image_id, value in pairs if value is not None}


def expand(paths: Sequence[Path]) -> list[Path]:
    """Files as they are, folders as the files in them, sorted by name."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.is_file())
            if not inside:
                raise UsageError(
                    f"the folder {path} holds no query images", fix="name files, or another folder"
                )
            files.extend(inside)
        else:
            files.append(path)
    return files


def _in_words(result: dict[str, Any]) -> str:
    lines = []
    for query in result["results"]:
        lines.append(f"{visible(query['query'])}  (snapshot {result['snapshot']}, {result['method']})")
        for rank, match in enumerate(query["matches"], start=1):
            label = f"  {visible(match['label'])}" if match["label"] is not None else ""
            lines.append(f"  {rank:>3}  {match['distance']:.4f}  {visible(match['id'])}{label}")
    return "\n".join(lines)
