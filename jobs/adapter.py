"""``bitsieve adapter``: lets queries of a new model search a snapshot of an old one, where that was measured.

Both models have embedded the same images: two collections of one store, or a collection and a Parquet file
of vectors as ``export`` writes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from jobs.evaluate.subject import labelled_vectors, named_snapshot
from jobs.models import stored_model
from jobs.output import print_result, say
from jobs.place import Config, Place, Store, find_place
from pipeline.errors import GateRefused, UsageError
from pipeline.evaluate.adaptation import LEAST_SHARE, Pairs, fit_adapter, judge_unmapped
from pipeline.fingerprint import sha256_hex
from pipeline.model.adapter_file import Adapter, Figure, MatrixRow, Side, packed, read_adapters, write_adapter
from pipeline.snapshot.open import OpenSnapshot
from pipeline.storage import layout


class Method(StrEnum):
    """How an adapter comes about."""

    AUTO = "auto"
    NONE = "none"


app = typer.Typer(help="Fit and list adapters between model versions.", no_args_is_help=True)

_ID, _VECTOR, _MODEL = "image_id", "embedding", b"bitsieve.model_id"
_NORM_TOLERANCE = 1e-3
_ROWS_PER_DIM = 10
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


@app.command("fit")
def fit_command(
    store: Store,
    new: Annotated[
        str, typer.Option("--from", help="COLLECTION[@SEQUENCE] of the new model, or a Parquet file.")
    ],
    old: Annotated[str, typer.Option("--to", help="COLLECTION[@SEQUENCE] that is to be searched.")],
    label: Annotated[
        str | None, typer.Option(help="Attribute of the old collection; its label if absent.")
    ] = None,
    method: Annotated[
        Method,
        typer.Option(help="`auto` fits a map; `none` judges a model trained --compatible-with the old."),
    ] = Method.AUTO,
    least_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of what old queries reach; less is refused.")
    ] = LEAST_SHARE,
    seed: Annotated[int, typer.Option(help="Of the split into images to fit on and to judge by.")] = 0,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Fits a map from new vectors to old ones, judges it on images kept back, and keeps it in the store.

    With `--method none` nothing is fitted: a model that was trained to be comparable is judged as it is.

    Example: bitsieve adapter fit --store index/ --from canary --to main
    """
    place = find_place(store, None, config)
    target = named_snapshot(place, old)
    source = _source(place, new)
    column = label.removeprefix("@") if label else target.manifest.source.label
    old_model = target.content.model
    if source.side.model_id == old_model.id:
        raise UsageError(
            f"{new} and {old} are both of model {old_model.id[:12]}, which needs no adapter",
            fix="name what a new model has embedded with --from",
        )
    pairs = _pairs(source, target, column)
    n_common, dim = len(pairs.ids), source.side.dim
    fitted = (
        fit_adapter(pairs, least_share, seed)
        if method is Method.AUTO
        else judge_unmapped(pairs, _unseen(pairs, source.side, target, column), least_share, seed)
    )
    if method is Method.AUTO and fitted.n_fitted < _ROWS_PER_DIM * dim:
        say(
            f"bitsieve: warning: {fitted.n_fitted} images to fit {dim} dimensions on; "
            f"{_ROWS_PER_DIM * dim} or more make a better adapter"
        )
    adapter = Adapter(
        source=source.side,
        target=Side(
            model_id=old_model.id, name=old_model.name, dim=old_model.dim, vectors=target.manifest.digest
        ),
        method=fitted.method,
        penalty=fitted.penalty,
        seed=seed,
        label=column,
        n_common=n_common,
        n_fitted=fitted.n_fitted,
        n_judged=fitted.n_judged,
        least_share=least_share,
        accepted=fitted.accepted,
        verdict=fitted.verdict,
        compatible=fitted.compatible,
        matrix=list(fitted.matrix),
        weights=packed(fitted.map),
    )
    key = write_adapter(target.store, adapter)
    if not adapter.accepted:
        raise GateRefused(
            f"adapter {adapter.digest[:12]} loses too much: {adapter.verdict}",
            fix="search with the old model, fit on more images, or embed the collection with the new model",
        )
    print_result({"key": key, **_facts(adapter)}, "\n".join(_in_words(adapter)), as_json=as_json)


@app.command("list")
def list_command(store: Store, config: Config = None, as_json: Json = False) -> None:
    """All adapters of a store, and what queries of each version reach on each base.

    Example: bitsieve adapter list --store index/
    """
    adapters = read_adapters(find_place(store, None, config).open())
    lines = [line for one in adapters for line in _in_words(one)]
    print_result(
        {"adapters": [_facts(one) for one in adapters]},
        "\n".join(lines) or "the store has no adapter yet",
        as_json=as_json,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Embedded:
    """Images that the new model has embedded."""

    side: Side
    ids: Sequence[str]
    x_ND: npt.NDArray[np.float32]


def _source(place: Place, which: str) -> _Embedded:
    if which.lower().endswith(".parquet"):
        return _from_file(Path(which))
    snapshot = named_snapshot(place, which)
    model = snapshot.content.model
    side = Side(model_id=model.id, name=model.name, dim=model.dim, vectors=snapshot.manifest.digest)
    return _Embedded(side=side, ids=snapshot.live[_ID].to_pylist(), x_ND=snapshot.vectors)


def _from_file(path: Path) -> _Embedded:
    """Vectors as ``export`` writes them.

    Raises:
        UsageError: the file cannot be read, does not say its model, or holds anything but unit vectors.
    """
    try:
        data = path.read_bytes()
        table = pq.read_table(pa.BufferReader(data), columns=[_ID, _VECTOR])
        vectors = table[_VECTOR].combine_chunks()
        dim = len(vectors[0])
        flat = vectors.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
        x_ND = flat.reshape(len(vectors), dim)
    except (OSError, pa.ArrowException, KeyError, IndexError, ValueError, TypeError) as exc:
        raise UsageError(
            f"{path} is no table of vectors: {exc}", fix="make one with `bitsieve export`"
        ) from exc
    model_id = (table.schema.metadata or {}).get(_MODEL, b"").decode()
    if not model_id:
        raise UsageError(
            f"{path} does not say which model its vectors are of",
            fix="make it with `bitsieve export`, or write its id under the file's key bitsieve.model_id",
        )
    ids = [str(one) for one in table[_ID].to_pylist()]
    off = np.abs(np.linalg.norm(x_ND.astype(np.float64), axis=1) - 1)
    if not (off <= _NORM_TOLERANCE).all() or len(set(ids)) != len(ids):
        raise UsageError(
            f"{path} holds vectors that are not of length 1, or an image twice",
            fix="make it with `bitsieve export`",
        )
    side = Side(model_id=model_id, name=path.name, dim=dim, vectors=sha256_hex(data))
    return _Embedded(side=side, ids=ids, x_ND=x_ND)


def _pairs(source: _Embedded, target: OpenSnapshot, column: str | None) -> Pairs:
    """The images that both have, in the order of ids."""
    old = labelled_vectors(target, column)
    bytes_of = target.live["content_digest"].to_pylist()
    old_row = {image_id: row for row, image_id in enumerate(old.ids)}
    new_row = {image_id: row for row, image_id in enumerate(source.ids)}
    ids = sorted(old_row.keys() & new_row.keys())
    old_N = np.array([old_row[one] for one in ids], dtype=np.int64)
    new_N = np.array([new_row[one] for one in ids], dtype=np.int64)
    labels = [old.labels[row] for row in old_N.tolist()]
    groups = [
        f"bytes {bytes_of[row]}" if name is None else f"label {name}"
        for row, name in zip(old_N.tolist(), labels, strict=True)
    ]
    return Pairs(
        ids=ids,
        new_NS=source.x_ND[new_N],
        old_NT=old.x_ND[old_N],
        groups=groups,
        labels=None if column is None else labels,
    )


def _unseen(pairs: Pairs, new: Side, target: OpenSnapshot, column: str | None) -> npt.NDArray[np.int64]:
    """The rows of classes that the training of the new model did not see, by what its file says.

    Raises:
        UsageError: its file does not say that it was trained to be comparable with the old model, or was
            trained by another label.
    """
    if target.store.stat(layout.model(new.model_id)) is None:
        raise UsageError(
            f"{target.store.uri} does not have model {new.model_id[:12]}, which says what it was trained on",
            fix="embed the images with it in a collection of this store",
        )
    model, _ = stored_model(target.store, new.model_id, target.cache)
    apart, old_id = model.card.set_apart, target.content.model.id
    if apart is None or old_id not in model.card.compatible_with:
        raise UsageError(
            f"model {new.model_id[:12]} was not trained to be comparable with {old_id[:12]}, or not accepted",
            fix="leave --method away: that fits a map; or see `bitsieve train --compatible-with`",
        )
    if column != apart.label:
        raise UsageError(
            f"the model was trained by the label {apart.label!r}, this would judge it by {column!r}: which "
            "images it has seen cannot be told",
            fix=f"pass --label {apart.label}",
        )
    names = pairs.labels or ()
    unseen = [row for row, name in enumerate(names) if name is not None and apart.has(name)]
    return np.array(unseen, dtype=np.int64)


def _facts(adapter: Adapter) -> dict[str, Any]:
    return {"adapter": adapter.digest, **adapter.model_dump(mode="json", exclude={"weights"})}


def _in_words(adapter: Adapter) -> list[str]:
    """One adapter: where from and to, whether it may be used, and its matrix of versions."""
    how = adapter.method if adapter.penalty is None else f"{adapter.method} {adapter.penalty:g}"
    return [
        f"{adapter.digest[:12]}  {'accepted' if adapter.accepted else 'REFUSED '}  "
        f"{adapter.source.name} {adapter.source.model_id[:12]} -> "
        f"{adapter.target.name} {adapter.target.model_id[:12]}  {how}, "
        + (f"fitted on {adapter.n_fitted:,} images, " if adapter.n_fitted else "")
        + f"judged by {adapter.n_judged:,} others",
        f"    {adapter.verdict}",
        *matrix_in_words(adapter.matrix),
    ]


def matrix_in_words(matrix: Sequence[MatrixRow]) -> list[str]:
    """A table: what queries of each version reach on each base."""
    return [
        "    queries  base   recall@1  recall@10  neighbours@10  success@1",
        *(_row_in_words(row) for row in matrix),
    ]


def _row_in_words(row: MatrixRow) -> str:
    def cell(figure: Figure | None, width: int) -> str:
        return f"{'-' if figure is None else f'{figure.mean:.4f}':>{width}}"

    return (
        f"    {row.query:<8} {row.base:<5} {cell(row.recall_at_1, 9)} {cell(row.recall_at_10, 10)} "
        f"{cell(row.neighbours_at_10, 14)} {cell(row.success_at_1, 10)}"
    )
